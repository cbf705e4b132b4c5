"""Optimisers and schedules by name, from timm; durations in epochs or steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from manyview.errors import RecipeError, unknown
from manyview.grammar import Call, bind, check_arguments, parse_call

if TYPE_CHECKING:
    from manyview.recipe import Train

UNITS = ("epochs", "steps")


@dataclass(frozen=True)
class Clock:
    """The length of a run in optimiser steps. A step is one update, on `batch_size` images over all processes."""

    steps: int
    steps_per_epoch: int


def clock_of(train: Train, images: int) -> Clock:
    """How many steps an epoch over `images` has, and the run. An epoch's rest that fills no batch is left out of it."""
    per_epoch = max(1, images // train.batch_size)
    return Clock(train.steps or (train.epochs or 1) * per_epoch, per_epoch)


def steps_of(duration: str | float, clock: Clock, name: str = "duration") -> int:
    """Steps in "10 epochs", "500 steps", or a fraction of the run given as a number in (0, 1). 0 is 0."""
    if isinstance(duration, str):
        amount, _, unit = duration.strip().partition(" ")
        unit = unit.strip() if unit.strip().endswith("s") else unit.strip() + "s"
        try:
            value = float(amount)
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf or unit not in UNITS:
            raise ValueError(f"{name} is written '10 epochs' or '500 steps', got {duration!r}")
        return round(value * (clock.steps_per_epoch if unit == "epochs" else 1))
    if duration == 0:
        return 0
    if isinstance(duration, bool) or not isinstance(duration, float) or not 0 < duration < 1:
        raise ValueError(f"{name} is '10 epochs', '500 steps', or a fraction of the run in (0, 1), got {duration!r}")
    return round(duration * clock.steps)


def cosine(
    warmup: str | float = 0, floor: float = 0.0, *, per: str = "step", optimizer: Any, clock: Clock
) -> Scheduler:
    """Half a cosine from the optimiser's lr to `floor`, after a linear warm-up (Loshchilov & Hutter, ICLR 2017)."""
    if per not in ("step", "epoch"):
        raise ValueError(f"per must be 'step' or 'epoch', got {per!r}")
    _check_rate("floor", floor)
    prefix = steps_of(warmup, clock, "warmup")
    if prefix >= clock.steps:
        raise ValueError(f"a warm-up of {prefix} steps leaves nothing of a run of {clock.steps}")
    return CosineLRScheduler(optimizer, max(1, clock.steps - prefix), lr_min=floor, **_warmup(prefix, optimizer))


def multistep(
    at: Sequence[str | float], gamma: float = 0.1, warmup: str | float = 0, *, optimizer: Any, clock: Clock
) -> Scheduler:
    """lr times `gamma` at each moment of `at`: durations, or fractions of the run."""
    _check_rate("gamma", gamma)
    # timm counts milestones one step early, by its own long-standing convention
    milestones = sorted(steps_of(moment, clock, "at") + 1 for moment in at)
    return MultiStepLRScheduler(
        optimizer,
        milestones,
        gamma,
        **{**_warmup(steps_of(warmup, clock, "warmup"), optimizer), "warmup_prefix": False},
    )


def step(every: str | float, gamma: float = 0.1, warmup: str | float = 0, *, optimizer: Any, clock: Clock) -> Scheduler:
    """lr times `gamma` each time `every` (a duration, or a fraction of the run) has passed."""
    period = max(1, steps_of(every, clock, "every"))
    moments = [f"{n} steps" for n in range(period, clock.steps + 1, period)]
    return multistep(moments, gamma, warmup, optimizer=optimizer, clock=clock)


def constant(warmup: str | float = 0, *, optimizer: Any, clock: Clock) -> Scheduler:
    """The optimiser's lr throughout, after a linear warm-up."""
    return multistep((), 1.0, warmup, optimizer=optimizer, clock=clock)


SCHEDULES: dict[str, Callable[..., Scheduler]] = {
    "constant": constant,
    "cosine": cosine,
    "multistep": multistep,
    "step": step,
}


def _check_rate(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def _warmup(steps: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    # timm counts from zero, where a warm-up from 0 would waste the first step
    first = optimizer.param_groups[0]["lr"] / steps if steps else 0.0
    return {"warmup_t": steps, "warmup_lr_init": first, "warmup_prefix": True, "t_in_epochs": False}


def make_optimizer(train: Train, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser of that name over all parameters that need gradients.

    `decay_norms=False` leaves biases and norms out of weight decay; the papers' scripts decay all, so it is True here.
    """
    call = parse_call(train.optimizer, "train.optimizer")
    options = dict(call.kwargs)
    decay_norms = options.pop("decay_norms", True)
    if call.name == "sgd":
        options.setdefault("nesterov", False)  # as in torch and the papers; timm's own "sgd" has it on
    try:
        return create_optimizer_v2(module, opt=call.name, filter_bias_and_bn=not decay_norms, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"train.optimizer: {call}: {error}") from None


def make_schedule(train: Train, optimizer: torch.optim.Optimizer, clock: Clock) -> Callable[[int], float]:
    """A function that sets the lr for a step and returns it. It depends on the step alone, so a run can resume."""
    call = parse_call(train.schedule, "train.schedule")
    scheduler = bind(SCHEDULES[call.name], call, "train.schedule", optimizer=optimizer, clock=clock)
    every = clock.steps_per_epoch if call.kwargs.get("per") == "epoch" else 1

    def set_lr(step: int) -> float:
        scheduler.step_update(step // every * every)
        return float(optimizer.param_groups[0]["lr"])

    return set_lr


def check_training(train: Train) -> None:
    """Raises RecipeError for a length given twice or not at all, and for unknown optimisers, schedules, arguments."""
    if (train.epochs is None) == (train.steps is None):
        raise RecipeError("train: give the length of the run once, as epochs or as steps")
    if train.batch_size % train.accumulate:
        raise RecipeError(f"train.accumulate: {train.accumulate} does not divide batch_size {train.batch_size}")
    call = parse_call(train.optimizer, "train.optimizer")
    if call.name not in list_optimizers():
        raise RecipeError(f"train.optimizer: {unknown('optimizer', call.name, list_optimizers())}")
    if call.args:
        raise RecipeError(f"train.optimizer: write arguments by name, as in {call.name}(lr=0.1), got {call}")
    try:
        for key in ("lr", "weight_decay"):
            _check_rate(key, call.kwargs.get(key, 0.0))
    except ValueError as error:
        raise RecipeError(f"train.optimizer: {error}") from None
    given = {key: value for key, value in call.kwargs.items() if key != "decay_norms"}
    optimizer = get_optimizer_class(call.name, bind_defaults=False)
    check_arguments(optimizer, Call(call.name, (), given), "train.optimizer", {"params": None})

    call = parse_call(train.schedule, "train.schedule")
    if call.name not in SCHEDULES:
        raise RecipeError(f"train.schedule: {unknown('schedule', call.name, SCHEDULES)}")
    rehearsal = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    bind(SCHEDULES[call.name], call, "train.schedule", optimizer=rehearsal, clock=Clock(10**9, 10**6))
    try:
        if steps_of(train.checkpoint_every, Clock(10**9, 10**6), "checkpoint_every") < 1:
            raise ValueError("checkpoint_every must be at least one step")
    except ValueError as error:
        raise RecipeError(f"train: {error}") from None
