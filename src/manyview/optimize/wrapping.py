"""An optimiser's call, and what may stand around it: `sam(sgd(lr=0.1, momentum=0.9), rho=0.05)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manyview.errors import RecipeError
from manyview.foundation.grammar import Call, Name, bind, parse_call, with_argument
from manyview.optimize.sam import Sharpness

WRAPPERS: dict[str, Callable[..., Any]] = {"sam": Sharpness}
"""What stands around another call, its first argument, `of`. It owns the arguments of its signature, and no others."""


def inner(call: Call) -> Call:
    """The call that another stands around; the call itself where nothing stands around it, or around nothing."""
    first = call.args[0] if call.args else call.kwargs.get("of")
    if call.name not in WRAPPERS or not isinstance(first, (Call, Name)):
        return call
    return Call(first.text) if isinstance(first, Name) else first


def around(call: Call, within: Call) -> Call:
    """The same call around another, or that other where nothing stands around it."""
    return within if inner(call) is call else with_argument(call, "of", within, WRAPPERS[call.name])


def optimizer_call(text: str) -> Call:
    """The call of the optimiser that moves the weights, without what stands around it."""
    return inner(parse_call(text, "train.optimizer"))


def sharpness_of(text: str) -> Sharpness | None:
    """What `sam(…)` says, where a recipe's optimiser has it. Raises RecipeError."""
    call = parse_call(text, "train.optimizer")
    return bind(Sharpness, call, "train.optimizer") if call.name == "sam" else None


def looks_of(text: str) -> int:
    """How often an update looks at its batch."""
    return 1 if sharpness_of(text) is None else 2


def refuse_several(text: str, loop: str) -> None:
    """Raises RecipeError for an optimiser that looks at a batch more than once, in a loop that does so once."""
    if looks_of(text) > 1:
        call = parse_call(text, "train.optimizer")
        raise RecipeError(
            f"train.optimizer: {call.name}(…) looks at each batch twice, and {loop} does so once; train with manyview "
            f"train or a loop of your own (docs/own_loop.md), or drop it: train.optimizer='{inner(call)}'"
        )


__all__ = ["WRAPPERS", "around", "inner", "looks_of", "optimizer_call", "refuse_several", "sharpness_of"]
