"""The parts of a run, each by itself: what is set up, told, and taken for the best or for a collapse."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch

from manyview.errors import ManyviewError, ManyviewWarning
from manyview.load import load_recipe
from manyview.training.collapse import look_for_collapse
from manyview.training.health import PATIENCE
from manyview.training.journal import Journal
from manyview.training.run import Run
from manyview.training.setup import set_up
from manyview.training.state import State
from manyview.training.surroundings import left_as_found
from manyview.training.validation import Validation

SMALL = ("data.limit=80", "train.batch_size=16", "train.epochs=20", "train.optimizer.lr=0.01", "train.accumulate=2")


@pytest.fixture(scope="module")
def setup():
    with left_as_found():
        yield set_up(load_recipe("quickstart", *SMALL), quiet=True).on_devices()


def changed(setup, *overrides):
    return replace(setup, recipe=load_recipe("quickstart", *SMALL, *overrides))


def test_batches_of_the_stream_are_those_of_their_update(setup):
    assert (setup.together, setup.images_per_step) == (8, 16)
    assert setup.clock.steps == 20 * setup.clock.steps_per_epoch
    stream = setup.stream(3)
    for number in range(3 * 2, 3 * 2 + 3):
        batch = next(stream)
        assert batch.index.tolist() == setup.batches[number].index.tolist()
        assert len(batch.index) == 8
    stream.close()


def test_the_step_stays_itself(setup):
    assert setup.accelerator.unwrap_model(setup.wrapped) is setup.step
    trained = {id(weight) for group in setup.optimizer.param_groups for weight in group["params"]}
    assert trained == {id(weight) for weight in setup.step.parameters()}


def test_nothing_is_written_by_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with left_as_found(), pytest.raises(ManyviewError, match=r"train\.accumulate: 3 does not divide"):
        set_up(load_recipe("quickstart", "train.accumulate=3", "train.batch_size=16"), quiet=True)
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ journal


def test_a_journal_writes_speed_and_terms(setup, tmp_path):
    (tmp_path / "run").mkdir()
    journal = Journal(setup, Run(tmp_path / "run"), 4)
    output = {"z": [torch.eye(8), torch.eye(8)], "output": None, "measures": {}}
    journal.update(10, 0.25, {"one": 1.5, "two": 0.5}, output, seconds=3.0)
    journal.epoch(10, {"top1": 50.0}, {"one": 1.5})
    journal.epoch(10, {})  # nothing to write
    journal.close()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epoch = round(10 / setup.clock.steps_per_epoch, 4)
    first = {"loss": 2.0, "terms": {"one": 1.5, "two": 0.5}, "lr": 0.25, "images_per_second": 6 * 16 / 3}
    assert lines[0].items() >= {"step": 10, "epoch": epoch, **first}.items()
    assert lines[0]["alignment"] == journal.spread["alignment"] == 0
    assert lines[1:] == [{"step": 10, "epoch": epoch, "val": {"top1": 50.0}}]


# --------------------------------------------------------------------------------------------------- validation


def test_the_best_is_the_highest_and_of_equals_the_surest(setup):
    validation = Validation(setup, State())
    assert validation.choice == "top1"
    found = [
        validation.is_best(val)
        for val in (
            {},
            {"top1": 40.0, "loss": 2.0},
            {"top1": 40.0, "loss": 2.0},
            {"top1": 40.0, "loss": 1.0},
            {"top1": math.nan, "loss": 0.0},
            {"top1": 39.0, "loss": 0.0},
            {"top1": 41.0, "loss": 9.0},
        )
    ]
    assert found == [False, True, False, True, False, False, True]
    assert validation.state.best == [41.0, -9.0]
    assert not Validation(changed(setup, "train.keep=last"), State()).is_best({"top1": 90.0})


# ----------------------------------------------------------------------------------------------------- collapse

ALIKE = {"output": torch.zeros(16, 10), "z": []}
APART = {"output": 50 * torch.eye(10), "z": []}


def looks(setup, state, outputs, number=100):
    """What is returned and warned of for each logged update."""
    told = []
    for output in outputs:
        state.number = number
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            ends = look_for_collapse(setup, state, output, {}, {"cross_entropy": 2.3})
        told.append((ends, [str(each.message) for each in seen if each.category is ManyviewWarning]))
    return told


def test_a_collapse_is_told_once_and_again_after_a_recovery(setup):
    state = State()
    told = looks(setup, state, [ALIKE] * (PATIENCE + 2) + [APART] + [ALIKE] * PATIENCE)
    assert {ends for ends, _ in told} == {""}
    spoke = [number for number, (_, seen) in enumerate(told) if seen]
    assert spoke == [PATIENCE - 1, 2 * PATIENCE + 2]
    assert told[PATIENCE - 1][1][0].startswith("the classifier answers all images nearly alike: ")
    assert state.low == PATIENCE


def test_a_collapse_may_end_the_run_or_be_ignored(setup):
    told = looks(changed(setup, "train.on_collapse=stop"), State(), [ALIKE] * PATIENCE)
    assert told[:-1] == [("", [])] * (PATIENCE - 1)
    assert told[-1][0].endswith("; stopped, as train.on_collapse says")
    assert told[-1][1] == []
    state = State()
    assert looks(changed(setup, "train.on_collapse=ignore"), state, [ALIKE] * 9) == [("", [])] * 9
    assert state.low == 0
    young = looks(setup, State(), [ALIKE] * 9, number=2)
    assert young == [("", [])] * 9
