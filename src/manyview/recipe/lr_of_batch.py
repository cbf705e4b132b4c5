"""Overrides of lr and of the batch size, which belong together: an lr is for a batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyview.foundation.grammar import Call, parse_call
from manyview.optimize.wrapping import around, inner, optimizer_call

LR, PER = "train.optimizer.lr", "train.optimizer.per"
TRIAL = 20  # updates; a shorter run only tries whether all works


def drop_replaced_per(raw: Mapping[str, Any], keys: Sequence[str]) -> None:
    """An override of lr alone means the run's own batches: the batch size of the recipe's lr goes with it, in place.

    keys: dotted, of all that is overridden.
    """
    train = raw.get("train")
    if LR not in keys or PER in keys or not isinstance(train, dict) or not isinstance(train.get("optimizer"), str):
        return
    call = parse_call(train["optimizer"], "train.optimizer")
    moves = inner(call)
    kept = {key: value for key, value in moves.kwargs.items() if key != "per"}
    train["optimizer"] = str(around(call, Call(moves.name, moves.args, kept)))


def is_lowered(before: Any, size: int, optimizer: str, keys: Sequence[str]) -> bool:
    """Whether an override lowers the batch size under an lr that does not say what size it is for.

    before: the batch size as the recipe has it. keys: dotted, of all that is overridden.
    """
    options = optimizer_call(optimizer).kwargs
    said = any(key.startswith("train.optimizer") for key in keys) or "per" in options or options.get("lr") is None
    return not said and type(before) is int and size < before


def doubt_of(before: int, size: int, optimizer: str) -> str:
    """The line on it."""
    call = optimizer_call(optimizer)
    lr = call.kwargs["lr"]
    return (
        f"train.batch_size={size} is under the recipe's {before}, and the lr of {call.name} stays {lr:g}: "
        f"{PER}={before} makes it {lr * size / before:.3g}, and {LR}={lr:g} says that it is meant"
    )
