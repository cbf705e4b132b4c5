"""The figure of a comparison: whatever recipes and measures are called, nothing is clipped and nothing overlaps."""

import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from manyview.compare.budget import Length
from manyview.compare.comparison import Comparison, Entry
from manyview.compare.figure import NAME, draw, lines
from manyview.compare.intervals import Difference
from manyview.compare.table import Results, Score
from manyview.load import load_recipe

LONG = "baseline_cifar10_with_a_rather_long_file_name_of_mine_and_more_of_it"


def results(names: list[str], main: str) -> Results:
    recipe, length = load_recipe("quickstart"), Length(10, 5, 8, 2)
    entries = tuple(Entry(name, recipe, (), length, "cresnet20()", 7) for name in names)
    made = Comparison(Path("out"), tuple(names), (), entries, range(2), "own", "test", None, "digits", ())
    found = Difference(2, 0.4, 1, (0.1, 0.8), (-0.2, 1.0))
    scores = {name: Score({0: 80.0, 1: 81.0}, None if name == names[0] else found) for name in names}
    return Results(made, {}, main, {main: scores}, {})


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["baseline_cifar10", "tied_cifar10"], "top1"),
        (["tied_cifar10_wrn28_10", "agmax_cifar10_cutmix_autoaugment", "sla"], "aggregated_class_mean"),
        ([LONG, "x" * 80, "a"], "robustness(severities=(1, 3, 5), by='classifier', sets=('noise', 'blur'))"),
        ([f"{LONG}_{number}" for number in range(9)], "top1"),
    ],
)
def test_titles_and_names_stay_in_their_places(names, main):
    figure = draw(results(names, main))
    FigureCanvasAgg(figure).draw()
    left, right = figure.axes
    texts = [left.title, right.title, *left.get_yticklabels()]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert left.title.get_window_extent().x1 < right.title.get_window_extent().x0
    labels = [label.get_window_extent() for label in left.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(labels))
    assert all(label.x1 < left.bbox.x1 for label in labels)


@pytest.mark.parametrize("text", [LONG, "x" * 70, "a b c", "tied", "robustness(severities=(1, 3, 5)) on test"])
def test_lines_lose_nothing_but_blanks(text):
    found = lines(text, NAME)
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    assert all(len(line) <= NAME for line in found)
