"""What differs between two values of recipes, as far inside as both are calls of one name."""

from __future__ import annotations

from typing import Any

from manyview.errors import RecipeError
from manyview.foundation.grammar import Call, Name, parse_call

DEFAULT = Name("default")  # of an argument that one of both does not give


def parted(place: str, before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Place -> (before, now): of the arguments that differ, by name or number; nothing where only their order does.

    >>> parted("optimizer", "sgd(lr=0.1, momentum=0.9)", "sgd(momentum=0.9, lr=0.05, nesterov=True)")
    {'optimizer.lr': (0.1, 0.05), 'optimizer.nesterov': (default, True)}
    >>> parted("optimizer", "sgd(lr=0.1)", "adamw(lr=0.1)")
    {'optimizer': ('sgd(lr=0.1)', 'adamw(lr=0.1)')}
    """
    old, new = _called(before), _called(now)
    if old is None or new is None or old.name != new.name:
        return {} if before == now else {place: (before, now)}
    left, right = _arguments(old), _arguments(new)
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**left, **right}:
        found |= parted(f"{place}.{key}", left.get(key, DEFAULT), right.get(key, DEFAULT))
    return found


def _called(value: Any) -> Call | None:
    try:
        return value if isinstance(value, Call) else parse_call(value, "") if isinstance(value, str) else None
    except RecipeError:  # a text of another kind
        return None


def _arguments(call: Call) -> dict[str, Any]:
    return {**{str(number): value for number, value in enumerate(call.args)}, **call.kwargs}


__all__ = ["DEFAULT", "parted"]
