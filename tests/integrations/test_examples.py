"""The examples do what they say: scripts by their `run`, the notebook cell by cell."""

import importlib.util
import json
import math
import runpy
from pathlib import Path

import datasets
import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from manyview.training.surroundings import left_as_found
from processes import on_two

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["accelerate_loop", "hugging_face", "timm_loop"])
def test_help_is_what_the_file_says(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert f"python examples/{name}.py" in capsys.readouterr().out


@left_as_found()
def test_a_loop_with_accelerate():
    torch.manual_seed(0)
    losses = example("accelerate_loop").run(2, images=192)
    assert losses[1] < losses[0] < 2 * math.log(10)


def _accelerated(rank, folder):
    torch.manual_seed(0)
    losses = example("accelerate_loop").run(1, images=128)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(losses))


@pytest.mark.slow(reason="two processes start")
def test_a_loop_with_accelerate_on_two_processes(tmp_path):
    on_two(_accelerated, str(tmp_path))
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two  # the mean over both
    assert one[0] < 2 * math.log(10)


def test_a_data_set_of_hugging_face(tmp_path):
    digits = load_digits()
    pixels = (digits.images[:96] * 255 / 16).round().astype(np.uint8)
    pictures = [Image.fromarray(image).resize((32, 32)) for image in pixels]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(10)})
    table = datasets.Dataset.from_dict({"img": pictures, "label": digits.target[:96].tolist()}, features)
    parts = table.train_test_split(32, shuffle=False)
    result = example("hugging_face").run(
        parts, str(tmp_path / "run"), "train.steps=1", "train.batch_size=16", "train.schedule=constant()", "evaluate=[]"
    )
    assert result["data"].endswith("given in Python (train Dataset, test Dataset)")
    assert "32 test" in result["data"]


@pytest.mark.filterwarnings("error::manyview.errors.ManyviewWarning")  # it looks at views before it trains on them
def test_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mpl, "rcParams", mpl.rcParams.copy())
    mpl.use("Agg")
    torch.manual_seed(0)
    cells = json.loads((EXAMPLES / "own_loop.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)  # none are kept
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    names["plt"].close("all")
    terms = [sum(each.values()) for each in names["history"]]
    assert np.mean(terms[-8:]) < 0.7 * np.mean(terms[:8])
    assert names["accuracy"] > 80
    assert {*torch.load("network.pt", weights_only=True)} == {*names["network"].state_dict()}
