"""Awareness: ridge in closed form, what is told as AugSelf tells it, models that know or do not know, bad input."""

import numpy as np
import pytest
import torch

import manyview.evaluate.awareness as module
from manyview.data import ArrayImages, Splits
from manyview.errors import DataError, RecipeError
from manyview.evaluate.awareness import (
    DEFAULT,
    FACTORS,
    NUMBERS,
    STRENGTHS,
    Awareness,
    best_factor,
    cases_of,
    nearest,
    r2,
    ridge,
    targets_of,
)
from manyview.evaluate.features import Features
from manyview.evaluate.tried_ops import draw, plan_ops
from manyview.foundation.grammar import bind, parse_call
from manyview.relations import Port, Reading
from manyview.relations.augself import AugSelf
from manyview.views.ops import OPS
from manyview.views.plan import IMAGE, PlannedView
from op_cases import photos
from seen import Looks

ALL = (
    "crop(12, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2) | blur(p=0.5) | "
    "solarize((0.3, 0.9), p=0.5) | rotate90()"
)


def images_of(pixels, labels=True):
    known = np.arange(len(pixels)) % 2 if labels else np.full(len(pixels), -1)
    return ArrayImages(pixels, known.astype(np.int64), np.arange(len(pixels)) + 100, "some")


def features_of(model, train, test, **more):
    return Features(model, Splits(images_of(train), None, images_of(test, **more), ("x", "y"), "a test"), seed=5)


def even(count, seed, size=(8, 8)):
    """Images whose mean is 0.3, and brightest pixel less than a half."""
    draw = np.random.default_rng(seed)
    levels = draw.integers(50, 104, (count, 3, *size))
    return torch.tensor(levels, dtype=torch.uint8)


def places(count, seed=0, size=(24, 24)):
    """Red rises to the right, green downwards; blue is noise."""
    height, width = size
    images = photos(count, size, seed=seed)
    images[:, 0] = (torch.arange(width) * 255 / (width - 1)).round()
    images[:, 1] = (torch.arange(height) * 255 / (height - 1)).round()[:, None]
    return images


def extent(pixels):
    """Where red and green lie, and how far they reach."""
    middle = pixels[:, :2].mean(dim=(2, 3))
    across = pixels[:, 0, :, -1].mean(dim=1) - pixels[:, 0, :, 0].mean(dim=1)
    down = pixels[:, 1, -1].mean(dim=1) - pixels[:, 1, 0].mean(dim=1)
    return torch.cat([middle, across[:, None], down[:, None]], dim=1)


def rises(pixels):
    """Where to red rises: four turns take three numbers."""
    red = pixels[:, 0]
    across, down = red[:, :, -1].mean(dim=1) - red[:, :, 0].mean(dim=1), red[:, -1].mean(dim=1) - red[:, 0].mean(dim=1)
    return torch.stack([across, down, across.abs()], dim=1)


def numbers(protocol, features):
    report = protocol.measure(features, "test")
    return {row[0]: row[1:] for row in report.tables["numbers"].rows}, report


def drawn(text, count=300, size=(24, 24)):
    plan = {side: PlannedView(side, IMAGE, plan_ops(text, size, side, "views")) for side in ("a", "b")}
    return plan["a"].ops, draw(plan, photos(count, size), np.arange(count), 0, "views")


# --- The arithmetic


def test_ridge_is_the_closed_form():
    random = np.random.default_rng(0)
    x, y, new = random.normal(size=(30, 6)), random.normal(size=(30, 2)), random.normal(size=(7, 6))
    x[:, 0], new[:, 0] = 3 + 1e-7 * y[:, 0], 4  # what varies as a rounding does tells nothing
    x[:, 1], new[:, 1] = 0, 1
    x[:, 2:] *= [1, 10, 100, 0.01]
    found = ridge(*map(torch.tensor, (x, y, new)))
    for strength, said in zip(STRENGTHS.numpy(), found.numpy(), strict=True):
        mean, scale = x.mean(axis=0), np.where(np.isin(range(6), (0, 1)), np.inf, x.std(axis=0))
        z, z_new = (x - mean) / scale, (new - mean) / scale
        weights = np.linalg.solve(z.T @ z + 30 * strength * np.eye(6), z.T @ (y - y.mean(axis=0)))
        assert said == pytest.approx(z_new @ weights + y.mean(axis=0), abs=1e-8)


def test_r2_is_that_of_a_loop():
    said, y = np.random.default_rng(1).normal(size=(2, 20, 3))
    error = sum((said[i, k] - y[i, k]) ** 2 for i in range(20) for k in range(3))
    spread = sum((y[i, k] - y[:, k].mean()) ** 2 for i in range(20) for k in range(3))
    assert float(r2(torch.tensor(said), torch.tensor(y))) == pytest.approx(1 - error / spread)
    both = r2(torch.tensor(np.stack([y, said])), torch.tensor(y))
    assert both.tolist() == pytest.approx([1, 1 - error / spread])


@pytest.mark.parametrize("op", [OPS["flip"](), OPS["rotate90"]()])
def test_answers_are_the_nearest_case_and_the_factor_the_best_of_all(op):
    cases, classes = cases_of(op)
    random = np.random.default_rng(2)
    which = random.integers(0, len(cases), 60)
    y = cases[torch.tensor(which)]
    assert torch.equal(nearest(y, cases, classes), classes[torch.tensor(which)])
    answers = 0.01 * y + torch.tensor(random.normal(size=y.shape)) * 0.004

    def right(factor):
        count = 0
        for row, true in zip((factor * answers).numpy(), which, strict=True):
            distances = [((row - case) ** 2).sum() for case in cases.numpy()]
            count += int(classes[int(np.argmin(distances))] == classes[true])
        return count

    counts = [right(float(factor)) for factor in FACTORS]
    assert best_factor(answers, y, cases, classes) == pytest.approx(float(FACTORS[int(np.argmax(counts))]))
    assert max(counts) > counts[0]
    assert counts[0] == int((classes[torch.tensor(which)] == 0).sum())


# --- What is told


def test_what_is_told_is_what_augself_tells():
    """Its own predictors' targets for (a, b), which the tests of AugSelf check against a slow reference."""
    ops, views = drawn(ALL)
    ports = [Port(f"h({side})", 3, ops={planned.name: planned.op for planned in ops}) for side in "ab"]
    kinds = {"crop": "crop", "color": "jitter", "blur": "blur", "solarize": "solarize"}
    relation = AugSelf(*ports, **dict.fromkeys((*kinds, "flip", "rotation"), 1.0), hidden=2)
    truth = relation.predict(*(Reading(torch.zeros(300, 3), None, views[side].params) for side in "ab"))
    told = {}
    for planned in ops:
        told |= targets_of(planned.name, planned.op, views["a"].params, views["b"].params)
    by_name = {planned.name: planned.op for planned in ops}
    for kind, name in kinds.items():
        columns = torch.cat([told[f"{name} {number}"] for number in NUMBERS[type(by_name[name])]], dim=1)
        assert torch.equal(columns, truth[kind][1][:300].double())
        assert columns.var(dim=0).min() > 0
    for kind, name, answer in (("flip", "flip", 1), ("rotation", "rotate90", None)):
        found = nearest(told[name], *cases_of(by_name[name]))
        expected = truth[kind][1][:300, 0].long()
        assert torch.equal(found, expected if answer is None else answer - expected)
    assert set(told["grayscale"].flatten().tolist()) == {-1.0, 0.0, 1.0}


def test_every_number_has_a_name():
    calls = [
        "brightness()",
        "color()",
        "contrast()",
        "sharpness()",
        "blur()",
        "solarize()",
        "rotate(20)",
        "shear(0.1, 0.2)",
    ]
    ops, views = drawn(f"pad_crop() | jitter(0.1, 0.1, 0.1, 0.1) | translate() | {' | '.join(calls)}")
    ops += drawn("crop()")[0][:1]
    assert {type(planned.op) for planned in ops} == set(NUMBERS)
    for planned in ops[:-1]:
        given = planned.op.difference(views["a"].params[planned.name], views["b"].params[planned.name], {})
        assert len(NUMBERS[type(planned.op)]) == given.shape[1]


# --- What a model knows by construction


def test_brightness_is_known_to_whoever_has_it_and_not_to_whoever_divides_by_it():
    train, test = even(200, 0), even(100, 1)
    protocol = Awareness("brightness((0.5, 1.5))", draws=3)
    known, report = numbers(protocol, features_of(Looks(lambda p: p.mean(dim=(2, 3))), train, test))
    assert known["brightness factor"][0] > 0.99
    assert report.measures[""] == report.measures["brightness_factor"] == known["brightness factor"][0]
    ignorant = Looks(lambda p: p.mean(dim=(2, 3)) / p.mean(dim=(1, 2, 3))[:, None])
    assert abs(numbers(protocol, features_of(ignorant, train, test))[0]["brightness factor"][0]) < 0.05


def test_crops_are_known_to_whoever_sees_where_they_are():
    features = features_of(Looks(extent, side=24), places(300), places(150, seed=1))
    known, _ = numbers(Awareness("crop(scale=(0.2, 1))"), features)
    assert list(known) == ["crop centre y", "crop centre x", "crop height", "crop width"]
    assert all(value > 0.98 for value, *_ in known.values())
    flipped, _ = numbers(Awareness("crop(scale=(0.2, 1)) | flip(0.5)"), features)
    assert flipped["crop centre y"][0] > 0.98
    assert abs(flipped["crop centre x"][0]) < 0.1  # its sign goes by a's flip: nothing linear tells it
    shape = features_of(Looks(lambda p: extent(p)[:, 2:], side=24), places(300), places(150, seed=1))
    known, _ = numbers(Awareness("crop(scale=(0.2, 1))"), shape)
    assert known["crop height"][0] > 0.98
    assert abs(known["crop centre x"][0]) < 0.1


def test_flips_and_turns_are_known_to_whoever_sees_directions():
    features = features_of(Looks(extent), places(200), places(100, seed=1))
    known, report = numbers(Awareness("flip(0.3) | invert(0)"), features)
    assert list(known) == ["flip"]  # an invert that is never applied does not differ
    assert known["flip"][1] == 100
    assert known["flip"][2] == pytest.approx(58, abs=8)  # 0.7² + 0.3²
    assert known["flip"][0] > 0.99
    assert report.measures["flip_right"] == 100
    known, _ = numbers(Awareness("rotate90()"), features_of(Looks(rises), places(200), places(100, seed=1)))
    assert known["rotate90"][0] > 0.99
    assert known["rotate90"][1] == 100
    assert known["rotate90"][2] < 40
    blind = features_of(Looks(lambda p: extent(p)[:, :2]), places(200), places(100, seed=1))
    known, _ = numbers(Awareness("flip(0.3) | rotate90()"), blind)
    assert all(right < usual + 12 for _, right, usual in known.values())


def test_grey_is_known_to_whoever_sees_colour():
    features = features_of(
        Looks(lambda p: (p[:, 0] - p[:, 1]).abs().mean(dim=(1, 2))[:, None]),
        photos(200, (12, 12)),
        photos(100, (12, 12), seed=9),
    )
    known, _ = numbers(Awareness("grayscale(0.2)"), features)
    assert known["grayscale"][1] > 75 > known["grayscale"][2] - 5


# --- Whom it depends on


def test_batches_do_not_matter(monkeypatch):
    features = features_of(Looks(lambda p: p.mean(dim=(2, 3))), photos(50, (16, 16)), photos(30, (16, 16), seed=1))
    protocol = Awareness(draws=2)
    first = protocol.measure(features, "test").measures
    monkeypatch.setattr(module, "AT_ONCE", 7)
    assert protocol.measure(features, "test").measures == pytest.approx(first, abs=1e-6)
    assert set(first) >= {"", "crop_height", "jitter_hue", "flip", "flip_right", "grayscale_right"}


def test_labels_do_not_matter():
    model = Looks(lambda p: p.mean(dim=(2, 3)))
    pixels = photos(40, (16, 16)), photos(20, (16, 16), seed=1)
    protocol = Awareness("brightness()")
    known = protocol.measure(features_of(model, *pixels), "test").measures
    assert protocol.measure(features_of(model, *pixels, labels=False), "test").measures == known


def test_at_most_so_many_images_are_read_and_each_is_shown_so_often():
    model = Looks(lambda p: p.mean(dim=(2, 3)))
    Awareness("brightness()", images=15, draws=3).measure(
        features_of(model, photos(40, (9, 9)), photos(20, (9, 9))), "test"
    )
    assert model.rows == 2 * 2 * 15 * 3


def test_the_crop_is_as_large_as_what_the_model_looks_at():
    sizes = []
    model = Looks(lambda p: [sizes.append(p.shape[-2:]), p.mean(dim=(2, 3))][1], side=10)
    Awareness().measure(features_of(model, photos(20, (16, 22)), photos(12, (16, 22))), "test")
    assert set(sizes) == {(10, 10)}


def test_what_never_differs_is_told_to_be_left_out():
    features = features_of(Looks(extent), places(40), places(30, seed=1))
    usual, lacking = (Awareness(f"jitter(0.4, 0.4, 0, {hue})").measure(features, "test") for hue in (0.1, 0))
    assert set(usual.measures) - set(lacking.measures) == {"jitter_hue"}
    assert usual.note == "two views never differ in jitter saturation, which is not told"
    assert lacking.note == "two views never differ in jitter saturation, jitter hue, which is not told"


def test_figure_has_a_bar_for_each_number():
    features = features_of(Looks(extent), places(60), places(40, seed=1))
    known, report = numbers(Awareness(), features)
    (axes,) = report.draw().axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([max(0, value) for value, *_ in known.values()])
    assert sum("right" in text.get_text() for text in axes.texts) == 2  # flip and grayscale
    assert report.measures[""] == pytest.approx(np.mean([value for value, *_ in known.values()]))


# --- Mistakes


def read(text):
    return bind(Awareness, parse_call(text, "evaluate.0"), "evaluate.0")


def test_settings_are_written_as_in_a_recipe():
    assert read("awareness(draws=1)") == Awareness(DEFAULT, 5000, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("awareness(views='crp()')", "unknown op 'crp'; did you mean 'crop'"),
        ("awareness(views='crop(scale=3)')", "scale must be"),
        ("awareness(views='flip(0.5) | crop()')", "flip stands before crop"),
        ("awareness(views='crop() | pad_crop()')", "crop stands before pad_crop"),
        ("awareness(views='jitter(0.1) | jitter(0.2)')", "jitter stands twice"),
        ("awareness(views='crop() | mixup()')", "mixes images with one another"),
        ("awareness(views='posterize()')", "has no op that is asked for; these are: blur, brightness"),
        ("awareness(views='')", "expected a call"),
        ("awareness(draws=0)", "draws must be a whole number of at least 1"),
        ("awareness(images=9)", "images must be a whole number of at least 10"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(text, message):
    with pytest.raises(RecipeError, match=message) as error:
        read(text)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_the_data_is_refused():
    model = Looks(lambda p: p.mean(dim=(2, 3)))
    features = features_of(model, photos(20, (16, 16)), photos(12, (16, 16)))
    with pytest.raises(RecipeError, match="the views are 12x12, but the model looks at 16x16"):
        Awareness("crop(12)").measure(features, "test")
    with pytest.raises(RecipeError, match="never differ in what is asked for"):
        Awareness("flip(1) | jitter()").measure(features, "test")
    with pytest.raises(DataError, match="no split 'val'"):
        Awareness().measure(features, "val")
    few = features_of(model, photos(9, (16, 16)), photos(12, (16, 16)))
    for refuse in (lambda: Awareness().check(few.splits), lambda: Awareness().measure(few, "test")):
        with pytest.raises(DataError, match="9 training images are too few"):
            refuse()
    Awareness().check(features.splits)
