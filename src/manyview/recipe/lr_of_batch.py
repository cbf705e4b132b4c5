"""Overrides of lr and of the batch size, which belong together: an lr is for a batch size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from manyview.errors import ManyviewWarning
from manyview.foundation.grammar import Call, parse_call

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
    train["optimizer"] = str(Call(call.name, call.args, {k: v for k, v in call.kwargs.items() if k != "per"}))


def tell_of_smaller_batches(before: Any, size: int, optimizer: str, keys: Sequence[str]) -> None:
    """Warns where an override lowers the batch size under an lr that does not say what size it is for.

    before: the batch size as the recipe has it. keys: dotted, of all that is overridden.
    """
    changed = any(key.startswith("train.optimizer") for key in keys)
    call = parse_call(optimizer, "train.optimizer")
    lr = call.kwargs.get("lr")
    if changed or "per" in call.kwargs or lr is None or type(before) is not int or size >= before:
        return
    warnings.warn(
        f"train.batch_size={size} is under the recipe's {before}, and the lr of {call.name} stays {lr:g}: "
        f"{PER}={before} makes it {lr * size / before:.3g}, and {LR}={lr:g} says that it is meant",
        ManyviewWarning,
        stacklevel=2,
    )
