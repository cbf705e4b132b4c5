"""What `plan --measure` says a step costs: operations and bytes against their own count."""

import re

import pytest
import torch

from commands import done
from manyview.data import open_splits
from manyview.load import load_recipe
from manyview.show.step_cost import duration, size, step_cost
from manyview.step import Step

SMALL = ("train.batch_size=4", "data.limit=40")


def cost(*overrides):
    recipe = load_recipe("quickstart", *SMALL, *overrides)
    step = Step(recipe, 10)
    return step, step_cost(recipe, step, open_splits(recipe.data, recipe.seed))


@pytest.mark.parametrize(("overrides", "updates"), [((), 1), (("train.accumulate=2",), 1)])
def test_work_is_that_of_convolutions_and_products(overrides, updates):
    """Two operations a multiplication, for each of two views of four images; backwards twice as many, but for the
    first layer, whose input needs no gradient."""
    step, measured = cost(*overrides)
    seen = []
    for module in step.main.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.append((module, output)))
    step.eval()
    step.main.read(torch.zeros(8, 3, 16, 16), ["logits"])
    forward = [2 * module.weight[0].numel() * output.numel() for module, output in seen]
    assert measured.flops == updates * (3 * sum(forward) - forward[0])


def test_an_update_that_looks_twice_costs_twice():
    _, once = cost("train.accumulate=2")
    _, twice = cost("train.accumulate=2", "train.optimizer=sam(sgd(lr=0.1, momentum=0.9))")
    assert twice.flops == 2 * once.flops
    assert twice.kept == once.kept


def test_what_is_computed_again_is_measured_and_said():
    plain, again = (
        done("plan", "quickstart", *SMALL, "train.optimizer.lr=0.1", f"train.checkpointing={asked}", "--measure")
        for asked in ("false", "true")
    )
    found = [[float(work) for work in re.findall(r"([\d.]+) GFLOPs a step", text)] for text in (plain, again)]
    counted, measured = zip(*found, strict=True)
    assert counted == pytest.approx([measured[0]] * 2, rel=0.01)
    assert 1.25 < measured[1] / measured[0] < 1.34  # a further forward pass of all but the first layer and the last
    assert "; what train.checkpointing computes again is not counted" in again
    assert "computes again" not in plain


def test_bytes_of_parameters_gradients_and_momentum():
    step, measured = cost()
    parameters = sum(parameter.numel() for parameter in step.parameters())
    assert measured.held == 3 * 4 * parameters
    _, plain = cost("train.optimizer=sgd(lr=0.1, momentum=0)")
    assert plain.held == 2 * 4 * parameters
    assert measured.peak is None or measured.peak > measured.held


def test_what_the_backward_pass_needs_grows_with_the_batch():
    _, four = cost()
    _, eight = cost("train.batch_size=8")
    assert 1.8 < eight.kept / four.kept < 2.2
    _, parts = cost("train.batch_size=8", "train.accumulate=2")
    assert 0.9 < parts.kept / four.kept < 1.1


def test_the_command_says_it_in_lines():
    printed = done("plan", "quickstart", *SMALL, "train.optimizer.lr=0.1", "--measure")
    assert "measured on cpu, on its data:\n" in printed or "measured on cuda, on its data:\n" in printed
    assert re.search(r"\n  time     .* a step, .* of it for images and views; 150 steps take about ", printed)
    assert re.search(r"\n  memory   3\.09 MiB of parameters, gradients and optimiser, .*iB kept to go back", printed)
    assert re.search(r"\n  work     [\d.]+ GFLOPs a step, ", printed)
    assert "run: 150 steps, 15 epochs of 10\n" in printed


def test_without_data_random_images_are_taken():
    few = ("branches.net.backbone=cresnet20", "train.batch_size=2", "views.a.make=crop(28)", "train.precision=fp32")
    printed = done("plan", "tied_imagenet", *few, "--measure")
    assert "measured on" in printed
    assert "on random images of 32 px:" in printed
    assert "data: not seen" in printed


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "12.3 ms"), (1.26, "1.3 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h"), (259200, "3 days")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_sizes():
    assert [size(2048), size(3 * 2**20), size(5 * 2**29)] == ["2 KiB", "3 MiB", "2.5 GiB"]
