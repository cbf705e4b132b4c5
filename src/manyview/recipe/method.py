"""By which method a checkpoint of another loop was trained, as plain values beside its weights; and what is another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from manyview.errors import RunError
from manyview.recipe.flat import changes
from manyview.recipe.recipe import Recipe

PARTS = ("seed", "views", "branches", "relations")
SHOWN = 4  # settings that a message lists


def method_of(recipe: Recipe, parts: Collection[str] = PARTS, ignore: Collection[str] = ()) -> dict[str, Any]:
    """Each setting of these parts by its dotted place, and digests of the words of one's own that they name.

    ignore: places of settings that change no number, or of all settings below.
    """
    left_out = tuple(f"{key}." for key in ignore)
    found = {
        key: value
        for key, value in recipe.flat.items()
        if key.partition(".")[0] in parts and not f"{key}.".startswith(left_out)
    }
    for origin in recipe.words.used_in(" ".join(f"{key} {value}" for key, value in found.items())).origins:
        place = f"words.{origin.called}"  # of which there may be two, in two folders
        found[place] = f"{found.get(place, '')} {origin.digest[:8]}".strip()
    return found


def check_method(kept: Mapping[str, Any], now: Mapping[str, Any], cure: str) -> None:
    """Raises RunError, in one line, where a checkpoint's method is another. cure: what would be right."""
    if changed := changes(kept, now):
        raise RunError(f"the checkpoint was trained with another recipe: {in_a_line(changed)}; {cure}")


def in_a_line(changed: list[str]) -> str:
    """The first of several changes, and how many more there are."""
    more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return "; ".join(changed[:SHOWN]) + more


__all__ = ["PARTS", "SHOWN", "check_method", "in_a_line", "method_of"]
