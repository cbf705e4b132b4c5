"""Whether an object has the methods of a protocol, looked up once for each class: Python's own check is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")
_KNOWN: dict[tuple[type, Any], bool] = {}  # no `functools.cache`: torch's compiler warns of one


def follows(thing: object, protocol: Callable[..., T]) -> TypeGuard[T]:
    """`isinstance(thing, protocol)` of a protocol that can be checked at run time and has methods alone."""
    asked: tuple[type, Any] = (type(thing), protocol)
    if asked not in _KNOWN:
        _KNOWN[asked] = issubclass(*asked)
    return _KNOWN[asked]


__all__ = ["follows"]
