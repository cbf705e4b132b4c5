"""The runs that pages here are of, trained once."""

import pytest

import browser
from manyview.compare.compare import compare
from pages_of_runs import SIAMESE, TIED, trained


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A run with a classifier and one without."""
    top = tmp_path_factory.mktemp("runs")
    return {"tied": trained(TIED, top / "tied"), "siamese": trained(SIAMESE, top / "siamese")}


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """A comparison of two recipes with two seeds."""
    top = tmp_path_factory.mktemp("compared")
    short = TIED.replace("epochs: 3", "epochs: 1, untrained: false")
    for name, text in {"tied": short, "one": short.replace("logits(a), logits(b)", "logits(a)")}.items():
        (top / f"{name}.yaml").write_text(text)
    recipes = [str(top / f"{name}.yaml") for name in ("tied", "one")]
    compare(recipes, top / "out", seeds=2, budget="images", quiet=True)
    return top / "out"


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    """A page of a browser, started once."""
    with browser.tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened
