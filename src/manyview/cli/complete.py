"""What the shell offers when Tab is pressed: names and folders, found without loading what takes seconds."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from manyview.recipe.find import packaged_recipes

MOST_LOOKED_AT = 5_000
"""Entries of folders: images may lie beside runs, and nobody waits for them."""
DEEPEST = 5
"""Folders below where the search begins: `runs/comparison/runs/NAME/seed-0` is a run."""


def recipe_names(incomplete: str) -> list[str]:
    """Packaged recipes whose names begin so; where there is none, shells offer files."""
    return [name for name in packaged_recipes() if name.startswith(incomplete)]


def run_folders(incomplete: str) -> list[str]:
    """Runs whose paths begin so, as they are to be typed, sorted; hidden folders and what lies in runs are left out."""
    folder, _, begun = incomplete.rpartition("/")
    top = Path(folder or ("/" if incomplete.startswith("/") else ".")).expanduser()
    typed = incomplete[: len(incomplete) - len(begun)]
    found: list[str] = []
    waiting, seen = deque([(top, "", 0)]), 0
    while waiting and seen < MOST_LOOKED_AT:
        here, below, depth = waiting.popleft()
        for entry in _folders(here):
            seen += 1
            if seen > MOST_LOOKED_AT:
                break
            name = f"{below}{entry.name}"
            if entry.name.startswith(".") or not name.startswith(begun):
                continue
            if os.path.isfile(os.path.join(entry.path, "recipe.yaml")):
                found.append(f"{typed}{name}")
            elif depth + 1 < DEEPEST:
                waiting.append((Path(entry.path), f"{name}/", depth + 1))
    return sorted(found)


def recipes_or_runs(incomplete: str) -> list[str]:
    """What a command takes that begins from a recipe, or goes on with a run."""
    return recipe_names(incomplete) + run_folders(incomplete)


def _folders(here: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(here) as entries:
            return [entry for entry, _ in zip(entries, range(MOST_LOOKED_AT), strict=False) if entry.is_dir()]
    except OSError:
        return []
