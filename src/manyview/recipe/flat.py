"""Settings by their dotted places, and what differs between two tables of them; plain values in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its place; an empty mapping or list has none.

    >>> flat({"train": {"epochs": 2}, "relations": ["cross_entropy(logits(a))"]})
    {'train.epochs': 2, 'relations.0': 'cross_entropy(logits(a))'}
    """
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found: dict[str, Any] = {}
        for key, inner in items:
            found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: value}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines `key: before -> now` for all that differs between two tables of settings."""
    return [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changed(before, now).items()]


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Place -> (before, now) for all that differs between two tables of settings; None where one has no such place."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return {key: (before.get(key), now.get(key)) for key in keys}


__all__ = ["changed", "changes", "flat"]
