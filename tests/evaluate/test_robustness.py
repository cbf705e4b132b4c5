"""Robustness: against slow loops, one image and one corruption at a time; published layouts; what is refused."""

from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import manyview.evaluate.robustness as module
from manyview.data import ArrayImages, Splits
from manyview.errors import DataError, RecipeError
from manyview.evaluate.corruptions import CORRUPTIONS, EXTRA, MAIN, corrupt, corruption
from manyview.evaluate.features import Features
from manyview.evaluate.knn import knn_predict
from manyview.evaluate.linear import probe_of
from manyview.evaluate.robustness import Robustness
from manyview.foundation.grammar import bind, parse_call
from manyview.views.ops.op import as_float
from op_cases import photos
from seen import Looks

CLASSES = ("wolf", "cat", "dog")  # not in the order of their names
SEED = 5
SOME = {"corruptions": ("gaussian_noise", "fog", "zoom_blur"), "severities": (2, 5)}


torch.manual_seed(1)
NET = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 3))
USUAL = NET(photos(64, (32, 32), torch.float32)).median(dim=0).values.detach()


def scores(pixels):
    """Random, and of all classes."""
    return NET(pixels) - USUAL


def model_of(side=None, labels=CLASSES):
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return Looks(features, scores if labels else None, labels, side)


def images_of(count, side=32, seed=3, labels=None):
    """Labelled, by default, as the network sees them: what is lost is lost by corruption."""
    pixels = photos(count, (side, side), seed=seed)
    seen = scores(pixels / 255).argmax(dim=1).numpy() if labels is None else np.asarray(labels)
    return ArrayImages(pixels, seen, np.arange(count) * 3 + 100, "test")


def features_of(model, test=None, classes=CLASSES, train=None):
    splits = Splits(train or images_of(30, seed=8), None, test or images_of(24), classes, "a test")
    return Features(model, splits, seed=SEED)


def slow(features, predict, names, severities, size):
    """Accuracies in percent by corruption and severity, and the clean one."""
    images, model = features.images("test"), features.model
    right = {(name, severity): [] for name in names for severity in severities} | {"clean": []}
    for position in range(len(images)):
        pixels = model.prepare(images.read(position)[None])
        right["clean"].append(predict(pixels) == images.labels[position])
        levels = (pixels * 255).round().to(torch.uint8)
        for name in names:
            for severity in severities:
                made = corrupt(levels, corruption(name, severity, size), [int(images.index[position])], SEED)
                right[name, severity].append(predict(made.float() / 255) == images.labels[position])
    return {key: 100 * sum(each) / len(each) for key, each in right.items()}


def accuracies(report):
    """What the table holds, as `slow` gives it."""
    table = report.tables["accuracy"]
    severities = [int(column) for column in table.columns[1:-1]]
    rows = {row[0]: row[1:-1] for row in table.rows if row[0] != "mean"}
    cells = {(name, severity): v for name, row in rows.items() for severity, v in zip(severities, row, strict=True)}
    return cells | {"clean": report.measures["clean"]}


def by_classifier(model):
    return lambda pixels: int(model.read(pixels)["logits"].argmax())


@pytest.mark.parametrize("side", [None, 20])
def test_whole_measurement_is_a_slow_loop(side):
    features = features_of(model_of(side))
    report = Robustness(**SOME).measure(features, "test")
    expected = slow(features, by_classifier(features.model), SOME["corruptions"], (2, 5), 32)
    assert accuracies(report) == pytest.approx(expected)
    assert len(set(expected.values())) >= 3
    means = [fmean(expected[name, severity] for severity in (2, 5)) for name in SOME["corruptions"]]
    rows = report.tables["accuracy"].rows
    assert [row[-1] for row in rows] == pytest.approx([*means, fmean(means)])
    assert rows[-1][1] == pytest.approx(fmean(expected[name, 2] for name in SOME["corruptions"]))
    assert report.measures == pytest.approx(
        {"": fmean(means), "clean": expected["clean"], "relative": 100 * fmean(means) / expected["clean"]}
    )


def test_a_probe_or_neighbours_judge_what_has_no_classifier():
    features = features_of(model_of(labels=None))
    probe, known = probe_of(features, "test"), features.of("train")

    def by_probe(pixels):
        return int(probe.fit.scores(features.model.read(pixels)["h"]).argmax())

    def by_neighbours(pixels):
        h = features.model.read(pixels)["h"]
        return int(knn_predict(h, known.features, known.labels, 3, 30, 0.1))

    for by, predict in (("linear", by_probe), ("auto", by_probe), ("knn", by_neighbours)):
        report = Robustness(**SOME, by=by).measure(features, "test")
        assert accuracies(report) == pytest.approx(slow(features, predict, SOME["corruptions"], (2, 5), 32))
    with pytest.raises(DataError, match="no classifier of these classes"):
        Robustness(**SOME, by="classifier").measure(features, "test")


def test_batches_do_not_matter(monkeypatch):
    whole = Robustness(**SOME).measure(features_of(model_of()), "test")
    monkeypatch.setattr(module, "BATCH", 5)
    assert Robustness(**SOME).measure(features_of(model_of()), "test").to_dict() == whole.to_dict()


@pytest.mark.parametrize(("side", "size"), [(28, 32), (64, 32), (96, 224)])
def test_constants_are_those_of_the_nearer_size(side, size):
    seen = []
    model = Looks(
        lambda pixels: pixels.flatten(1), lambda pixels: seen.append(pixels) or torch.zeros(len(pixels), 3), CLASSES
    )
    images = images_of(2, side)
    Robustness(corruptions=("contrast", "fog"), severities=(3,)).measure(features_of(model, images), "test")
    for name, pixels in zip(("contrast", "fog"), seen[1:], strict=True):
        expected = corrupt(images.pixels, corruption(name, 3, size), images.index.tolist(), SEED)
        assert torch.equal(pixels, expected.float() / 255)


def test_so_many_images_are_drawn_by_the_seed():
    images = images_of(24)
    labels = images.labels.copy()
    labels[::4] = -1
    images = ArrayImages(images.pixels, labels, images.index, "test")
    features = features_of(model_of(), images)
    few, more = (set(module.chosen(features, "test", images, count)) for count in (5, 9))
    assert (len(few), len(more)) == (5, 9)
    assert few < more <= set(np.flatnonzero(labels >= 0))
    assert more != set(module.chosen(Features(features.model, features.splits, seed=1), "test", images, 9))
    assert set(module.chosen(features, "test", images, 100)) == set(np.flatnonzero(labels >= 0))
    Robustness(**SOME, images=5).measure(features, "test")
    assert features.model.rows == 5 * 7
    bare = ArrayImages(images.pixels, np.full(24, -1), images.index, "test")
    with pytest.raises(DataError, match="'test' has no labelled images to evaluate"):
        Robustness(**SOME).measure(features_of(model_of(), bare), "test")


@pytest.mark.parametrize("names", ["all", ("spatter", "fog", "saturate", "zoom_blur"), "extra", "main"])
def test_the_four_for_tuning_are_no_part_of_the_mean(names):
    report = Robustness(corruptions=names, severities=(1, 4)).measure(features_of(model_of(), images_of(12)), "test")
    rows = {row[0]: row for row in report.tables["accuracy"].rows}
    main, extra = ([name for name in rows if name in group] for group in (MAIN, EXTRA))
    assert (len(main), len(extra)) == {"all": (15, 4), "extra": (0, 4), "main": (15, 0)}.get(names, (2, 2))
    means = {name: fmean(rows[name][1:3]) for name in (*main, *extra)}
    judged = main or extra
    assert report.measures[""] == pytest.approx(fmean(means[name] for name in judged))
    assert report.measures["relative"] == pytest.approx(100 * report.measures[""] / report.measures["clean"])
    assert rows["mean"][1:] == pytest.approx(
        [*(fmean(rows[n][at] for n in judged) for at in (1, 2)), report.measures[""]]
    )
    beside = bool(main and extra)
    assert ("extra" in report.measures) == ("mean of the extra" in rows) == ("for tuning" in report.note) == beside
    if beside:
        assert report.measures["extra"] == pytest.approx(fmean(means[name] for name in extra))
        assert rows["mean of the extra"][1] == pytest.approx(fmean(rows[name][1] for name in extra))


# Folders


def stored(images, name, severity):
    return corrupt(images.pixels, corruption(name, severity, 32), images.index.tolist(), SEED)


def write_arrays(root, images, names):
    for name in names:
        levels = torch.cat([stored(images, name, severity) for severity in range(1, 6)])
        np.save(root / f"{name}.npy", levels.permute(0, 2, 3, 1).numpy())
    np.save(root / "labels.npy", np.tile(images.labels, 5).astype(np.uint8))


def write_tree(root, images, groups, severities):
    for (group, name), severity in ((pair, severity) for pair in groups.items() for severity in severities):
        for position, levels in enumerate(stored(images, name, severity)):
            place = root / group / name / str(severity) / CLASSES[images.labels[position]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels.permute(1, 2, 0).numpy()).save(place / f"{position:03}.png")


def test_arrays_like_cifar_c_give_what_is_made_on_the_fly(tmp_path):
    images = images_of(24)
    write_arrays(tmp_path, images, SOME["corruptions"])
    features = features_of(model_of(), images)
    for count in (None, 7):
        made = Robustness(**SOME, images=count).measure(features, "test")
        read = Robustness(**SOME, images=count, root=str(tmp_path))
        read.check(features.splits)
        assert read.measure(features, "test").to_dict() == made.to_dict()


def test_published_images_of_test_are_no_result_on_val(tmp_path):
    images = images_of(9)
    write_arrays(tmp_path, images, SOME["corruptions"])
    splits = Splits(images, images, None, CLASSES, "a note")
    read = Robustness(**SOME, root=str(tmp_path))
    with pytest.raises(DataError, match="root holds corrupted test images, and there is no test; a note"):
        read.check(splits)
    with pytest.raises(DataError, match="not those of val; ask for --split test"):
        read.measure(Features(model_of(), splits), "val")


class Zooms:
    """Looks at the middle 32 pixels of what is enlarged to 40, as an ImageNet model does at 224 of 256."""

    def __init__(self):
        self.inner = model_of()
        self.name = self.key = "zooms"
        self.labels, self.orbit, self.device = CLASSES, None, torch.device("cpu")

    def prepare(self, images):
        large = F.interpolate(as_float(images), (40, 40), mode="bilinear")
        return large[:, :, 4:36, 4:36]

    def read(self, pixels, *, aggregated=False):
        return self.inner.read(pixels)


def test_a_tree_like_imagenet_c_is_taken_as_it_is(tmp_path):
    """Whole or in parts; its images have been cut out already, and are not cut a second time."""
    features = features_of(Zooms(), images_of(24, 48))
    images = features.splits.test
    looked = (features.model.prepare(images.pixels) * 255).round().to(torch.uint8)
    cut = ArrayImages(looked, images.labels, images.index, "test")
    write_tree(tmp_path, cut, {"noise": "gaussian_noise", "weather": "fog", ".": "zoom_blur"}, (2, 5))
    made = Robustness(**SOME).measure(features, "test")
    read = Robustness(**SOME, root=str(tmp_path))
    read.check(features.splits)
    assert read.measure(features, "test").to_dict() == made.to_dict()


def test_kinds_of_unlike_many_images_are_told(tmp_path):
    features = features_of(model_of(), images_of(24))
    write_tree(tmp_path, features.splits.test, {".": "fog"}, (2, 5))
    read = Robustness(corruptions="fog", severities=(2, 5), root=str(tmp_path))
    assert read.measure(features, "test").note.startswith("24 images; ")
    next((tmp_path / "fog" / "5").rglob("*.png")).unlink()
    assert read.measure(features, "test").note.startswith(
        "23 to 24 images of a kind, so means are not of the same ones"
    )


def test_mean_corruption_error_is_relative_to_alexnet_s(tmp_path):
    """The paper's table, in percent."""
    alexnet = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7]
    classes = tuple(f"n{number:04}" for number in range(1000))
    for name in MAIN:
        for severity in range(1, 6):
            place = tmp_path / name / str(severity) / ("n0007" if (name, severity) == ("fog", 1) else "n0003")
            place.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(place / "one.png")
    always = F.one_hot(torch.tensor(7), 1000)
    model = Looks(lambda pixels: pixels.flatten(1), lambda pixels: always.expand(len(pixels), -1), classes)
    images = ArrayImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.array([7, 3]), np.arange(2), "test")
    report = Robustness(root=str(tmp_path)).measure(features_of(model, images, classes), "test")
    wrong = [80 if name == "fog" else 100 for name in MAIN]
    assert report.measures["mce"] == pytest.approx(
        fmean(100 * error / other for error, other in zip(wrong, alexnet, strict=True)), rel=1e-3
    )
    assert report.measures[""] == pytest.approx(20 / 15)
    some = Robustness(severities=(1, 2), root=str(tmp_path)).measure(features_of(model, images, classes), "test")
    assert "mce" not in some.measures


# What is shown


def test_a_figure_has_a_bar_for_each_corruption_and_a_dot_for_each_severity():
    report = Robustness(corruptions="all", severities=(1, 4, 5)).measure(features_of(model_of(), images_of(3)), "test")
    (axes,) = report.draw().axes
    rows = {row[0].replace("_", " "): row for row in report.tables["accuracy"].rows}
    assert [label.get_text() for label in axes.get_yticklabels()] == [name.replace("_", " ") for name in CORRUPTIONS]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([row[-1] for row in list(rows.values())[:-2]])
    assert len(axes.lines) == 19 * 3 + 1


# Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("robustness(corruptions='fogg')", "unknown corruption 'fogg'; did you mean 'fog'"),
        ("robustness(corruptions=('fog', 'mist'))", "unknown corruption 'mist'"),
        ("robustness(corruptions=3)", "corruptions must be a list, got 3"),
        ("robustness(corruptions=())", "at least one"),
        ("robustness(corruptions=('fog', 'fog'))", "named once"),
        ("robustness(severities=(1, 6))", "severity must be a whole number from 1 to 5, got 6"),
        ("robustness(severities=3)", "severities must be a list, got 3"),
        ("robustness(severities=[])", "at least one"),
        ("robustness(size=64)", "size must be 224, .* or 32, .* got 64"),
        ("robustness(images=0)", "images must be a whole number of at least 1, got 0"),
        ("robustness(root='x', size=32)", "size and textures are for corruptions made here"),
        ("robustness(corruptions='extra', textures='x')", "textures are for frost"),
        ("robustness(by='nearest')", "unknown by 'nearest'; .*auto, classifier, knn, linear"),
    ],
)
def test_settings_that_cannot_be_meant(call, message):
    with pytest.raises(RecipeError, match=message):
        bind(Robustness, parse_call(call, "evaluate.0"), "evaluate.0")


def test_names_stand_for_corruptions_and_lists_are_hashable():
    assert Robustness().names == tuple(MAIN)
    assert Robustness("extra").names == tuple(EXTRA)
    assert Robustness("all").names == tuple(CORRUPTIONS)
    assert Robustness("fog").names == ("fog",)
    assert hash(Robustness(["fog"], severities=[1])) == hash(Robustness(("fog",), (1,)))


def test_data_that_cannot_be_corrupted(tmp_path):
    one = ArrayImages(photos(9, (8, 8))[:, :1], np.arange(9) % 3, np.arange(9), "test")
    grey = Splits(one, None, one, CLASSES, "a test")
    with pytest.raises(DataError, match="corruptions are of RGB images; these have 1 channel"):
        Robustness().check(grey)
    splits = features_of(model_of()).splits
    with pytest.raises(DataError, match=r"has no frost1\.png"):
        Robustness(textures=str(tmp_path)).check(splits)
    with pytest.raises(DataError, match="no training image has a label"):
        Robustness(by="linear").check(Splits(images_of(3, labels=[-1] * 3), None, images_of(9), CLASSES, "a test"))


def test_folders_of_another_layout(tmp_path):
    features = features_of(model_of())

    def checked(root, **more):
        Robustness(**{**SOME, **more}, root=str(root)).check(features.splits)

    def measured():
        Robustness(**SOME, root=str(tmp_path)).measure(features, "test")

    with pytest.raises(DataError, match=r"no folder .*nowhere; expected labels.npy beside .*, or .*as in ImageNet-C"):
        checked(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no gaussian_noise/2; expected labels.npy"):
        checked(tmp_path)
    write_tree(
        tmp_path,
        images_of(6, labels=[0, 1, 2, 0, 1, 2]),
        {"noise": "gaussian_noise", "weather": "fog", ".": "zoom_blur"},
        (2, 5),
    )
    checked(tmp_path)
    with pytest.raises(DataError, match=r"has no gaussian_noise/1; "):
        checked(tmp_path, severities=(1,))
    (tmp_path / "weather/fog/2/cat").rename(tmp_path / "weather/fog/2/lynx")
    with pytest.raises(DataError, match=r"fog/2 has class 'lynx', which the data have not; classes: wolf, cat, dog"):
        measured()

    images = images_of(6, labels=[0, 1, 2, 0, 1, 2])
    write_arrays(tmp_path, images, ("gaussian_noise", "fog"))
    with pytest.raises(DataError, match=r"has no zoom_blur\.npy; expected"):
        checked(tmp_path)
    write_arrays(tmp_path, images, ("zoom_blur",))
    checked(tmp_path)
    np.save(tmp_path / "labels.npy", np.tile([0, 1, 2, 3, 0, 1], 5))
    with pytest.raises(DataError, match=r"labels.npy numbers classes 0 to 3; the data have 3, so these are not theirs"):
        measured()
    np.save(tmp_path / "labels.npy", np.tile(images.labels, 4))
    with pytest.raises(DataError, match=r"labels.npy holds int64 \[24\] for 30 images in gaussian_noise.npy"):
        measured()
    np.save(tmp_path / "gaussian_noise.npy", np.zeros((30, 32, 32), np.uint8))
    with pytest.raises(DataError, match=r"holds uint8 \[30, 32, 32\], not uint8 \[5 N, H, W, 3\]"):
        measured()
    (tmp_path / "gaussian_noise.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"gaussian_noise.npy cannot be read as an array"):
        measured()
