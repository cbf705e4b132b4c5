"""Invariance: cosines and overlaps against slow loops, models that ignore or know an op by construction, bad input."""

import math

import numpy as np
import pytest
import torch

import manyview.evaluate.invariance as module
from manyview.data import ArrayImages, Splits
from manyview.errors import DataError, RecipeError
from manyview.evaluate.features import Features
from manyview.evaluate.invariance import DEFAULT, OVERLAP, Invariance, cosines, others, overlap, score
from manyview.foundation.grammar import bind, parse_call
from op_cases import photos
from seen import Looks

COUNT = 40
CLASSES = ("dark", "light")


def split(count=COUNT, labels=None, size=(16, 16)):
    images = photos(count, size, seed=3)
    known = np.arange(count) % 2 if labels is None else np.asarray(labels)
    return ArrayImages(images, known.astype(np.int64), np.arange(count) + 100, "test")


def features_of(model, test=None, classes=CLASSES):
    return Features(model, Splits(split(4), None, test or split(), classes, "a test"), seed=5)


def table_of(protocol, features):
    report = protocol.measure(features, "test")
    table = report.tables["ops"]
    return report, [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def mean_colour(pixels):
    return pixels.mean(dim=(2, 3))


def by_brightness(pixels):
    """Scores of dark and light."""
    light = pixels.mean(dim=(1, 2, 3)) - 0.45
    return torch.stack([-light, light], dim=1)


# --- The arithmetic


def test_cosines_are_those_of_slow_loops():
    a, b = np.random.default_rng(0).normal(size=(2, 9, 5))
    a[4] = 0

    def cosine(x, y):
        length = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
        return sum(v * w for v, w in zip(x, y, strict=True)) / length if length else 0.0

    rows = [cosine(x, y) for x, y in zip(a, b, strict=True)]
    assert cosines(torch.tensor(a), torch.tensor(b)).tolist() == pytest.approx(rows, abs=1e-12)
    pairs = [cosine(a[i], a[j]) for i in range(9) for j in range(9) if i != j]
    assert others(torch.tensor(a)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert score(0.9, 0.6) == pytest.approx(0.75)
    assert score(0.6, 0.6) == 0
    assert score(0.2, 0.6) == pytest.approx(-1)
    assert score(1.0, 1.0) is None
    with pytest.raises(ValueError, match="two rows"):
        others(torch.ones(1, 3))


def test_overlap_counts_as_a_loop_does():
    draw = np.random.default_rng(1)
    clean, altered, labels = draw.integers(0, 3, (3, 50))
    labels[7:12] = -1
    found = overlap(*map(torch.tensor, (clean, altered, labels)))
    names = {(True, True): 0, (False, False): 1, (True, False): 2, (False, True): 3}
    counts = [0] * 4
    for c, a, y in zip(clean, altered, labels, strict=True):
        if y >= 0:
            counts[names[bool(c == y), bool(a == y)]] += 1
    assert [found[name] for name in OVERLAP] == pytest.approx([100 * count / 45 for count in counts])
    assert found["agreement"] == pytest.approx(2 * sum(c == a for c, a in zip(clean, altered, strict=True)))
    assert set(overlap(torch.tensor(clean), torch.tensor(altered), torch.full((50,), -1))) == {"agreement"}


# --- What a model ignores by construction


def test_whole_measurement_against_numpy():
    """Ops that draw nothing, done again with NumPy; features that are pixels, and answers that go by brightness."""
    test = split(labels=[-1, *(i % 3 % 2 for i in range(1, COUNT))])
    model = Looks(lambda pixels: pixels.flatten(1), by_brightness, labels=CLASSES)
    report, rows = table_of(Invariance(("flip(1)", "brightness(0.5)", "rotate((90, 90))")), features_of(model, test))

    pixels = test.pixels.numpy().astype(np.float64) / 255
    changed = [pixels[..., ::-1], pixels * 0.5, np.rot90(pixels, axes=(2, 3))]

    def cosine(x, y):
        return (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())

    between = np.mean([cosine(x, y) for i, x in enumerate(pixels) for j, y in enumerate(pixels) if i != j])
    answers = pixels.mean(axis=(1, 2, 3)) > 0.45
    assert report.measures["others"] == pytest.approx(between, abs=1e-6)
    for row, images in zip(rows, changed, strict=True):
        mean = np.mean([cosine(x, y) for x, y in zip(pixels, images, strict=True)])
        assert row["cosine"] == pytest.approx(mean, abs=1e-6)
        assert row["score"] == pytest.approx((mean - between) / (1 - between), abs=1e-5)
        new = images.mean(axis=(1, 2, 3)) > 0.45
        assert row["agreement"] == pytest.approx(100 * np.mean(answers == new))
        right, still = (answers == test.labels)[1:], (new == test.labels)[1:]  # the first has no label
        shares = [right & still, ~right & ~still, right & ~still, ~right & still]
        assert [row[name] for name in OVERLAP] == pytest.approx([100 * np.mean(share) for share in shares])
    assert [(row["op"], row["strength"]) for row in rows] == [
        ("flip", "1"),
        ("brightness", "0.5"),
        ("rotate", "(90, 90)"),
    ]
    assert report.measures[""] == pytest.approx(np.mean([row["score"] for row in rows]))
    assert report.measures["agreement"] == pytest.approx(np.mean([row["agreement"] for row in rows]))
    assert all(0 < rows[1][name] < 100 for name in OVERLAP)


def test_what_is_ignored_has_score_1_and_what_is_known_has_less():
    ops = ("flip(1)", "rotate90()", "brightness(0.7)", "channel_permutation()", "invert(1)")
    _, rows = table_of(Invariance(ops), features_of(Looks(mean_colour)))
    scores = {row["op"]: row["score"] for row in rows}
    assert scores["flip"] == pytest.approx(1, abs=1e-9)
    assert scores["rotate90"] == pytest.approx(1, abs=1e-9)
    assert scores["brightness"] == pytest.approx(1, abs=1e-9)  # a cosine does not see it
    assert scores["channel_permutation"] < 0.9
    _, rows = table_of(Invariance(("grayscale(1)", "flip(1)")), features_of(Looks(lambda p: p[:, :, :2].flatten(1))))
    assert all(row["score"] < 0.99 for row in rows)


# --- Whom it depends on


RANDOM = ("crop(scale=(0.2, 1))", "jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | blur(p=0.5)", "erase(0.7, value='noise')")


def test_neither_batches_nor_the_other_ops_matter(monkeypatch):
    model = Looks(lambda pixels: pixels.flatten(1), by_brightness, labels=CLASSES)
    _, rows = table_of(Invariance(RANDOM), features_of(model))
    monkeypatch.setattr(module, "AT_ONCE", 7)
    _, again = table_of(Invariance(RANDOM[::-1]), features_of(model))
    for row, other in zip(rows, again[::-1], strict=True):
        assert list(row.values())[:2] == list(other.values())[:2]
        assert list(row.values())[2:] == pytest.approx(list(other.values())[2:], abs=1e-6)


def test_at_most_so_many_images_are_read():
    model = Looks(mean_colour)
    Invariance(("flip(1)",), images=11).measure(features_of(model), "test")
    assert model.rows == 2 * 11


def test_a_crop_gives_the_size_that_the_model_looks_at():
    model = Looks(lambda pixels: pixels.flatten(1), side=12)
    report, rows = table_of(Invariance("crop(scale=0.5) | flip(1)"), features_of(model, split(size=(20, 30))))
    assert rows[0]["op"] == "crop(scale=0.5) | flip(1)"
    assert rows[0]["strength"] is None
    assert 0 < report.measures["cosine"] < 1


def test_what_is_left_out_without_labels_or_scores_of_these_classes():
    unlabelled = split(labels=[-1] * COUNT)
    one = Invariance(("flip(1)",))
    report, rows = table_of(one, features_of(Looks(mean_colour), unlabelled, classes=()))
    assert list(rows[0]) == ["op", "strength", "cosine", "score"]
    assert set(report.measures) == {"", "cosine", "others"}
    classifier = Looks(mean_colour, by_brightness, labels=CLASSES)
    _, rows = table_of(one, features_of(classifier, unlabelled))
    assert list(rows[0]) == ["op", "strength", "cosine", "score", "agreement"]
    other = Looks(mean_colour, by_brightness, labels=("cat", "dog"))
    _, rows = table_of(one, features_of(other))
    assert list(rows[0]) == ["op", "strength", "cosine", "score", "agreement"]


def test_features_that_are_all_alike_have_no_score():
    report, rows = table_of(Invariance(("flip(1)", "invert(1)")), features_of(Looks(lambda p: p.new_ones(len(p), 3))))
    assert [row["score"] for row in rows] == [None, None]
    assert [row["cosine"] for row in rows] == pytest.approx([1, 1])
    assert "" not in report.measures
    report.draw()


def test_default_ops_fit_and_the_figure_has_a_bar_for_each():
    for size in ((16, 16), (20, 33)):
        model = Looks(lambda p: p.flatten(1), by_brightness, labels=CLASSES)
        report, rows = table_of(Invariance(images=6), features_of(model, split(6, size=size)))
        assert len(rows) == len(DEFAULT)
        assert all(-1 <= row["cosine"] <= 1 + 1e-9 for row in rows)
    (axes,) = report.draw().axes
    assert len(axes.patches) == len(DEFAULT)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([row["score"] for row in rows])
    assert axes.lines[0].get_xdata().tolist() == pytest.approx([row["agreement"] / 100 for row in rows])


# --- Mistakes


def read(text):
    return bind(Invariance, parse_call(text, "evaluate.0"), "evaluate.0")


def test_settings_are_written_as_in_a_recipe():
    assert read("invariance(ops=['flip(1)', 'blur(2.0, p=1)'], images=9)").ops == ("flip(1)", "blur(2.0, p=1)")
    assert read("invariance(ops='flip(1)')") == Invariance(("flip(1)",))
    assert hash(read("invariance(['flip(1)'])")) == hash(Invariance(("flip(1)",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("invariance(ops=('flp(1)',))", "unknown op 'flp'; did you mean 'flip'"),
        ("invariance(ops=('flip(p=2)',))", "p must be a probability"),
        ("invariance(ops=('blur(sigm=1)',))", "unknown argument 'sigm'; did you mean 'sigma'"),
        ("invariance(ops=('cutout()',))", "missing a required argument: 'size'"),
        ("invariance(ops=('mixup()',))", "mixes images with one another"),
        ("invariance(ops=('flip(1) | flip(1)',))", "stands twice"),
        ("invariance(ops=('flip(1)', 'blur(1.0, p=1)', 'flip( 1 )'))", "ops names 'flip\\(1\\)' twice"),
        ("invariance(ops=('flip(1',))", "brackets do not match"),
        ("invariance(ops=(3,))", "expected a call"),
        ("invariance(ops=())", "ops must be calls"),
        ("invariance(images=1)", "images must be a whole number of at least 2"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(text, message):
    with pytest.raises(RecipeError, match=message) as error:
        read(text)
    assert "\n" not in str(error.value)


def test_ops_that_do_not_fit_the_images_are_refused():
    model = Looks(lambda pixels: pixels.flatten(1))
    with pytest.raises(RecipeError, match=r"center_crop\(8\) makes 8x8 of the 16x16"):
        Invariance(("center_crop(8)",)).measure(features_of(model), "test")
    with pytest.raises(RecipeError, match=r"rotate90.*needs square images"):
        Invariance(("rotate90()",)).measure(features_of(model, split(size=(16, 20))), "test")
    grey = ArrayImages(split().pixels[:, :1], split().labels, split().index, "test")
    with pytest.raises(RecipeError, match=r"grayscale\(1\): grayscale needs RGB images"):
        Invariance(("grayscale(1)",)).measure(features_of(model, grey), "test")


def test_data_that_it_cannot_work_on():
    one = Splits(split(4), None, split(1), CLASSES, "a test")
    with pytest.raises(DataError, match="split 'test' has one image"):
        Invariance().check(one)
    Invariance().check(Splits(split(4), None, split(2), CLASSES, "a test"))
    with pytest.raises(DataError, match="no split 'val'"):
        Invariance().measure(features_of(Looks(mean_colour)), "val")
