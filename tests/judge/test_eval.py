"""`manyview eval` of runs, exports and timm's models, on data of their own or elsewhere; and what it refuses."""

import json
import re
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from commands import contents, done, manyview, one_line
from manyview import evaluate as functions
from manyview.data import open_splits
from manyview.evaluate.accuracy import Classify, accuracy
from manyview.evaluate.calibration import calibration
from manyview.evaluate.evaluate import evaluate
from manyview.evaluate.features import Features
from manyview.evaluate.knn import Knn
from manyview.evaluate.linear import Linear
from manyview.evaluate.model import StepModel
from manyview.judge.export import export_timm
from manyview.recipe.settings import Data
from subjects import LETTERS, SLA, TIED, UNLABELED, run_of, trained

ABC = LETTERS[:3]


@pytest.fixture(autouse=True)
def kept_elsewhere(monkeypatch, tmp_path):
    """Features of models that are no runs are kept here, not in the home of who runs the tests."""
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def refused(tmp_path):
    """A function that gives the message of a refused command, and checks that nothing under tmp_path changed."""

    def run(*arguments) -> str:
        before = contents(tmp_path)
        message = one_line(*manyview("eval", *arguments))
        assert contents(tmp_path) == before, "a refused command wrote something"
        return message

    return run


def images(root, splits=("train", "test"), classes=ABC, count=30):
    draw = np.random.default_rng(len(classes))
    for split in splits:
        for number in range(count):
            label = number % len(classes)
            path = root / split / classes[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(50 * label, 50 * label + 120, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def here(root):
    return "data.source=folder", f"data.root={root}"


def evaluations(folder):
    return json.loads((folder / "result.json").read_text())["evaluations"]


def measured(folder, protocol):
    (found,) = [entry["measures"] for key, entry in evaluations(folder).items() if key.startswith(protocol)]
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """An export, a timm checkpoint, a run without labels and one with; images of three classes. To be read only."""
    root = tmp_path_factory.mktemp("shared")
    images(root / "data")
    step = trained(TIED, 3)
    export_timm(run_of(step, root / "labelled"), root / "export")
    run_of(trained(SLA, 3), root / "sla")
    run_of(trained(UNLABELED.replace("train:", f"data: {{root: {root / 'gone'}}}\ntrain:"), 0), root / "unlabelled")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=5).state_dict(), root / "weights.pt")
    return root


# ---------------------------------------------------------------------------------------------------- runs elsewhere


def test_a_run_trained_without_labels_on_labelled_images(shared, tmp_path):
    run = shutil.copytree(shared / "unlabelled", tmp_path / "run")
    (run / "result.json").write_text('{"eval": {}, "val": {"knn": 3.0}}')
    data = images(tmp_path / "labelled")
    printed = done("eval", run, *here(data), "linear", "knn(k=3)", "--split", "test")
    assert f"test of folder, root={data}\n" in printed
    splits = open_splits(Data(source="folder", root=str(data)), 0)
    step = trained(UNLABELED, 0)
    expected = evaluate(Features(StepModel(step), splits), "test", [Linear(), Knn(k=3)])
    key = f"on test of folder, root={data}"
    stored = evaluations(run)
    assert set(stored) == {f"linear(metric='top1') {key}", f"knn(k=3, temperature=0.1) {key}"}
    assert stored[f"knn(k=3, temperature=0.1) {key}"]["measures"][""] == expected["knn"]
    assert stored[f"linear(metric='top1') {key}"]["measures"][""] == expected["linear"]
    assert json.loads((run / "result.json").read_text())["val"] == {"knn": 3.0}
    usual = done("eval", run, *here(data), "--split", "test")
    assert "kNN" in usual


def test_other_data_stand_beside_one_another(shared, tmp_path):
    run = shutil.copytree(shared / "labelled", tmp_path / "run")
    (run / "result.json").write_text('{"eval": {"top1": 1.0}}')
    one, two = images(tmp_path / "one"), images(tmp_path / "two", count=12)
    for data in (*map(here, (one, two)), (*here(one), "data.val_fraction=0.3")):
        assert "top-1" in done("eval", run, *data), "its classes have the same names"
    assert list(evaluations(run)) == [
        f"classify on val of folder, root={one}",
        f"classify on val of folder, root={two}",
        f"classify on val of folder, root={one}, val_fraction=0.3",
    ]
    assert json.loads((run / "result.json").read_text())["eval"] == {"top1": 1.0}


def test_a_run_that_is_not_finished(shared, tmp_path):
    run = shutil.copytree(shared / "sla", tmp_path / "run")
    data = here(shared / "data")
    printed = done("eval", run, *data, "aggregate", "--split", "test")
    assert f"{run} is not finished, so nothing was written\n" in printed
    assert not (run / "result.json").exists()
    done("eval", run, *data, "aggregate", "--split", "test", "--out", tmp_path / "out")
    assert measured(tmp_path / "out", "aggregate(orbit='own'")["forwards"] == 4


# ---------------------------------------------------------------------------------------------- exports, timm's models


def test_an_export(shared, tmp_path):
    printed = done("eval", shared / "export", *here(shared / "data"), "--split", "test", "--out", tmp_path / "out")
    assert "top-1" in printed
    splits = open_splits(Data(source="folder", root=str(shared / "data")), 0)
    expected = evaluate(Features(StepModel(trained(TIED, 3), ABC), splits), "test", [Classify()])
    assert measured(tmp_path / "out", "classify") == pytest.approx(expected, rel=1e-4)
    before = contents(tmp_path / "cache")
    assert len(before) == 2  # a folder and the features of test
    again = done("eval", shared / "export", *here(shared / "data"), "--split", "test", "--out", tmp_path / "out")
    assert again == printed
    assert contents(tmp_path / "cache") == before
    done("eval", shared / "export", *here(shared / "data"), "--no-cache", "--size", 8)
    assert contents(tmp_path / "cache") == before


def test_a_damaged_cache_is_said_and_made_again(shared, tmp_path):
    command = ("eval", shared / "export", *here(shared / "data"))
    printed = done(*command)
    (path,) = (tmp_path / "cache" / "features").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    code, out, err = manyview(*command)
    assert (code, out) == (0, printed)
    assert re.fullmatch(
        rf"manyview: warning: the kept features {path} are damaged \(.+\); they are computed again\n", err
    )
    assert len(path.read_bytes()) == len(whole)
    assert done(*command) == printed


def test_an_image_that_is_repaired_counts_in_the_next_figure(shared, tmp_path):
    data = images(tmp_path / "data", count=60)
    path = sorted((data / "test").rglob("*.png"))[9]  # of 60, 16 are decoded for the key
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    command = ("eval", shared / "export", *here(data), "data.on_bad_image=skip", "knn(k=3)", "--split", "test")
    assert f"skipped: {path}" in done(*command)
    assert f"skipped: {path}" in done(*command)
    path.write_bytes(whole)
    printed = done(*command)
    assert "skipped" not in printed
    assert printed == done(*command, "--no-cache")
    Image.new("RGB", (8, 8), "red").save(path)
    assert done(*command, "--out", tmp_path / "out") == done(*command, "--no-cache", "--out", tmp_path / "out")


def test_small_data_are_adapted_to_and_it_is_told(shared, tmp_path):
    asked = ("knn", "fewshot(tasks=5)", "calibration(bins=400)")
    printed = done("eval", shared / "export", *here(shared / "data"), *asked, "--split", "test", "--out", tmp_path)
    told = {
        "knn": "knn asks k=27 neighbours, not 200: no more training images have a label",
        "fewshot": "fewshot takes ways=3, not 5 and queries=5, not 16: test has too few classes with as many images",
    }
    for protocol, line in told.items():
        assert f"{line}\n" in printed
        (entry,) = [entry for key, entry in evaluations(tmp_path).items() if key.startswith(protocol)]
        assert entry["note"] == line
    assert re.search(r"^kNN k +27$", printed, re.M)


def test_a_timm_model(shared, tmp_path):
    command = ("eval", "test_resnet", "--checkpoint", shared / "weights.pt", "--size", 16, "--out", tmp_path / "out")
    done(*command, *here(shared / "data"), "knn(k=5)", "linear")
    assert 0 <= measured(tmp_path / "out", "knn")[""] <= 100
    done("eval", "test_resnet.r160_in1k", *command[2:], *here(shared / "data"), "knn(k=2)")
    assert len(evaluations(tmp_path / "out")) == 3
    assert (tmp_path / "out" / "result.json").is_file()


# ------------------------------------------------------------------------------------------------------- refusals


NEITHER = "is neither a run (it has no recipe.yaml) nor an export (it has no config.json) nor a model of timm"
TIMM = ["test_resnet", "--checkpoint", "{shared}/weights.pt"]
DATA = ["data.source=folder", "data.root={shared}/data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/missing", *DATA], f"runs/missing {NEITHER}"),
        (["{tmp}/missing"], "{tmp}/missing " + NEITHER),
        (["{shared}"], "{shared} " + NEITHER),
        (["simsiam"], f"simsiam {NEITHER}"),
        (["a b"], f"a b {NEITHER}"),
        (["resnet18", *DATA], "resnet18 is a model of timm; its weights come with --checkpoint FILE"),
        (TIMM, "test_resnet comes without data; say which, as in data.source=cifar10 data.root=DIR"),
        ([*TIMM, "data.source=folder"], "source 'folder' needs data.root; expected root/train/CLASS/*.jpg .*"),
        ([*TIMM, "data.source=folder", "data.root={tmp}/gone"], "no folder {tmp}/gone; expected root/train/CLASS.*"),
        ([*TIMM, "data.source=cifar10", "data.root={tmp}/gone"], ".*{tmp}/gone.*download.*"),
        ([*TIMM, *DATA, "train.epochs=3"], "override 'train.epochs=3': what may be said here begins with data., or is "
         "seed"),
        ([*TIMM, *DATA, "--split", "dev"], "--split: unknown split 'dev'; splits: test, val"),
        ([*TIMM, *DATA, "data.val_fraction=0"], "no split 'val'; there are 30 train, no val, 30 test"),
        ([*TIMM, *DATA, "classify"], "test_resnet has no classifier of these classes; ask for knn or linear"),
        ([*TIMM, *DATA, "--out", "{shared}/weights.pt"], "{shared}/weights.pt is a file; --out names a folder"),
        (["test_vit", *TIMM[1:], *DATA], "{shared}/weights.pt holds weights of another architecture than test_vit(): "
         ".* missing (.*); .* unknown (.*)"),
        (["{shared}/export", *DATA, "--checkpoint", "{shared}/weights.pt"], "{shared}/export is an export, which has "
         "its own weights; drop --checkpoint"),
        (["{shared}/labelled", "--size", "8"], "{shared}/labelled is a run, which has its own checkpoint and size; "
         "drop --checkpoint and --size"),
        (["{shared}/unlabelled"], "no folder {shared}/gone; expected .*"),
        (["{shared}/unlabelled", *DATA, "classify"], "{shared}/unlabelled has no classifier of these classes; .*"),
        (["{shared}/labelled", *DATA, "data.channels=1"], "{shared}/labelled was trained on images of 3 channels; "
         "leave data.channels out"),
        (["{shared}/labelled", *DATA, "seed=3"], "override 'seed=3': a trained run is fixed; .*"),
        (["{shared}/labelled", *DATA, "transfer('{tmp}', sets='pets')"], "transfer: no folder {tmp}/pets; each set .*"),
    ],
)  # fmt: skip
def test_refused_in_one_line(refused, shared, tmp_path, arguments, message):
    def put(text):
        return text.replace("{shared}", str(shared)).replace("{tmp}", str(tmp_path))

    expected = ".*".join(map(re.escape, put(message).split(".*")))
    assert re.fullmatch(expected, found := refused(*map(put, arguments))), found


def test_bad_data_are_refused(refused, shared, tmp_path):
    one = here(images(tmp_path / "one class", classes="a"))
    assert refused("test_resnet", "--checkpoint", shared / "weights.pt", *one) == (
        "train has only one class ('a'); at least two are needed, or no labels at all: folder(labels=None), "
        "hf(label=None)"
    )
    (tmp_path / "empty").mkdir()
    shutil.copytree(shared / "data" / "train", tmp_path / "empty" / "train")
    for name in ABC:
        (tmp_path / "empty" / "val" / name).mkdir(parents=True)
    assert refused(shared / "export", *here(tmp_path / "empty")).startswith(
        f"no images in {tmp_path / 'empty' / 'val'}"
    )
    bare = ("data.source=folder(labels=None)", f"data.root={shared / 'data'}")
    for protocol in ("knn(k=1)", "linear", "linear_sgd", "finetune(lr=0.1)", "fewshot", "calibration"):
        message = one_line(*manyview("eval", shared / "export", *bare, protocol, "--split", "test"))
        assert "classes" in message if protocol == "fewshot" else "label" in message
    message = one_line(*manyview("eval", shared / "export", *bare, "classify", "--split", "test"))
    assert "no classifier of these classes" in message


def test_results_of_two_models_do_not_share_a_folder(shared, tmp_path, refused):
    done("eval", shared / "export", *here(shared / "data"), "--out", tmp_path / "out")
    others = (["test_resnet", "--checkpoint", shared / "weights.pt"], [shared / "sla"])
    for other in others:
        assert refused(*other, *here(shared / "data"), "knn(k=1)", "--out", tmp_path / "out") == (
            f"{tmp_path / 'out' / 'result.json'} holds the results of another model; choose another --out"
        )
    run = shutil.copytree(shared / "sla", tmp_path / "run")
    (run / "result.json").write_text('{"eval": {}}')
    assert "of another model" in refused(shared / "export", *here(shared / "data"), "--out", run)


# ------------------------------------------------------------------------------------------------------- functions


ROWS, FEW = torch.randn(12, 5), torch.arange(11) % 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: accuracy(ROWS, FEW),
        lambda: accuracy(ROWS[:0], FEW[:0]),
        lambda: functions.knn_predict(ROWS, ROWS, FEW, 3, k=2),
        lambda: functions.fit_linear(ROWS, FEW, 3, 1.0),
        lambda: functions.linear_probe(ROWS, FEW, ROWS, FEW, 3),
        lambda: functions.linear_probe(ROWS[:11], FEW, ROWS, FEW, 3),
        lambda: functions.sgd_probe(ROWS, FEW, ROWS, FEW, 3),
        lambda: functions.few_shot(ROWS, FEW, ways=2, shots=1, queries=1, tasks=2),
        lambda: calibration(ROWS.softmax(1), FEW),
        lambda: functions.fit_temperature(ROWS, FEW),
        lambda: functions.brier_score(ROWS.softmax(1), FEW),
        lambda: functions.negative_log_likelihood(ROWS.softmax(1), FEW),
        lambda: functions.expected_calibration_error(ROWS.softmax(1), FEW, 10),
        lambda: functions.reliability(ROWS.softmax(1), FEW, 10),
        lambda: functions.cosines(ROWS, ROWS[:11]),
    ],
)
def test_features_and_labels_of_unlike_length(call):
    with pytest.raises(ValueError, match=r"1[12]|0") as caught:
        call()
    assert "\n" not in str(caught.value)
