"""Optimisers and schedules by name, from timm; rules for parts of the networks; durations in epochs or steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from manyview.errors import RecipeError, reason, unknown
from manyview.foundation.grammar import Call, bind, check_arguments, parse_call
from manyview.foundation.words import counted
from manyview.optimize.layers import scales
from manyview.optimize.sam import Sam
from manyview.optimize.wrapping import WRAPPERS, optimizer_call, sharpness_of
from manyview.views.ops.op import check_not_negative
from manyview.views.streams import IMAGE

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler

    from manyview.recipe.settings import Train

UNITS = ("epochs", "steps")


@dataclass(frozen=True)
class Clock:
    """The length of a run in optimiser steps. A step is one update, on `batch_size` images over all processes."""

    steps: int
    steps_per_epoch: int


def clock_of(train: Train, images: int | Mapping[str, int]) -> Clock:
    """How many steps an epoch over `images` has, and the run. An epoch's rest that fills no batch is left out of it.

    images: how many there are, or how many of each stream; epochs are those of the stream that has most.
    """
    counts = {IMAGE: images} if isinstance(images, int) else images
    per_epoch = steps_an_epoch(train, max(counts, key=lambda stream: counts[stream]), max(counts.values()))
    return Clock(train.steps or (train.epochs or 1) * per_epoch, per_epoch)


def images_of(train: Train, counts: Mapping[str, int]) -> dict[str, int]:
    """How many images of each stream an update sees, over all processes. counts: how many each stream has."""
    return {stream: min(train.batch_of(stream), count) for stream, count in counts.items()}


def steps_an_epoch(train: Train, stream: str, images: int) -> int:
    """How many steps an epoch over so many images of a stream has."""
    return max(1, images // train.batch_of(stream))


def steps_of(duration: str | float, clock: Clock, name: str = "duration") -> int:
    """Steps in "10 epochs", "500 steps", or a fraction of the run given as a number in (0, 1). 0 is 0."""
    if isinstance(duration, str):
        amount, _, unit = duration.strip().partition(" ")
        unit = unit.strip() if unit.strip().endswith("s") else unit.strip() + "s"
        try:
            value = float(amount)
        except ValueError:
            value = -1.0
        steps = value * (clock.steps_per_epoch if unit == "epochs" else 1)
        if not 0 <= steps < math.inf or unit not in UNITS:
            raise ValueError(f"{name} is written '10 epochs' or '500 steps', got {duration!r}")
        return round(steps)
    if duration == 0:
        return 0
    if isinstance(duration, bool) or not isinstance(duration, float) or not 0 < duration < 1:
        raise ValueError(f"{name} is '10 epochs', '500 steps', or a fraction of the run in (0, 1), got {duration!r}")
    return round(duration * clock.steps)


def cosine(
    warmup: str | float = 0,
    floor: float = 0.0,
    *,
    per: str = "step",
    start: float | None = None,
    optimizer: Any,
    clock: Clock,
) -> Scheduler:
    """Half a cosine from the optimiser's lr to `floor`, after a linear warm-up (Loshchilov & Hutter, ICLR 2017).

    per: "epoch" keeps one rate for a whole epoch, in the warm-up too: epoch e of its n, counted from 0, has (e + 1) / n
    of lr. start: the share of lr that the first step (or epoch) of the warm-up has instead, the last one having all of
    it: `warmup='10 epochs', per='epoch', start=0` is DSSL's linspace(0, lr, 10)[epoch], whose first epoch learns
    nothing.
    """
    from timm.scheduler import CosineLRScheduler

    if per not in ("step", "epoch"):
        raise ValueError(f"per must be 'step' or 'epoch', got {per!r}")
    check_not_negative("floor", floor)
    if start is not None and (type(start) not in (int, float) or not 0 <= start <= 1):
        raise ValueError(f"start is a share of lr in [0, 1], got {start!r}")
    every = clock.steps_per_epoch if per == "epoch" else 1
    prefix = -(-steps_of(warmup, clock, "warmup") // every) * every
    if start is not None and not prefix:
        raise ValueError("start is where a warm-up begins; give warmup, too")
    if prefix >= clock.steps:
        raise ValueError(
            f"a warm-up of {counted(prefix, 'step')} leaves nothing of a run of {clock.steps}; "
            "shorten it, as in train.schedule.warmup=0.1"
        )
    # a cosine of one step is at its peak as that of two is; timm's logger would warn of it
    scheduler = CosineLRScheduler(optimizer, max(2, clock.steps - prefix), lr_min=floor, **_warmup(prefix, optimizer))
    if prefix and (start is not None or per == "epoch"):  # at lr in the last moment before the cosine, not in its first
        peak, moments = scheduler.base_values[0], prefix // every
        first = peak * (1 / moments if start is None else start)
        scheduler.warmup_lr_init, scheduler.warmup_steps = first, [(peak - first) / max(1, moments - 1) / every]
    return scheduler


def multistep(
    at: Sequence[str | float], gamma: float = 0.1, warmup: str | float = 0, *, optimizer: Any, clock: Clock
) -> Scheduler:
    """lr times `gamma` at each moment of `at`: durations, or fractions of the run."""
    from timm.scheduler import MultiStepLRScheduler

    check_not_negative("gamma", gamma)
    if not isinstance(at, (tuple, list)):
        raise ValueError(f"at is a list of moments, as in at=(0.5, '150 epochs'), got {at!r}")
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
    from timm.scheduler import StepLRScheduler

    check_not_negative("gamma", gamma)
    period = steps_of(every, clock, "every")
    if period < 1:
        raise ValueError(f"every must be at least one step, got {every!r}")
    warm = {**_warmup(steps_of(warmup, clock, "warmup"), optimizer), "warmup_prefix": False}
    return StepLRScheduler(optimizer, period, gamma, **warm)


def constant(warmup: str | float = 0, *, optimizer: Any, clock: Clock) -> Scheduler:
    """The optimiser's lr throughout, after a linear warm-up."""
    return multistep((), 1.0, warmup, optimizer=optimizer, clock=clock)


SCHEDULES: dict[str, Callable[..., Scheduler]] = {
    "constant": constant,
    "cosine": cosine,
    "multistep": multistep,
    "step": step,
}


def _warmup(steps: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    # timm counts from zero, where a warm-up from 0 would waste the first step
    first = optimizer.param_groups[0]["lr"] / steps if steps else 0.0
    return {"warmup_t": steps, "warmup_lr_init": first, "warmup_prefix": True, "t_in_epochs": False}


@dataclass(frozen=True)
class Rules:
    """Arguments of `train.optimizer` that are ours and not the optimiser's.

    per: the batch size that lr is for; a run of another is given lr * batch_size / per (Goyal et al., 2017, section
    2.1), and its schedule's floor likewise. decay_norms: False takes biases and norms out of weight decay. constant:
    parts of the networks whose lr stays as it is through warm-up and schedule, one name or several, such as SimSiam's
    predictor (Chen & He, CVPR 2021, section 4.2). scale: part -> factor of its lr; a part with 0 is fixed, its
    BatchNorm and dropout too. For the names of parts see `parts_of`. layer_decay: a factor by which the lr of each
    layer of a backbone is less than that of the next, from the heads down, see `layers`. decay_to: what weight decay
    comes to along half a cosine over the run, from the optimiser's weight_decay (DINO: 0.04 to 0.4).
    """

    per: int | None = None
    decay_norms: bool = True
    constant: str | Sequence[str] = ()
    scale: Mapping[str, float] = field(default_factory=dict)
    layer_decay: float | None = None
    decay_to: float | None = None

    def __post_init__(self) -> None:
        if self.per is not None and (type(self.per) is not int or self.per < 1):
            raise ValueError(f"per is the batch size that lr is for, a whole number, got {self.per!r}")
        if not isinstance(self.decay_norms, bool):
            raise ValueError(f"decay_norms must be True or False, got {self.decay_norms!r}")
        if not isinstance(self.constant, (str, tuple, list)) or not all(isinstance(part, str) for part in self.held):
            raise ValueError(f"constant names one part in quotes, 'p', or several, ('p', 'z'), got {self.constant!r}")
        if not isinstance(self.scale, dict) or not all(isinstance(part, str) for part in self.scale):
            raise ValueError(f"scale gives a factor to each part, as in {{'backbone': 0.1}}, got {self.scale!r}")
        for part, factor in self.scale.items():
            check_not_negative(f"scale of '{part}'", factor)
        decay = self.layer_decay
        if decay is not None and (type(decay) not in (int, float) or not 0 < decay <= 1):
            raise ValueError(f"layer_decay is a factor above 0 and at most 1, got {decay!r}")
        if self.decay_to is not None:
            check_not_negative("decay_to", self.decay_to)

    @property
    def held(self) -> tuple[str, ...]:
        """The parts with a constant lr."""
        return (self.constant,) if isinstance(self.constant, str) else tuple(self.constant)


def parts_of(name: str) -> list[str]:
    """What a recipe may call the part of a step that a parameter of this name belongs to.

    `backbone` or a head, in all branches or as `online.p` in one; for a relation's own modules the relation's name.
    """
    match name.split("."):
        case ["branches", branch, "backbone", *_]:
            return ["backbone", f"{branch}.backbone"]
        case ["branches", branch, "heads", head, *_]:
            return [head, f"{branch}.{head}"]
        case ["relations", relation, *_]:
            return [relation]
    return []


def fixed_parts(train: Train) -> list[str]:
    """The parts whose lr is scaled to 0: they do not learn, and must not change in any other way."""
    scale = optimizer_call(train.optimizer).kwargs.get("scale", {})
    return [part for part, factor in scale.items() if factor == 0]


def parameter_groups(module: nn.Module, weight_decay: float, rules: Rules) -> list[dict[str, Any]]:
    """All parameters that need gradients, each in one group: {params, weight_decay, constant, scale}.

    What the module's `no_weight_decay()` names or matches never decays. Without rules for parts the groups are those of
    timm. Raises ValueError for parts that do not exist, for a part whose lr is scaled under two names, and for a
    layer_decay of networks that do not tell their layers.
    """
    spared: set[str] = getattr(module, "no_weight_decay", set)()
    idle: set[str] = getattr(module, "idle", set())
    of: Callable[[str], list[str]] = getattr(module, "parts_of", parts_of)
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    layers: dict[str, float] = {} if rules.layer_decay is None else scales(module, rules.layer_decay)
    known: set[str] = set()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or name in idle:
            continue
        parts = of(name)
        known.update(parts)
        scaled = [part for part in parts if part in rules.scale]
        if len(scaled) > 1:
            raise ValueError(f"scale has '{scaled[0]}' and '{scaled[1]}', which are the same part; keep one")
        bare = not rules.decay_norms and (parameter.ndim <= 1 or name.endswith(".bias"))
        decays = not bare and not any(fnmatch(name, pattern) for pattern in spared)
        key = (
            any(part in rules.held for part in parts),
            (float(rules.scale[scaled[0]]) if scaled else 1.0) * layers.get(name, 1.0),
            weight_decay if decays else 0.0,
        )
        groups.setdefault(key, []).append(parameter)
    for part in (*rules.held, *rules.scale):
        if part not in known:
            raise ValueError(unknown("part", part, known))
    return [
        {"params": groups[key], "weight_decay": key[2], "constant": key[0], "scale": key[1]} for key in sorted(groups)
    ]


def make_optimizer(train: Train, module: nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser of that name over all parameters that need gradients, in the groups of `parameter_groups`.

    What the call leaves out is as in torch and the papers, see `_left_out`: `sgd(lr=0.1)` has no momentum. Weight decay
    alone is 0 unless given, for adamw too.
    `decay_norms=False` leaves biases and norms out of weight decay; the papers' scripts decay all, so it is True here.
    `lars` (You et al., 2017) with it also leaves them out of its layer-wise rates, as SimCLR and BYOL do, since timm's
    adapts only what decays; as in BYOL's code, and other than in SimCLR's, lr is not in the momentum.
    What stands around it, as `sam(…)`, is around it here. Raises RecipeError for parts that the module does not have
    and for what the optimiser refuses.
    """
    from timm.optim import create_optimizer_v2

    call, sharp = optimizer_call(train.optimizer), sharpness_of(train.optimizer)
    options, ours = split_options(call)
    options = {**_left_out(call.name), **options}
    try:
        if "lr" in options:
            options["lr"] *= lr_factor(train)
        groups = parameter_groups(module, options.pop("weight_decay", 0.0), Rules(**ours))
        optimizer = create_optimizer_v2(groups, opt=call.name, **options)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise RecipeError(f"train.optimizer: {call}: refused by the optimiser: {reason(error)}") from None
    if optimizer.defaults["lr"] is None:
        raise RecipeError(f"train.optimizer: {call}: give the learning rate, as in {call.name}(lr=0.01)")
    for group in optimizer.param_groups:
        group["lr"] *= group["scale"]
    if sharp is None:
        return optimizer
    return Sam(optimizer, module, sharp.rho, sharp.adaptive, sharp.ascend, sharp.descend)


def lr_factor(train: Train) -> float:
    """What lr is multiplied by: batch_size / per, where the optimiser's call says what batch size lr is for; else 1."""
    per = optimizer_call(train.optimizer).kwargs.get("per")
    return 1.0 if per is None else train.batch_size / per


def _left_out(name: str) -> dict[str, Any]:
    """The defaults of an optimiser's own class, where timm's factory would put others in silence.

    It gives all a momentum of 0.9, sgd Nesterov's, rmsprop an alpha of 0.9, adagrad another eps, muon less momentum
    than its authors. Names that say it (momentum, nesterov, nlars) keep what they say.
    """
    from timm.optim import get_optimizer_class

    if name.startswith(("momentum", "n")):
        return {}
    parameters = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    kept = ("alpha", "eps", "momentum", "nesterov", "wd_ratio")
    return {setting: parameters[setting].default for setting in kept if setting in parameters}


def parts(branches: Mapping[str, Sequence[str]], relations: Iterable[str]) -> set[str]:
    """All that a recipe may call a part. branches: names of heads, by branch; relations: names."""
    own = {name for branch, heads in branches.items() for name in (*heads, *(f"{branch}.{head}" for head in heads))}
    return {"backbone", *(f"{branch}.backbone" for branch in branches), *own, *relations}


def split_options(call: Call) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call's arguments: the optimiser's, and ours."""
    names = [rule.name for rule in fields(Rules)]
    ours = {key: value for key, value in call.kwargs.items() if key in names}
    return {key: value for key, value in call.kwargs.items() if key not in names}, ours


def make_schedule(train: Train, optimizer: torch.optim.Optimizer, clock: Clock) -> Callable[[int], float]:
    """A function that sets the lr for a step and returns it. It depends on the step alone, so a run can resume.

    Groups of `make_optimizer` with `constant` keep the optimiser's lr, and all are multiplied by their `scale`; what is
    returned is the lr of the others. With `decay_to` it sets weight decay, too, of the groups that have one.
    """
    call = parse_call(train.schedule, "train.schedule")
    peak, factor = float(optimizer.defaults["lr"]), lr_factor(train)
    # what the schedule is computed on: for the batch size that lr and floor are for
    plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak / factor)
    scheduler = bind(SCHEDULES[call.name], call, "train.schedule", optimizer=plain, clock=clock)
    every = clock.steps_per_epoch if call.kwargs.get("per") == "epoch" else 1
    given = optimizer_call(train.optimizer).kwargs
    first = given.get("weight_decay", 0.0)
    last = given.get("decay_to", first)

    def set_lr(step: int) -> float:
        scheduler.step_update(step // every * every)
        lr = float(plain.param_groups[0]["lr"]) * factor
        for group in optimizer.param_groups:
            group["lr"] = (peak if group.get("constant") else lr) * group.get("scale", 1.0)
            if last != first and group.get("weight_decay"):
                share = (1 + math.cos(math.pi * min(1.0, step / clock.steps))) / 2
                group["weight_decay"] = first * share + last * (1 - share)
        return lr

    return set_lr


def _check_alike(name: str, value: Any, default: Any) -> None:
    """Raises RecipeError unless a value is of its default's kind, which optimisers may find out at their first step."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool) and not isinstance(value, bool):
        raise RecipeError(f"{name} must be True or False, got {value!r}")
    if isinstance(default, (int, float)) and not isinstance(default, bool) and not number:
        raise RecipeError(f"{name} must be a number, got {value!r}")
    if isinstance(default, tuple) and not (isinstance(value, (tuple, list)) and len(value) == len(default)):
        raise RecipeError(f"{name} must be {len(default)} numbers, got {value!r}")


def check_training(
    train: Train, known: Collection[str] | None = None, relations: Collection[str] | None = None
) -> None:
    """Raises RecipeError for a length given twice or not at all, and for unknown optimisers, schedules, arguments.

    known: the parts of the networks that rules may name, see `parts`; relations: those that `sam(…)` may; None: any.
    """
    from timm.optim import get_optimizer_class, list_optimizers

    if (train.epochs is None) == (train.steps is None):
        raise RecipeError("train: give the length of the run once, as epochs or as steps")
    if train.batch_size % train.accumulate:
        raise RecipeError(f"train.accumulate: {train.accumulate} does not divide batch_size {train.batch_size}")
    sharp, call = sharpness_of(train.optimizer), optimizer_call(train.optimizer)
    if call.name not in list_optimizers():
        raise RecipeError(f"train.optimizer: {unknown('optimizer', call.name, [*list_optimizers(), *WRAPPERS])}")
    if call.args:
        raise RecipeError(f"train.optimizer: write arguments by name, as in {call.name}(lr=0.1), got {call}")
    options, ours = split_options(call)
    try:
        if sharp is not None and relations is not None:
            sharp.check_relations(relations)
        optimizer = get_optimizer_class(call.name, bind_defaults=False)
        for key in ("lr", "weight_decay"):
            check_not_negative(key, options.get(key, 0.0))
        rules = Rules(**ours)
        if rules.decay_to is not None and not options.get("weight_decay"):
            raise ValueError("decay_to is where weight decay ends; say where it begins, too, as in weight_decay=0.04")
        for part in (*rules.held, *rules.scale):
            if known is not None and part not in known:
                raise ValueError(unknown("part", part, known))
    except (AssertionError, ImportError) as error:  # timm's way to say what an optimiser lacks here
        raise RecipeError(f"train.optimizer: {call.name}: not to be had here; timm says: {error}") from None
    except ValueError as error:
        raise RecipeError(f"train.optimizer: {error}") from None
    names = [name for name in inspect.signature(optimizer).parameters if name != "params"]
    names += [rule.name for rule in fields(Rules)]
    for key in options:
        if key not in names:
            raise RecipeError(f"train.optimizer: {call.name}: {unknown('argument', key, names)}")
    check_arguments(optimizer, Call(call.name, (), options), "train.optimizer", {"params": None})
    for key, value in options.items():
        _check_alike(
            f"train.optimizer: {call.name}: {key}", value, inspect.signature(optimizer).parameters[key].default
        )
    make_optimizer(
        train.model_copy(update={"optimizer": str(Call(call.name, (), options))}), skip_init(nn.Linear, 1, 1)
    )

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
