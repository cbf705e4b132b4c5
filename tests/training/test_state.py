"""A checkpoint: what is written is what is read, and what a later version wrote is refused before anything changes."""

import math

import pytest
import torch

from manyview.errors import RunError
from manyview.foundation.files import read_state, write_state
from manyview.load import load_recipe
from manyview.optimize.optimize import make_optimizer
from manyview.step import Step
from manyview.training.state import State, checkpoint_of, read_checkpoint


def write(path, step, optimizer, state):
    write_state(path, checkpoint_of(path, step, optimizer, state))


def parts(seed=0):
    step = Step(load_recipe("quickstart", f"seed={seed}"), 10, 10)
    return step, make_optimizer(step.recipe.train, step)


def updated(step, optimizer):
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8).expand(4, 3, 8, 8)
    step(images, torch.arange(4), index=range(4), epoch=0)["loss"].backward()
    optimizer.step()
    step.after_step()


def test_what_is_written_is_read(tmp_path):
    (step, optimizer), (other, others) = parts(), parts(seed=1)
    updated(step, optimizer)
    state = State(number=7, best=[51.5, -0.25], low=3, seconds=1.5, waited=0.5, untrained={"val": {"knn": 20.0}})
    state.skip(["b: damaged", "a: damaged"])
    state.skip(["b: damaged"])
    assert state.skipped == ["a: damaged", "b: damaged"]
    write(tmp_path / "last.pt", step, optimizer, state)
    assert read_checkpoint(tmp_path / "last.pt", other, others) == state
    for name, value in step.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    momenta = [
        [entry["momentum_buffer"] for entry in each.state_dict()["state"].values()] for each in (optimizer, others)
    ]
    assert momenta[0]
    assert all(map(torch.equal, *momenta))


def test_a_run_begins_with_nothing():
    assert State() == State(0, [-math.inf, -math.inf], 0, [], 0.0, 0.0, {})
    assert State().best is not State().best


def test_a_checkpoint_without_what_came_later_is_read(tmp_path):
    step, optimizer = parts()
    write(tmp_path / "last.pt", step, optimizer, State(number=3))
    saved = read_state(tmp_path / "last.pt")
    del saved["run"]["untrained"]
    write_state(tmp_path / "last.pt", saved)
    assert read_checkpoint(tmp_path / "last.pt", step, optimizer) == State(number=3)


def test_a_checkpoint_of_a_later_version_is_refused_and_nothing_changes(tmp_path):
    (step, optimizer), (other, others) = parts(), parts(seed=1)
    write(tmp_path / "last.pt", step, optimizer, State())
    saved = read_state(tmp_path / "last.pt")
    saved["run"]["streams"] = {}
    write_state(tmp_path / "last.pt", saved)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(RunError, match=r"last\.pt is of a later manyview, which also keeps streams; resume with that$"):
        read_checkpoint(tmp_path / "last.pt", other, others)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("case", ["weights", "network", "optimizer"])
def test_a_checkpoint_of_something_else_is_one_line(tmp_path, case):
    step, optimizer = parts()
    write(tmp_path / "last.pt", step, optimizer, State())
    saved = read_state(tmp_path / "last.pt")
    if case == "weights":
        saved = saved["step"]
    elif case == "network":
        saved["step"].pop("branches.net.backbone.conv1.weight")
    else:
        saved["optimizer"]["param_groups"].pop()
    write_state(tmp_path / "last.pt", saved)
    told = "no checkpoint that a run can go on from" if case == "weights" else "does not fit the run's recipe: "
    with pytest.raises(RunError, match=told) as caught:
        read_checkpoint(tmp_path / "last.pt", step, optimizer)
    assert "\n" not in str(caught.value)
