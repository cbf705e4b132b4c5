"""The runs that pages here are of, trained once, and a browser, started once."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

import browser
from manyview.compare.intervals import paired
from pages_of_runs import SIAMESE, TIED, trained


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A run with a classifier and one without."""
    top = tmp_path_factory.mktemp("runs")
    return {"tied": trained(TIED, top / "tied"), "siamese": trained(SIAMESE, top / "siamese")}


@pytest.fixture(scope="session")
def compared(runs, tmp_path_factory):
    """A comparison of two recipes with two seeds, as `compare` leaves it (tests/compare holds it to that)."""
    top = tmp_path_factory.mktemp("compared")
    values = {"tied": {"0": 81.25, "1": 80.5}, "one": {"0": 79.0, "1": 80.25}}
    apart = asdict(paired(np.array([79.0 - 81.25, 80.25 - 80.5])))
    length = {"steps": 9, "steps_per_epoch": 3, "images": 360, "forwards": 720, "epochs": 3.0, "flops": 2.5e12}
    cost = {"seconds": 2.5, "images_per_second": 144.0, "relative": 1.0}
    scores = {
        name: {"n": 2, "mean": sum(of.values()) / 2, "sd": 0.5, "values": of, "difference": apart if at else None}
        for at, (name, of) in enumerate(values.items())
    }
    recipes = []
    for name in values:
        places = {seed: {"folder": f"runs/{name}/seed-{seed}"} for seed in "01"}
        for place in places.values():
            shutil.copytree(runs["tied"], top / place["folder"])
        told = {"name": name, "length": length, "backbone": "cresnet20", "parameters": 269722, "cost": cost}
        recipes.append({**told, "runs": places})
    by_images = {"seeds": 2, "images": 150, "mean": -1.25, "interval": [-3.5, 1.0], "only_this": 2.5}
    by_images |= {"only_reference": 4.5, "mcnemar": {"0": 0.5}, "unlike": 0, "overlap": 0.5, "same_error": None}
    found = {
        "command": "manyview compare tied.yaml one.yaml --seeds 2 --budget images --out OUT",
        "reference": "tied",
        "seeds": [0, 1],
        "budget": "images",
        "data": "120 train",
        "split": "test",
        "measure": "top1",
        "git": None,
        "versions": {"torch": "2.9"},
        "table": {"top1": scores, "knn": scores},
        "holm": {"one": 0.125},
        "by_images": {"one": by_images},
        "failed": [],
        "remarks": ["Mean ± standard deviation over seeds 0 to 1.", "Budget `images`."],
        "recipes": recipes,
    }
    (top / "compare.json").write_text(json.dumps(found))
    return top


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    """A page of a browser."""
    with browser.tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened
