"""A run that learns from a frozen teacher: noted with its digest, taken up again to the bit, judged without it."""

import json
import shutil
import warnings

import pytest
import torch

import commands
import manyview
from manyview.branches.timm_models import timm_library
from manyview.errors import ManyviewError, ManyviewWarning, RunError
from manyview.foundation.files import read_state
from manyview.judge.export import export_timm
from manyview.training.run import Run

pytestmark = pytest.mark.slow(reason="several runs")
TEACHER = """
data: {source: digits, limit: 120}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}}
branches: {net: {backbone: cresnet32, normalize: half}}
relations: ["cross_entropy(logits(a))"]
train: {epochs: 1, batch_size: 24, keep: last}
"""
STUDENT = """
data: {source: digits, limit: 120}
views: {a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5)"}}
branches:
  net: {backbone: cresnet20, normalize: cifar10, t: "projector(h, width_of=teacher)"}
  teacher: "frozen(PLACE)"
relations:
  - cross_entropy(logits(a))
  - distill(logits(a), toward=teacher.logits(a), temperature=4)
  - cosine(t(a), toward=teacher.h(a))
train: {epochs: 2, batch_size: 24, keep: last, checkpoint_every: 2 steps}
"""


def train(text, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ManyviewWarning)
        return manyview.train(manyview.parse_recipe(text), folder, quiet=True, **options)


def student(place):
    return STUDENT.replace("PLACE", "" if place is None else f"'{place}'")


def weights(folder):
    return read_state(Run(folder).last)["step"]


def stopped(folder, monkeypatch, text, at=7, **options):
    """A run that ends in a training step, counted from 0; four of them are an epoch."""
    count = iter(range(100))
    forward = manyview.Step.forward

    def stop(step, *arguments, **named):
        if step.training and next(count) == at:
            raise RuntimeError("the machine went away")
        return forward(step, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(manyview.Step, "forward", stop)
        with pytest.raises(RuntimeError, match="went away"):
            train(text, folder, **options)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(TEACHER, folder)
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory, teacher):
    """A student's run, whose teacher went away afterwards, and its result."""
    folder, place = tmp_path_factory.mktemp("student") / "run", tmp_path_factory.mktemp("gone") / "teacher"
    shutil.copytree(teacher, place)
    result = train(student(place), folder)
    shutil.rmtree(place)
    return folder, place, result


def test_the_folder_names_and_digests_it_and_holds_none_of_its_weights(taught):
    folder, place, result = taught
    note = json.loads((folder / "splits.json").read_text())["starts"]["teacher.backbone"]
    assert note["source"] == f"{place / 'checkpoints' / 'last.pt'} (branch net)"
    assert note["columns"] == {"h": 64, "logits": 10}
    assert len(note["digest"]) == 32
    assert result["starts"]["teacher.backbone"] == note
    assert not [name for name in weights(folder) if "teacher" in name]
    assert f"frozen('{place}')" in (folder / "recipe.yaml").read_text()


def test_it_is_judged_exported_and_read_without_its_teacher(taught, tmp_path):
    folder, place, _ = taught
    run = Run(folder)
    step = run.step(run.recipe())
    pixels = torch.rand(4, 3, 8, 8)
    assert step.read(pixels)["logits"].shape == (4, 10)
    assert commands.manyview("eval", folder, "classify")[0] == 0
    assert export_timm(run, tmp_path / "out")
    with pytest.raises(ManyviewError, match="the given teacher was not opened, since this step was made to be judged"):
        step.train()(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), index=range(4), epoch=0)
    told = commands.one_line(*commands.manyview("train", folder / "recipe.yaml", "--out", tmp_path / "again"))
    assert told.startswith(f"branches.teacher: there is no run, export or file '{place}'")
    assert not (tmp_path / "again").exists()


def test_it_goes_on_to_the_bit_and_refuses_another_teacher(teacher, tmp_path, monkeypatch):
    place = tmp_path / "teacher"
    shutil.copytree(teacher, place)
    train(student(place), tmp_path / "whole")
    stopped(tmp_path / "stopped", monkeypatch, student(place))
    shutil.copytree(tmp_path / "stopped", tmp_path / "other")
    train(student(place), tmp_path / "stopped", resume=True)
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

    train(TEACHER.replace("data:", "seed: 5\ndata:"), tmp_path / "another")
    shutil.copy(tmp_path / "another" / "checkpoints" / "last.pt", place / "checkpoints" / "last.pt")
    with pytest.raises(RunError, match=r"no longer holds the weights with which teacher\.backbone began"):
        train(student(place), tmp_path / "other", resume=True)
    shutil.rmtree(place)
    with pytest.raises(ManyviewError, match="there is no run, export or file"):
        train(student(place), tmp_path / "other", resume=True)


def test_a_module_given_in_python_is_noted_and_asked_for_again(tmp_path, monkeypatch):
    def module(seed):
        torch.manual_seed(seed)
        return timm_library().create_model("cresnet20", num_classes=10)

    given = {"teacher": module(1)}
    before = {name: value.clone() for name, value in given["teacher"].state_dict().items()}
    train(student(None), tmp_path / "whole", backbone=given)
    assert all(torch.equal(value, before[name]) for name, value in given["teacher"].state_dict().items())
    note = json.loads((tmp_path / "whole" / "networks.json").read_text())["teacher"]
    assert (note["network"], note["columns"]) == ("cresnet20", {"h": 64, "logits": 10})

    stopped(tmp_path / "stopped", monkeypatch, student(None), backbone=given)
    for again, told in (
        (None, "frozen.. stands for a network that is given in Python"),
        ({"teacher": module(2)}, "learns from other weights of cresnet20"),
    ):
        with pytest.raises(ManyviewError, match=told):
            train(student(None), tmp_path / "stopped", backbone=again, resume=True)
    train(student(None), tmp_path / "stopped", backbone={"teacher": module(1)}, resume=True)
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

    run = Run(tmp_path / "whole")
    assert run.step(run.recipe()).read(torch.rand(2, 3, 8, 8))["logits"].shape == (2, 10)  # which needs no teacher
    assert commands.manyview("eval", run.folder, "classify")[0] == 0
