"""Protocols against their functions called by hand, and where their reports are written."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from manyview.data import Splits, hold_out
from manyview.errors import DataError, RecipeError, RunError
from manyview.evaluate.accuracy import Classify, accuracy
from manyview.evaluate.aggregate import Aggregate
from manyview.evaluate.calibration import (
    Calibration,
    calibration,
    calibration_floor,
    expected_calibration_error,
    fit_temperature,
)
from manyview.evaluate.evaluate import check_protocols, evaluate
from manyview.evaluate.features import Features, Outputs, collect
from manyview.evaluate.fewshot import FewShotTasks, few_shot
from manyview.evaluate.finetune import Finetune
from manyview.evaluate.invariance import Invariance
from manyview.evaluate.knn import Knn
from manyview.evaluate.linear import Linear, linear_probe
from manyview.evaluate.linear_sgd import LinearSgd
from manyview.evaluate.model import StepModel
from manyview.evaluate.protocols import call_of, parse_protocols
from manyview.evaluate.report import Report, Table
from manyview.evaluate.robustness import Robustness
from manyview.evaluate.scores import scores_of
from manyview.evaluate.transfer import Transfer
from manyview.judge.record import check_place, file_name, publish, record
from subjects import SLA, TIED, UNLABELED, Broken, counted, features_of, pictures, sunny, trained

REPORT = Report({"": 61.5, "weight": 1e-3}, {"rows": Table(("what", "value"), (("a", 1.0), ("b", None)))})


@pytest.fixture(scope="module")
def step():
    return trained(TIED, 3, sunny(64, 9))


@pytest.fixture(scope="module")
def known(step) -> Features:
    return features_of(step, sunny(40, 4), sunny(80, 2), sunny(30, 3))


# ------------------------------------------------------------------------------------------------------- scores


def test_scores_of_the_classifier(known):
    for by in ("auto", "classifier"):
        scores = scores_of(known, "test", by)
        assert torch.equal(scores.of("val"), known.of("val").logits)
        assert not scores.saw_val
        pixels = known.model.prepare(known.splits.test.pixels)
        with torch.no_grad():
            torch.testing.assert_close(scores.read(pixels), known.of("test").logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", [TIED, UNLABELED])
@pytest.mark.parametrize("split", ["test", "val"])
def test_scores_of_a_probe(text, split):
    known = features_of(trained(text, 3), sunny(40, 4), sunny(80, 2), sunny(30, 3))
    scores = scores_of(known, split, "linear")
    train, val = known.of("train"), known.of("val")
    parts = train.features, train.labels, val.features, val.labels
    if split == "val":
        rest, held = hold_out(train.labels.numpy(), 8, 0, "linear")
        parts = train.features[rest], train.labels[rest], train.features[held], train.labels[held]
    fit = linear_probe(*parts, 3).fit
    expected = known.of(split).features.double() @ fit.coefficients.double().T + fit.bias.double()
    torch.testing.assert_close(scores.of(split).double(), expected, rtol=1e-4, atol=1e-4)
    assert scores.saw_val is (split == "test")
    images = known.images(split)
    pixels = known.model.prepare(images.pixels).requires_grad_()
    found = scores.read(pixels)
    # features are kept as float16: a thousandth of their length
    loose = 2e-3 * float(known.of(split).features.norm(dim=1).max() * fit.coefficients.norm(dim=1).max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=loose)
    (gradient,) = torch.autograd.grad(found[2, 1], pixels)
    assert gradient[2].abs().max() > 0
    if text == UNLABELED:
        assert torch.equal(scores_of(known, split).of(split), scores.of(split)), "auto"
        with pytest.raises(DataError, match=r"^cresnet20\(\) has no classifier of these classes; ask for by='linear'$"):
            scores_of(known, split, "classifier")


def test_a_probe_is_fitted_once_for_all(step):
    seen = []
    known = features_of(step, sunny(20, 4), sunny(40, 2), sunny(20, 3), watch=counted(seen))
    asked = [Calibration(by="linear"), Linear(), Calibration(by="linear", bins=5), Aggregate("mirror", by="linear")]
    evaluate(known, "test", asked)
    assert sorted(what for what, *_ in seen) == ["linear", "mirror of test", "test", "train", "val"]
    evaluate(known, "val", asked)
    assert [what for what, *_ in seen].count("linear") == 2, "that of val may not have seen it"


@pytest.mark.parametrize("kind", [Calibration, Aggregate, Robustness])
def test_by_what(kind):
    with pytest.raises(ValueError, match=r"^unknown by 'liner'; did you mean 'linear'\?"):
        kind(by="liner")


# -------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("by", ["classifier", "linear"])
@pytest.mark.parametrize("split", ["test", "val"])
def test_calibration_by_hand(known, by, split):
    report = Calibration(by=by, bins=5).measure(known, split)
    scores, labels = scores_of(known, split, by).of(split).double(), known.of(split).labels
    expected = calibration(scores.softmax(1), labels)
    expected[""] = float(expected_calibration_error(scores.softmax(1), labels, 15))
    names, floors = ["as it is"], [calibration_floor(scores.softmax(1), 15)]
    if by == "classifier" and split == "test":
        expected["temperature"] = fit_temperature(known.of("val").logits, known.of("val").labels)
        scaled = calibration((scores / expected["temperature"]).softmax(1), labels)
        expected |= {f"scaled_{name}": value for name, value in scaled.items()}
        names += ["after temperature scaling"]
        floors.append(calibration_floor((scores / expected["temperature"]).softmax(1), 15))
    for prefix, floor in zip(("", "scaled_"), floors, strict=False):
        for end, value in (("", floor.mean), ("_low", floor.low), ("_high", floor.high)):
            expected[f"{prefix}ece15_floor{end}"] = value
    assert report.measures == pytest.approx(expected, rel=1e-9)
    assert list(report.tables) == [*names, "floor"]
    assert f"of these {len(labels)} images has an ECE of {floors[0].mean:.3f} (95 %: {floors[0].low:.3f}" in report.note
    of_all = report.tables["floor"].rows
    assert [row[0] for row in of_all][:3] == ["ece10", "ece15", "adaptive_ece15"]
    assert of_all[1][1:] == pytest.approx((expected["ece15"], floors[0].mean, floors[0].low, floors[0].high))
    assert len(of_all) == 3 * len(names)
    for name in names:
        table = report.tables[name]
        assert len(table.rows) == 5
        assert sum(row[1] for row in table.rows) == len(labels)
    assert len(report.draw().axes) == len(names)


class Sure:
    """Features of a network whose scores of test are as given, without a val."""

    splits = Splits(pictures(4, 3), None, pictures(4, 3), tuple("abc"), "a note")
    classifies = True

    def __init__(self, scores, labels):
        self.outputs = Outputs(torch.zeros(len(scores), 2), torch.tensor(labels), torch.tensor(scores))
        self.model = StepModel.__new__(StepModel)

    def of(self, split):
        return self.outputs


def test_a_network_far_too_sure_has_a_loss():
    """A margin of 1,000 is a probability of 0 in float64, whose log would be infinite, and no number in JSON."""
    report = Calibration().measure(Sure([[1000.0, 0.0, 0.0], [0.0, 2000.0, 0.0]], [1, 1]), "test")
    assert report.measures["nll"] == pytest.approx(500)
    assert report.measures["ece15"] == pytest.approx(0.5)


def test_bins_without_images_are_not_bins_of_accuracy_0():
    scores = torch.tensor([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.5, 0.3, 0.2]]).log().tolist()
    report = Calibration(bins=5).measure(Sure(scores, [0, 0, 1]), "test")
    shown = report.tables["as it is"].rows
    assert [(row[1], row[3]) for row in shown] == [(0, None), (0, None), (1, 0.0), (0, None), (2, 1.0)]
    assert [line.split(" | ")[-1] for line in report.tables["as it is"].markdown().splitlines()[2:]] == [
        "– |", "– |", "0.000 |", "– |", "1.000 |",
    ]  # fmt: skip
    (axes,) = report.draw().axes
    accuracies, empty = axes.containers
    assert [round(bar.get_x() + bar.get_width() / 2, 3) for bar in accuracies] == [0.5, 0.9]
    assert [bar.get_height() for bar in accuracies] == [0, 1]
    assert [round(bar.get_x() + bar.get_width() / 2, 3) for bar in empty] == [0.1, 0.3, 0.7]
    assert "no image" in [text.get_text() for text in axes.get_legend().get_texts()]


# ------------------------------------------------------------------------------------------------------ fewshot


@pytest.mark.parametrize("classifier", ["one_vs_rest", "centroid"])
def test_fewshot_by_hand(known, classifier):
    protocol = FewShotTasks(ways=2, shots=2, queries=3, tasks=6, classifier=classifier)
    report = protocol.measure(known, "test")
    outputs = known.of("test")
    expected = few_shot(outputs.features, outputs.labels, ways=2, shots=2, queries=3, tasks=6, classifier=classifier)
    measures = {"": expected.accuracy, "half_width": expected.half_width, "classes_left_out": 0.0}
    assert report.measures == measures
    assert protocol.measure(known, "val").measures != measures
    with pytest.raises(DataError, match=r"^fewshot on test: 500 shots and a query need two classes of ") as caught:
        FewShotTasks(shots=500, tasks=2).measure(known, "test")
    assert "\n" not in str(caught.value)
    for splits in (known.splits, replace(known.splits, val=None)):
        with pytest.raises(DataError, match=r"^evaluate: fewshot: 500 shots and a query need two classes"):
            FewShotTasks(shots=500).check(splits)


def test_fewshot_of_few_classes_and_images(known):
    protocol = FewShotTasks(shots=2, queries=500, tasks=6)
    protocol.check(known.splits)
    report, outputs = protocol.measure(known, "test"), known.of("test")
    least = int(outputs.labels.bincount().min())
    expected = few_shot(outputs.features, outputs.labels, ways=3, shots=2, queries=least - 2, tasks=6)
    assert report.measures == {
        **{"": expected.accuracy, "half_width": expected.half_width, "classes_left_out": 0},
        **{"ways": 3, "queries": least - 2},
    }
    assert report.note == (
        f"fewshot takes ways=3, not 5 and queries={least - 2}, not 500: test has too few classes with as many images"
    )


# ---------------------------------------------------------------------------------------------------- aggregate


def turned(image: Tensor, member: int) -> Tensor:
    return torch.rot90(image, member, (-2, -1))


def test_own_orbit_is_what_the_joint_head_aggregates():
    known = features_of(trained(SLA), pictures(20, seed=5))
    report = Aggregate().measure(known, "test")
    outputs = collect(known.model, known.splits.test, aggregated=True)
    single, averaged = (accuracy(scores, outputs.labels) for scores in (outputs.logits, outputs.aggregated))
    assert report.measures == {
        "": averaged["top1"],
        "single": single["top1"],
        "gain": averaged["top1"] - single["top1"],
        "forwards": 4,
    }
    names = ("top1", "top5", "class_mean", "loss")
    assert report.tables["aggregate"].columns == ("scores of", "forward passes", *names)
    assert report.tables["aggregate"].rows == (
        ("one image", 1, *(single[name] for name in names)),
        ("averaged", 4, *(averaged[name] for name in names)),
    )


@pytest.mark.parametrize("orbit", ["mirror", "rotation"])
@pytest.mark.parametrize("by", ["auto", "linear"])
def test_augmentation_at_test_time_against_a_slow_loop(step, orbit, by):
    test = sunny(23, 4)
    test.labels[5] = -1
    skipped = []
    known = features_of(step, Broken(test, {7}), sunny(60, 2), sunny(30, 3), skipped=skipped)
    report = Aggregate(orbit, by=by).measure(known, "test")
    read = scores_of(known, "test", by).read
    members = [lambda x: x, lambda x: x.flip(-1)]
    if orbit == "rotation":
        members = [lambda x, t=t: turned(x, t) for t in range(4)]
    rows, labels = [], []
    for position in set(range(23)) - {5, 7}:
        pixels = known.model.prepare(test.read(position)[None])
        with torch.no_grad():
            rows.append([read(member(pixels))[0].float() for member in members])
        labels.append(int(test.labels[position]))
    labels = torch.tensor(labels)
    single, averaged = torch.stack([r[0] for r in rows]), torch.stack([torch.stack(r).mean(0) for r in rows])
    for row, scores in zip(report.tables["aggregate"].rows, (single, averaged), strict=True):
        expected = accuracy(scores, labels)
        assert row[2:] == pytest.approx([expected[k] for k in ("top1", "top5", "class_mean", "loss")], rel=1e-4)
    assert report.measures["forwards"] == len(members)
    assert report.measures["gain"] == pytest.approx(report.measures[""] - report.measures["single"])
    assert set(skipped) == {"picture 7: broken"}


def test_images_none_of_which_can_be_read(step):
    known = features_of(step, Broken(sunny(5, 4), set(range(5))), sunny(60, 2), skipped=[])
    with pytest.raises(DataError, match=r"^aggregate: no labelled image of split 'test' could be read$"):
        Aggregate("mirror").measure(known, "test")
    with pytest.raises(DataError, match=r"^finetune: none of 5 images that judge could be read$"):
        Finetune(epochs=1, fraction=0.2).measure(known, "test")


def test_what_cannot_be_aggregated(known):
    with pytest.raises(
        DataError, match=r"tells no members of an orbit apart; name one: aggregate\(orbit='rotation'\)$"
    ):
        Aggregate().measure(known, "test")
    other = features_of(trained(SLA), pictures(8))
    other.model.labels = tuple("ABCDEFGHIJ")
    with pytest.raises(DataError, match=r"has no classifier of these classes; name an orbit: aggregate\(orbit="):
        Aggregate().measure(other, "test")
    with pytest.raises(
        ValueError, match=r"^unknown orbit 'rotations'; did you mean 'rotation'\? orbits: .*mirror.*own"
    ):
        Aggregate("rotations")
    wide = features_of(trained(TIED.replace("resize(12)", "'resize((12, 8))'"), 3), sunny(8, 1), sunny(8, 2))
    with pytest.raises(DataError, match=r"^aggregate: .*square") as caught:
        Aggregate("rotation").measure(wide, "test")
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- transfer


def folder(root, count=24, seed=0, splits=("train", "test"), classes=("cat", "dog", "eel")):
    """root/{train,test}/CLASS/N.png, classes told apart by brightness."""
    draw = np.random.default_rng(seed)
    for split in splits:
        for number in range(count):
            label = number % len(classes)
            path = root / split / classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(60 * label, 60 * label + 120, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def test_transfer_is_the_probe_on_each_set(step, tmp_path):
    from manyview.data import open_splits
    from manyview.recipe.settings import Data

    for seed, name in enumerate(("first", "caltech101")):
        folder(tmp_path / name, seed=seed)
    home = features_of(step, pictures(4, 3), pictures(4, 3))
    home.splits.train.labels[:] = -1
    protocol = Transfer(str(tmp_path), sets=("first", "caltech101"))
    check_protocols([protocol], home.splits)
    report = protocol.measure(home, "test")
    metrics, expected, rows = {"first": "top1", "caltech101": "class_mean"}, {}, []
    for name, metric in metrics.items():
        splits = open_splits(Data(source="folder", root=str(tmp_path / name)), 0)
        expected[name] = Linear(metric).measure(Features(home.model, splits), "test").measures[""]
        rows.append((name, "test", len(splits.train), metric, expected[name]))
    assert report.measures == {"": sum(expected.values()) / 2, **expected}
    assert report.note == ""
    assert report.tables["transfer"].rows == tuple(rows)
    nearest = Transfer(str(tmp_path), sets="first", by="knn(k=3)").measure(home, "val")
    assert nearest.tables["transfer"].rows[0][:4] == ("first", "val", 22, "knn(k=3)")
    mean = Transfer(str(tmp_path), sets="first", by="linear('class_mean')").measure(home, "test")
    assert mean.tables["transfer"].rows[0][3] == "class_mean"


def test_a_set_without_test_is_no_part_of_a_mean_over_test(step, tmp_path):
    for seed, (name, splits) in enumerate({"whole": ("train", "test"), "bare": ("train",)}.items()):
        folder(tmp_path / name, count=48, seed=seed, splits=splits)
    home = features_of(step, pictures(4, 3), pictures(4, 3))
    report = Transfer(str(tmp_path), sets=("whole", "bare"), by="knn(k=3)").measure(home, "test")
    alone = Transfer(str(tmp_path), sets="bare", by="knn(k=3)").measure(home, "val")
    assert list(report.measures) == ["", "whole", "bare_val"]
    assert report.measures[""] == report.measures["whole"]
    assert report.measures["bare_val"] == alone.measures["bare"] == alone.measures[""]
    assert [row[:2] for row in report.tables["transfer"].rows] == [("whole", "test"), ("bare", "val")]
    assert report.note == "no test images in bare: judged on val, and not part of the mean"
    with pytest.raises(DataError, match=r"^transfer: none of the sets has test images; ask for --split val$"):
        Transfer(str(tmp_path), sets="bare", by="knn(k=3)").measure(home, "test")
    few = Transfer(str(tmp_path), sets="whole", by="knn(k=200)").measure(home, "test")
    assert few.note.startswith("whole: knn asks k=")


@pytest.mark.parametrize(
    ("by", "name", "metric"),
    [
        *(("linear", each, "class_mean") for each in ("aircraft", "pets", "caltech101", "flowers")),
        *(("linear", each, "top1") for each in ("cifar10", "cars", "dtd", "own")),
        ("linear('top1')", "pets", "top1"),
        ("linear_probe(metric='class_mean')", "cifar10", "class_mean"),
        ("linear_sgd", "pets", "class_mean"),
        ("linear_sgd(lr=0.1, metric='top1')", "pets", "top1"),
        ("finetune", "aircraft", "class_mean"),
    ],
)
def test_each_set_has_its_metric_unless_the_call_names_one(by, name, metric):
    assert Transfer("x", sets=name, by=by)._protocol(name).metric == metric


def test_transfer_to_parquet_files(step, tmp_path):
    datasets = pytest.importorskip("datasets")
    data = folder(tmp_path / "sets" / "pets" / "images")  # rows of a table may name files below it alone
    for split in ("train", "test"):
        rows = [
            (str(path), ["cat", "dog", "eel"].index(path.parent.name)) for path in sorted(data.glob(f"{split}/*/*"))
        ]
        kinds = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
        )
        table = datasets.Dataset.from_dict({"image": [r[0] for r in rows], "label": [r[1] for r in rows]}, kinds)
        (tmp_path / "sets" / "pets").mkdir(parents=True, exist_ok=True)
        table.to_parquet(str(tmp_path / "sets" / "pets" / f"{split}-00000-of-00001.parquet"))
    home = features_of(step, pictures(4, 3))
    found = Transfer(str(tmp_path / "sets"), sets="pets", by="knn(k=1)").measure(home, "test").measures
    (tmp_path / "sets2").mkdir()
    data.rename(tmp_path / "sets2" / "own")
    same = Transfer(str(tmp_path / "sets2"), sets="own", by="knn(k=1)").measure(home, "test").measures
    assert found["pets"] == same["own"]


def test_transfer_to_what_is_not_there(step, tmp_path):
    home = features_of(step, pictures(4, 3))
    folder(tmp_path / "cifar10", splits=("train",))
    (tmp_path / "stl10").mkdir()
    with pytest.raises(DataError) as caught:
        check_protocols([Transfer(str(tmp_path), sets=("cifar10", "dtd"))], home.splits)
    assert str(caught.value).startswith(f"transfer: no folder {tmp_path / 'dtd'}; each set lies in a folder of its own")
    assert str(caught.value).endswith("Nothing is downloaded unless download=True")
    for name in ("cifar10", "stl10"):
        with pytest.raises(DataError, match=rf"^transfer to {name}: .*{tmp_path / name}") as caught:
            Transfer(str(tmp_path), sets=name).measure(home, "test")
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "stl10").iterdir()) == [], "nothing was downloaded"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("transfer", r"missing a required argument: 'root'"),
        ("transfer('x', sets=())", r"sets must be names"),
        ("transfer('x', sets=(3,))", r"sets must be names"),
        ("transfer('x', sets=('pets', 'pets'))", r"sets names 'pets' twice, which would count twice in the mean"),
        ("transfer('x', sets=('pets', 'dtd', './pets/'))", r"sets names 'pets' twice"),
        ("transfer('x', by='knm')", r"transfer: by: unknown protocol 'knm'; did you mean 'knn'\?"),
        ("transfer('x', by='knn(k=0)')", r"k must be a whole number"),
        ("transfer('x', by=\"transfer('y')\")", r"by must be another protocol than transfer"),
    ],
)
def test_transfers_that_are_refused(call, message):
    with pytest.raises(RecipeError, match=message) as caught:
        parse_protocols([call], "protocol")
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------- data and labels


def without_labels(count):
    images = pictures(count, 3)
    images.labels[:] = -1
    return images


@pytest.mark.parametrize("protocol", [Knn(k=1), Linear(), LinearSgd(), Robustness(by="linear")])
def test_protocols_that_learn_from_labels(protocol):
    with pytest.raises(DataError, match=r"^evaluate: no training image has a label to compare with; there are a note$"):
        check_protocols([protocol], Splits(without_labels(30), None, pictures(9, 3), tuple("abc"), "a note"))


def test_protocols_that_need_no_labels_of_train():
    step = trained(UNLABELED, 3)
    known = features_of(step, sunny(60, 3), without_labels(20))
    asked = [FewShotTasks(ways=3, shots=1, queries=2, tasks=4), Invariance()]
    check_protocols([*asked, Classify(), Calibration(), Aggregate("mirror")], known.splits)
    assert {"fewshot", "invariance"} <= set(evaluate(known, "test", asked))
    for protocol in (Calibration(), Aggregate("mirror")):  # which take a probe where nothing classifies
        with pytest.raises(DataError, match=r"^split 'train' has no labelled images to evaluate; this run has"):
            evaluate(known, "test", [protocol])


def test_a_probe_of_one_class():
    known = features_of(trained(UNLABELED, 3), pictures(9, 3), pictures(30, 1))
    with pytest.raises(DataError, match=r"^linear: .*(class|label)") as caught:
        evaluate(known, "test", [Linear()])
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- result.json


def entries(path):
    return json.loads(path.read_text())["evaluations"]


def test_results_stand_side_by_side(tmp_path):
    path = tmp_path / "result.json"
    before = {"recipe": "a title", "eval": {"top1": 5.0}, "val": {"top1": 4.0}, "list": [1, None]}
    path.write_text(json.dumps(before))
    record(path, "test", Knn(k=1), REPORT)
    record(path, "test", Knn(k=5), REPORT)
    record(path, "test", Linear(), Report({"": 1.0}))
    record(path, "val", Knn(k=1), REPORT)
    record(path, "val", Knn(k=1), REPORT, "folder, root=/a")
    record(path, "val", Knn(k=1), REPORT, "folder, root=/b")
    record(path, "test", Aggregate("rotation", by="linear"), REPORT)
    found = json.loads(path.read_text())
    assert {name: found[name] for name in before} == before
    assert list(found["evaluations"]) == [
        "knn(k=1, temperature=0.1) on test",
        "knn(k=5, temperature=0.1) on test",
        "linear(metric='top1') on test",
        "knn(k=1, temperature=0.1) on val",
        "knn(k=1, temperature=0.1) on val of folder, root=/a",
        "knn(k=1, temperature=0.1) on val of folder, root=/b",
        "aggregate(orbit='rotation', by='linear') on test",
    ]
    first = found["evaluations"]["knn(k=1, temperature=0.1) on test"]
    assert set(first) == {"measures", "note", "tables", "git", "versions"}
    assert first["measures"] == {"": 61.5, "weight": 1e-3}
    assert first["tables"] == {"rows": {"columns": ["what", "value"], "rows": [["a", 1.0], ["b", None]]}}

    record(path, "test", Knn(k=5), Report({"": 7.0}))  # its own alone is replaced
    again = json.loads(path.read_text())
    changed = [key for key, entry in again["evaluations"].items() if entry != found["evaluations"][key]]
    assert changed == ["knn(k=5, temperature=0.1) on test"]
    assert {name: again[name] for name in before} == before


def test_keys_say_all_settings():
    for text in ("knn(k=3)", "transfer('/x y', sets=('a',), by=\"linear('class_mean')\")", "calibration(bins=5)"):
        (protocol,) = parse_protocols([text])
        assert parse_protocols([call_of(protocol)]) == [protocol]


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"evaluations": []}', "\udcff"])
def test_a_damaged_result(tmp_path, text, known):
    path = tmp_path / "result.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    for write in (lambda: record(path, "test", Knn(), REPORT), lambda: check_place(path, known.model)):
        with pytest.raises(RunError, match=rf"^{path} is damaged: ") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == text.encode(errors="surrogateescape")


def test_results_of_another_model_are_left_alone(tmp_path, known):
    path, other = tmp_path / "result.json", StepModel(trained(UNLABELED, 3))
    check_place(path, known.model)
    record(path, "test", Knn(k=1), REPORT, "digits", known.model)
    record(path, "test", Knn(k=2), REPORT, "digits", known.model)
    check_place(path, known.model)
    assert json.loads(path.read_text())["model"] == {"name": "cresnet20()", "key": known.model.key}
    assert len(entries(path)) == 2
    with pytest.raises(RunError, match=r"^.*result.json holds the results of another model; choose another --out$"):
        check_place(path, other)
    path.write_text('{"recipe": "a run\'s", "eval": {}}')
    with pytest.raises(RunError, match=r"holds the results of another model"):
        check_place(path, known.model)


# -------------------------------------------------------------------------------------------------------- reports


def test_reports_are_published(tmp_path, known):
    drawn = Calibration(bins=5).measure(known, "test")
    reports = {Calibration(bins=5): drawn, Knn(k=1): REPORT, Knn(k=2): Report({"": 1.0})}

    def written_down():
        each = [publish(tmp_path / "reports", "test", *pair, known.model) for pair in reports.items()]
        return [path for paths in each for path in paths]

    written = written_down()
    assert [path.name for path in written] == ["calibration_bins=5_test.md", "calibration_bins=5_test.svg",
                                               "knn_k=1_test.md", "knn_k=2_test.md"]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == sorted(path.name for path in written)
    text = written[2].read_text()
    assert text == (
        "# knn(k=1) on test\n\nModel: cresnet20()\n\n## measures\n\n| measure | value |\n| --- | --- |\n"
        "| kNN | 61.50 % |\n| kNN weight | 0.001 |\n\n"
        "## rows\n\n| what | value |\n| --- | --- |\n| a | 1.000 |\n| b | – |\n"
    )
    assert "Model: cresnet20(); scores of the model's own classifier" in written[0].read_text()
    assert ElementTree.fromstring(written[1].read_text()).tag.endswith("svg")
    assert "## as it is\n" in written[0].read_text()
    first = written[1].read_bytes()
    written_down()
    assert re.sub(rb'id="\w+"|#\w+', b"", written[1].read_bytes()) == re.sub(rb'id="\w+"|#\w+', b"", first)


def test_names_of_files_do_not_collide():
    transfer = Transfer("/a/b")
    roots = [
        "/a/b",
        "/a_b",
        "a/b",
        "a b",
        "a'b",
        'a"b',
        "a'/b",
        "..",
        "ä/b",
        "/a/b/" + 80 * "x" + "1",
        "/a/b/" + 80 * "x" + "2",
    ]
    protocols = [replace(transfer, root=root, sets=sets) for root in roots for sets in (transfer.sets, ("a",), ("b",))]
    protocols += [replace(transfer, root="x", by=by) for by in ("knn", "knn(k=1)", "knn(k=11)", "linear('class_mean')")]
    protocols += [Knn(), Knn(k=1), Knn(k=1, temperature=0.2), Linear(), Linear("class_mean")]
    protocols += [Calibration(), Calibration("linear"), Calibration("linear", bins=5), Calibration(bins=5)]
    names = {
        file_name(protocol, split, data)
        for protocol in protocols
        for split in ("val", "test")
        for data in (None, "folder", "folder, root=/a/b", "folder, root=/a_b", "hf")
    }
    assert len(names) == len(protocols) * 2 * 5
    for name in names:
        assert re.fullmatch(r"[\w.=+-]+", name)
        assert len(name.encode()) < 200
    assert file_name(Knn(k=1), "test") == "knn_k=1_test"
    assert file_name(Calibration("linear", bins=5), "val") == "calibration_by=linear_bins=5_val"
    assert file_name(Knn(), "val", "digits") == "knn_val_digits"
    assert file_name(Robustness(severities=(1, 3, 5)), "test") == "robustness_severities=1-3-5_test"


def test_tables():
    with pytest.raises(ValueError, match=r"^each row needs 2 cells, one for each of a, b$"):
        Table(("a", "b"), ((1, 2), (1,)))
    table = Table(("a", "b"), (("x|y", 12345), ("z", 0.12345), ("", None)))
    assert table.markdown().splitlines()[2:] == ["| x\\|y | 12,345 |", "| z | 0.123 |", "|  | – |"]
