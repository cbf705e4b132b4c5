"""What a training step costs here: time, memory and floating-point operations, measured on two steps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.data import Splits
from manyview.data.batch import Batch
from manyview.foundation.environment import best_device
from manyview.foundation.words import counted
from manyview.optimize.optimize import clock_of, make_optimizer
from manyview.recipe.batches import batches_of
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import streams_seen
from manyview.show.one_update import one_update
from manyview.show.step_flops import random_splits
from manyview.step import Step


@dataclass(frozen=True)
class StepCost:
    """One update. seconds: of the second step. views: the share of them that reading and views took in this process.

    flops: of matrix products and convolutions, forward and backward, a multiplication and an addition being two. held:
    bytes of parameters, gradients and the optimiser's state. kept: bytes that the forward pass keeps for the backward
    one. peak: the most bytes that a GPU held; None without one. on: what the images were.
    """

    seconds: float
    views: float
    flops: int
    held: int
    kept: int
    peak: int | None
    device: str
    on: str

    def lines(self, steps: int | None) -> list[str]:
        """For people. steps: of the whole run, where that is known."""
        run = "" if steps is None else f"; {counted(steps, 'step')} take about {duration(steps * self.seconds)}"
        held, kept = f"{size(self.held)} of parameters, gradients and optimiser", f"{size(self.kept)} kept to go back"
        peak = "" if self.peak is None else f"; at most {size(self.peak)} at once"
        return [
            f"measured on {self.device}, on {self.on}:",
            f"  time     {duration(self.seconds)} a step, {duration(self.views)} of it for images and views{run}",
            f"  memory   {held}, {kept}{peak}",
            f"  work     {self.flops / 1e9:,.3g} GFLOPs a step, {self.flops / 1e9 / self.seconds:,.3g} GFLOPs a second",
        ]


def step_cost(recipe: Recipe, step: Step, splits: Splits | None) -> StepCost:
    """Trains two steps of `step`, which is of no use afterwards. splits: None for random images.

    Activations that are computed again cost what they cost where the step does so, see `training.recompute`.

    Raises ManyviewError for what training refuses.
    """
    from torch.utils.flop_counter import FlopCounterMode

    train, device = recipe.train, torch.device(best_device())
    seen = splits
    if seen is None:
        seen = random_splits(recipe, step, {stream: train.batch_of(stream) for stream in streams_seen(recipe)})
    batches = batches_of(recipe, seen, "workers", step.num_classes)
    step.total_steps = step.total_steps or clock_of(train, seen.counts).steps
    step.train().to(device)
    optimizer = make_optimizer(train, step)
    step.attach(optimizer)
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    waited: list[float] = []

    def part(number: int) -> Batch:
        asked = time.perf_counter()
        batch = batches[number].to(device)
        waited.append(time.perf_counter() - asked)
        return batch

    def update(number: int) -> None:
        waited.clear()
        one_update(step, optimizer, (part(number * train.accumulate + each) for each in range(train.accumulate)))
        if device.type == "cuda":
            torch.cuda.synchronize()

    begins = step.register_forward_pre_hook(lambda *_: storages.clear())  # those of an earlier part are free again
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        update(0)
    begins.remove()
    kept = sum(storages.values())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    update(1)
    seconds = time.perf_counter() - began
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    still = [step.branch(name).backbone for name in step.branches if step.branch(name).spec.frozen is not None]
    weights = [*step.parameters(), *(parameter for module in still for parameter in module.parameters())]
    state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, Tensor)]
    images = "its data" if splits is not None else f"random images of {seen.train.size[0]} px"  # type: ignore[index]
    return StepCost(
        seconds=seconds,
        views=sum(waited),
        flops=counter.get_total_flops(),
        held=_bytes(weights) + _bytes(trained) + _bytes(state),
        kept=kept,
        peak=torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        device=str(device),
        on=images + (", without train.compile" if train.compile else ""),
    )


def duration(seconds: float) -> str:
    """As a person says it: 12 ms, 1.3 s, 12 min, 3.4 h, 2.1 days."""
    for unit, length, least in (("days", 86400, 2), ("h", 3600, 1.5), ("min", 60, 1.5), ("s", 1, 1)):
        if seconds >= least * length:
            return f"{seconds / length:.2g} {unit}" if seconds / length < 100 else f"{seconds / length:,.0f} {unit}"
    return f"{1000 * seconds:.3g} ms"


def size(number: int) -> str:
    """Bytes as GiB, MiB or KiB, three digits."""
    power, name = (30, "GiB") if number >= 2**30 else (20, "MiB") if number >= 2**20 else (10, "KiB")
    return f"{number / 2**power:.3g} {name}"


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
