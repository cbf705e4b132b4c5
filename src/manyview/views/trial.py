"""Ops of one's own, tried on noise before anything is trained: what would break replay in silence is refused.

What is packaged has tests for this; a user's op has these few images, which cost some milliseconds.
"""

from __future__ import annotations

import contextlib
import random
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manyview.errors import DataError, ManyviewError, ManyviewWarning, RecipeError, brief
from manyview.foundation.vocabulary import Words, named, own_fault
from manyview.views.draws import Draws
from manyview.views.engine.program import lowers
from manyview.views.engine.render import render
from manyview.views.ops.op import Op, Params, as_float, turnable
from manyview.views.plan import PlannedView
from manyview.views.streams import IMAGE

COUNT = 3  # images of the trial
SIDE = 64  # of an image before the first op
ROUNDING = 1e-4  # by which pixels may differ where sums are taken in another order
LEVELS = 2  # grey levels that a compiled form may be off, rounding included
TIMED = 8  # images whose rendering is timed


@dataclass(frozen=True)
class OwnOp:
    """An op of one's own, or one that is made of such, in its view. size: height and width of what it sees."""

    view: str
    name: str
    op: Op
    size: tuple[int, int]


def own_ops(plan: Mapping[str, PlannedView], words: Words) -> list[OwnOp]:
    """The ops of one's own in a plan, each once, for images of 64 by 64."""
    kinds = tuple(words.own("OPS").values())
    sizes, found = {IMAGE: torch.tensor([[SIDE, SIDE]])}, list[OwnOp]()
    for view in plan.values() if kinds else ():
        size = sizes[view.source.partition(".")[0]]
        for planned in view.ops:
            own = any(isinstance(op, kinds) for op in (planned.op, *getattr(planned.op, "parts", ())))
            if own and not any(each.op is planned.op for each in found):
                height, width = size[0].tolist()
                found.append(OwnOp(view.name, planned.name, planned.op, (height, width)))
            size = planned.op.output_size(size)
        sizes[view.name] = size
    return found


def try_ops(plan: Mapping[str, PlannedView], words: Words, channels: int = 3) -> None:
    """Raises RecipeError for an op of one's own that is not what an op is; see `try_op`."""
    for own in own_ops(plan, words):
        where = f"views.{own.view}.make: {own.name}"
        try:
            try_op(own.op, own.size, channels)
        except DataError:
            continue  # images of this size are not for it
        except (ManyviewError, ValueError) as error:
            raise RecipeError(f"{where}: {error}") from None
        except Exception as error:  # whatever a user's code raises
            raise RecipeError(f"{where}: {own_fault(error) or named(error)}") from None


def try_op(op: Op, size: tuple[int, int], channels: int = 3) -> None:
    """Draws and renders three noise images, together and one by one. Raises ValueError for what no op does.

    That is: to draw outside the numbers it is given, to name draws as having an opposite that it never makes, to write
    into what it is given, to let an image depend on the others of its batch, to give pixels of another size than it
    says, or outside [0, 1], and other pixels by its compiled form, where it has one.
    """
    sizes = torch.tensor([size]).expand(COUNT, 2)
    noise = torch.randint(256, (COUNT, channels, *size), generator=torch.Generator().manual_seed(0))
    with _no_other_draws("sample"):
        draws = Draws(0, 0, range(COUNT), "trial", "op")
        params = op.sample(draws, sizes)
        _check_params(params)
        _check_anti(op, draws.asked)
        alone = [op.sample(Draws(0, 0, [row], "trial", "op"), sizes[:1]) for row in range(COUNT)]
    if any(not torch.equal(params[key][row : row + 1], alone[row][key]) for key in params for row in range(COUNT)):
        raise ValueError("sample gives an image other parameters in a batch than alone; draw by `draws`, for each row")
    for images in (noise.to(torch.uint8), noise.float() / 255):
        _check_render(op, images, params, sizes)
    apart = op.difference(params, params, None)
    if not isinstance(apart, Tensor) or apart.ndim != 2 or len(apart) != COUNT:
        got = [*apart.shape] if isinstance(apart, Tensor) else brief(apart)
        raise ValueError(f"difference gives a row of numbers for each image, [B, k], got {got}")
    if lowers(op):
        _check_lowered(op, noise.to(torch.uint8), params)


def _check_params(params: Params) -> None:
    if not isinstance(params, dict) or not all(isinstance(value, Tensor) for value in params.values()):
        raise ValueError(f"sample gives a dict of tensors, name -> [B, …], got {brief(params)}")
    odd = next((f"{key} {[*value.shape]}" for key, value in params.items() if value.shape[:1] != (COUNT,)), None)
    if odd is not None:
        raise ValueError(f"sample gives a row for each image, [B, …], got {odd} for {COUNT} images")


def _check_anti(op: Op, asked: Collection[str]) -> None:
    """A name that is misspelt would turn nothing, in silence: `anti` and `alternate` would repeat what was drawn."""
    never = [name for name in turnable(op) if name not in asked]
    if not never or not asked:  # an op may draw nothing with these arguments
        return
    told = f"anti names {', '.join(map(repr, never))}, by which sample draws nothing; it draws by "
    told += ", ".join(map(repr, sorted(asked)))
    if len(never) == len(turnable(op)):
        raise ValueError(told)
    warnings.warn(f"{type(op).__name__}: with these arguments {told}", ManyviewWarning, stacklevel=1)


def _check_render(op: Op, images: Tensor, params: Params, sizes: Tensor) -> None:
    given = [images, *params.values()]
    before = [each.clone() for each in given]
    with _no_other_draws("render"):
        made = op.render(images, params)
        if not all(map(torch.equal, given, before)):
            raise ValueError("render writes into the images or parameters that it is given; make new ones")
        rows = [{key: value[row : row + 1] for key, value in params.items()} for row in range(COUNT)]
        alone = [op.render(images[row : row + 1], rows[row]) for row in range(COUNT)]
    wanted = [COUNT, images.shape[1], *op.output_size(sizes)[0].tolist()]
    if not isinstance(made, Tensor) or [*made.shape] != wanted:
        got = [*made.shape] if isinstance(made, Tensor) else f"{brief(made)}"
        raise ValueError(f"render gives images {wanted}, as output_size says, got {got}")
    if made.dtype != torch.uint8 and not made.is_floating_point():
        raise ValueError(f"render gives uint8, or floats in [0, 1], got {made.dtype}")
    pixels = as_float(made)
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ValueError("render gives pixels outside [0, 1], or none; end it with .clamp(0, 1)")
    apart = float((as_float(torch.cat(alone)) - pixels).abs().max())
    if apart > ROUNDING:
        raise ValueError("render makes another picture of an image in a batch than alone; an op sees one image")
    if apart:
        told = "is rendered in a batch to other last bits than alone: a replay shows it to within rounding"
        warnings.warn(f"{type(op).__name__} {told}", ManyviewWarning, stacklevel=1)


def _check_lowered(op: Op, images: Tensor, params: Params) -> None:
    made = render([(op, params)], images)  # type: ignore[list-item]
    if isinstance(made, Tensor):
        apart = 255 * float((as_float(made) - as_float(op.render(images, params))).abs().max())
        if apart > LEVELS:
            raise ValueError(
                f"lower and render make other pixels of the same parameters, up to {apart:.0f} levels apart"
            )


@contextlib.contextmanager
def _no_other_draws(method: str) -> Iterator[None]:
    """Raises ValueError where the block draws from a generator that all share; they are put back."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002, which others still use
    try:
        yield
        now = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        moved = {
            "torch": not torch.equal(states[0], now[0]),
            "Python": states[1] != now[1],
            "NumPy": any(not np.array_equal(one, other) for one, other in zip(states[2], now[2], strict=True)),
        }
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002
    if any(moved.values()):
        whose = next(name for name, drew in moved.items() if drew)
        raise ValueError(
            f"{method} draws from {whose}'s own generator, so that no replay shows what was seen; draw in sample, "
            "as in draws.uniform('name')"
        )


def reference_note(plan: Mapping[str, PlannedView], words: Words) -> str:
    """A line on ops of one's own without a compiled form, and what each costs here; "" where there are none."""
    told = [f"{own.name} (some {_milliseconds(own):.2g} ms an image)" for own in _slow(own_ops(plan, words))]
    return f"no compiled form (`lower`), so rendered by its reference: {', '.join(told)}" if told else ""


def _slow(found: Sequence[OwnOp]) -> list[OwnOp]:
    names: dict[str, OwnOp] = {}
    for own in found:
        if not lowers(own.op):
            names.setdefault(own.name, own)
    return list(names.values())


def _milliseconds(own: OwnOp) -> float:
    sizes = torch.tensor([own.size]).expand(TIMED, 2)
    images = torch.zeros(TIMED, 3, *own.size, dtype=torch.uint8)
    try:
        params = own.op.sample(Draws(0, 0, range(TIMED), "trial", "op"), sizes)
        began = time.perf_counter()
        own.op.render(images, params)
    except DataError:
        return float("nan")
    return 1000 * (time.perf_counter() - began) / TIMED
