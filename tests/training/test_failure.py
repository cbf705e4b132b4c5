"""A loss that is no number ends the run: the step named is the right one, and what it saw lies in the folder."""

import json
import math
import os
import re
import shlex

import pytest
import torch

from commands import manyview
from manyview import parse_recipe
from manyview.data import open_splits
from manyview.data.loader import Batches
from manyview.errors import RunError
from manyview.foundation.files import read_state
from manyview.optimize.optimize import clock_of, make_optimizer, make_schedule
from manyview.step import Step
from manyview.training.failure import largest_weight, note_failure
from manyview.training.train import train
from processes import on_two

# the learning rate becomes far too large after 7 steps of 5 an epoch: step 8 goes wrong, and step 9 shows it
DIVERGING = """
title: to diverge
seed: 3
data: {source: digits, limit: 120}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8)"}
  b: {like: a}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), weight=2)
train:
  epochs: 3
  batch_size: 24
  optimizer: "sgd(lr=0.05)"
  schedule: "multistep(at=('7 steps',), gamma=1e28)"
  log_every: 100
  checkpoint_every: 1 steps
"""
CASES = {
    "in memory": ["data.render=memory"],
    "two workers": ["data.render=workers", "data.workers=2"],
    "on the device": ["data.render=device"],
    "parts": ["train.accumulate=2"],
}
LATE = "train.checkpoint_every=100 epochs"


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    """As many workers as are asked for, also on a machine of one core."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def broken(recipe, folder, **more):
    """The message that ends a run."""
    with pytest.raises(RunError) as caught:
        train(recipe, folder, quiet=True, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def first_bad_step(recipe):
    """The step, counted from 1, whose loss is the first that is not finite: by a loop of its own, looking at each."""
    images = open_splits(recipe.data, recipe.seed).train
    clock, parts = clock_of(recipe.train, len(images)), recipe.train.accumulate
    step = Step(recipe, 10, clock.steps)
    optimizer = make_optimizer(recipe.train, step)
    set_lr = make_schedule(recipe.train, optimizer, clock)
    batches = Batches(images, 24, clock.steps_per_epoch, recipe.seed, accumulate=parts)
    for number in range(clock.steps):
        set_lr(number)
        optimizer.zero_grad()
        for part in range(parts):
            batch = batches[number * parts + part]
            loss = step(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)["loss"]
            if not math.isfinite(loss.item()):
                return number + 1
            (loss / parts).backward()
        optimizer.step()
        step.after_step()
    raise AssertionError("the loss stayed finite")


def parts_of(folder):
    return torch.load(folder / "failure" / "batch.pt", weights_only=True)


def strict(path):
    """JSON as the standard has it."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("case", CASES)
def test_the_step_and_what_it_saw(tmp_path, case):
    recipe = parse_recipe(DIVERGING, *CASES[case], LATE)
    message = broken(recipe, tmp_path / "run")
    number = first_bad_step(recipe)
    assert number == 9, "not 10, at which it was noticed"
    began = r"(cross_entropy|similarity|cross_entropy, similarity)"
    folder = re.escape(str(tmp_path / "run" / "failure"))
    assert re.match(
        rf"the loss is not finite at step {number} \({began}; noticed at step 10\); {folder} holds ", message
    )
    assert "lower lr" in message

    splits, epoch = open_splits(recipe.data, recipe.seed), (number - 1) // 5
    whole = Batches(splits.train, 24, 5, recipe.seed)[number - 1]
    saved = parts_of(tmp_path / "run")
    assert (saved["step"], saved["epoch"]) == (number, epoch)
    assert torch.equal(torch.cat([part["index"] for part in saved["parts"]]), whole.index)
    assert torch.equal(torch.cat([part["labels"] for part in saved["parts"]]), whole.labels)
    step = Step(recipe, 10)
    for position, part in enumerate(saved["parts"]):
        assert (part["process"], part["part"], part["epoch"]) == (0, position, epoch)
        rows = slice(position * len(part["index"]), (position + 1) * len(part["index"]))
        views = step.views(whole.images[rows], index=whole.index[rows], epoch=epoch)
        assert list(part["views"]) == list(views) == ["a", "b"]
        for name, view in views.items():
            assert torch.equal(part["views"][name]["pixels"], view.pixels)
            assert part["views"][name]["params"].keys() == view.params.keys() == {"pad_crop", "jitter"}
            for op, params in view.params.items():
                assert part["views"][name]["params"][op].keys() == params.keys()
                for key, value in params.items():
                    assert torch.equal(part["views"][name]["params"][op][key], value)

    told = strict(tmp_path / "run" / "failure" / "failure.json")
    assert (told["step"], told["epoch"], told["seed"]) == (number, epoch, 3)
    assert told["noticed_at"] == 10
    assert set(told["terms"]) == {"cross_entropy", "similarity"}
    assert any(not isinstance(value, float) for value in told["terms"].values())
    assert told["index"] == whole.index.tolist()
    where = {int(index): position for position, index in enumerate(splits.train.index)}
    assert told["names"] == [splits.train.name(where[index]) for index in told["index"]]
    assert message.startswith(told["message"])


def test_the_command_shows_an_image_of_the_step(tmp_path):
    folder = tmp_path / "a run"
    message = broken(parse_recipe(DIVERGING), folder)
    command = re.search(r"to look at an image: (manyview replay .* --out seen.png); ", message).group(1)
    assert command == strict(folder / "failure" / "failure.json")["replay"]
    program, *arguments = shlex.split(command)
    assert program == "manyview"
    assert f"--index {parts_of(folder)['parts'][0]['index'][0]} --epoch {parts_of(folder)['epoch']} " in command
    code, _, err = manyview(*arguments[:-1], tmp_path / "seen.png")
    assert (code, err) == (0, "")
    assert (tmp_path / "seen.png").is_file()


def test_no_checkpoint_is_newer_than_the_failure(tmp_path):
    recipe = parse_recipe(DIVERGING)  # saves after each step
    broken(recipe, tmp_path / "run")
    number = parts_of(tmp_path / "run")["step"]
    assert number == first_bad_step(recipe)
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        saved = read_state(path)
        assert saved["run"]["number"] < number
        assert all(torch.isfinite(value).all() for value in saved["step"].values())
    assert read_state(tmp_path / "run" / "checkpoints" / "last.pt")["run"]["number"] == number - 1
    assert not (tmp_path / "run" / "result.json").exists()
    # nor does a restart pass it by
    assert broken(recipe, tmp_path / "run", resume=True).startswith(f"the loss is not finite at step {number} (")


def test_weights_that_overflow_before_a_loss_does(tmp_path):
    relations = "relations=['cross_entropy(logits(a), weight=1000)', 'similarity(h(a), h(b))']"
    recipe = parse_recipe(DIVERGING, relations, "train.optimizer.lr=1e38", "train.schedule=constant()")
    message = broken(recipe, tmp_path / "run")
    assert re.match(r"a weight is not finite after step 1 \(cross_entropy [\d.]+, similarity [\d.e-]+\); ", message)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert strict(tmp_path / "run" / "failure" / "failure.json")["step"] == 1


def test_a_failure_that_cannot_be_written_is_told_all_the_same(tmp_path):
    folder = tmp_path / "run"
    broken(parse_recipe(DIVERGING), folder)
    number = parts_of(folder)["step"]
    for path in (folder / "failure").iterdir():
        path.unlink()
    (folder / "failure").rmdir()
    (folder / "failure").write_text("in the way")
    message = broken(parse_recipe(DIVERGING), folder, resume=True)
    assert message.startswith(f"the loss is not finite at step {number} (")
    assert "could not be written: cannot write " in message


OWN = """
import torch
from torch import nn
from manyview.relations import Port, Reading

class Bad(nn.Module):
    def __init__(self, a: Port) -> None:
        super().__init__()

    def forward(self, a: Reading) -> torch.Tensor:
        return (a.value.mean() * 0 - 1).sqrt()

RELATIONS = {"bad": Bad}
"""


@pytest.mark.parametrize(
    ("every", "told"),
    [(1, r"\(cross_entropy [\d.]+, bad nan\), bad alone; "), (4, r"\(bad; noticed at step 4\); ")],
    ids=["at once", "later"],
)
def test_the_term_that_began_is_named(tmp_path, every, told):
    (tmp_path / "own.py").write_text(OWN)
    relations = "relations=['cross_entropy(logits(a))', 'bad(h(a))']"
    recipe = parse_recipe(
        DIVERGING, relations, f"train.log_every={every}", "train.checkpoint_every='9 steps'", use=[tmp_path / "own.py"]
    )
    assert re.match(rf"the loss is not finite at step 1 {told}", broken(recipe, tmp_path / "run"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_step_is_kept(bad):
    first = torch.zeros((), dtype=torch.int64)
    noted = []
    for step, value in enumerate([1.0, 0.0, bad, 2.0, -bad, 3.0], start=1):
        first = note_failure(first, torch.tensor(value, requires_grad=True), step)
        noted.append(int(first))
    assert noted == [0, 0, 3, 3, 3, 3]
    assert first.dtype == torch.int64
    assert not first.requires_grad


def test_the_largest_weight():
    step = Step(parse_recipe(DIVERGING), 10)
    expected = max(float(weight.detach().abs().max()) for weight in step.parameters())
    assert float(largest_weight(step)) == expected
    for bad in (math.nan, math.inf):
        weights = list(step.parameters())
        for weight in (weights[0], weights[-1]):
            with torch.no_grad():
                before = weight.view(-1)[0].item()
                weight.view(-1)[0] = bad
                assert not math.isfinite(largest_weight(step))
                weight.view(-1)[0] = before
    assert float(largest_weight(step)) == expected


# ---------------------------------------------------------------------------------------------- two processes


def process(rank, folder):
    try:
        train(parse_recipe(DIVERGING), folder / "run", quiet=True)
    except RunError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    (folder / f"{rank} waits").write_text(str(group.options._timeout.total_seconds()))


@pytest.mark.slow(reason="processes of its own")
def test_two_processes(tmp_path):
    """The main process writes what both of them saw; no process ends before that is done."""
    on_two(process, tmp_path)
    saved = parts_of(tmp_path / "run")
    number = saved["step"]
    assert (tmp_path / "0.txt").read_text().startswith(f"the loss is not finite at step {number} (")
    assert (tmp_path / "1.txt").read_text() == f"step {number} was not finite; the main process tells more"
    recipe = parse_recipe(DIVERGING)
    whole = Batches(open_splits(recipe.data, recipe.seed).train, 24, 5, recipe.seed)[number - 1]
    assert [part["process"] for part in saved["parts"]] == [0, 1]
    for rank in (0, 1):  # torch's own: no process waits while another evaluates
        assert float((tmp_path / f"{rank} waits").read_text()) == 1800
    assert torch.equal(torch.cat([part["index"] for part in saved["parts"]]), whole.index)
    views = Step(recipe, 10).views(whole.images, index=whole.index, epoch=saved["epoch"])
    for name, view in views.items():
        assert torch.equal(torch.cat([part["views"][name]["pixels"] for part in saved["parts"]]), view.pixels)
    assert read_state(tmp_path / "run" / "checkpoints" / "last.pt")["run"]["number"] == number - 1
