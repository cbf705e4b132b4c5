"""What one must know of a comparison before its runs are made: what decides, what a seed changes, what costs more."""

from __future__ import annotations

import re
from collections.abc import Sequence

from manyview.compare.comparison import Entry
from manyview.foundation.words import counted
from manyview.show.display import LABELS
from manyview.show.step_flops import saves

ALIKE = 0.05  # how far operations may be apart that are called equal
SPLITS = {"train": "which images train", "val": "which validate", "test": "which are tested on"}


def beforehand(
    entries: Sequence[Entry], seeds: Sequence[int], split: str, primary: str, usual: bool, note: str
) -> list[str]:
    """A line each. primary: the measure that decides; usual: whether nobody named it. note: what the data are."""
    named = "the usual one; --measure names another" if usual else "named by --measure"
    measure = LABELS.get(primary, primary)
    return [
        f"Primary measure: {measure} on {split} ({named}). All other measures are exploratory.",
        changed_by_seed(entries[0], seeds, note),
        *[line for line in (unequal(entries), computed_again(entries)) if line is not None],
    ]


def changed_by_seed(entry: Entry, seeds: Sequence[int], note: str) -> str:
    """What is another thing for another seed, which the recipes' data say."""
    drawn = [what for split, what in SPLITS.items() if re.search(rf"\b{split}[^,]* \([^)]*\bseed \d", note)]
    fixed = entry.recipe.data.seed
    kept = "" if not drawn else f"; {', '.join(drawn)} is a matter of data.seed={fixed}, the same for all"
    changes = [*(drawn if fixed is None else []), "their order", "the draws of views", "initial weights"]
    if fixed is None:
        kept = "; data.seed=0 would give all the same images" if drawn else ""
    return (
        f"{counted(len(seeds), 'seed')} ({_range(seeds)}). A seed changes {', '.join(changes)}{kept}. Runs of one seed "
        "share all of these; draws pair by the names of views."
    )


def unequal(entries: Sequence[Entry]) -> str | None:
    """Which recipes cost more or less than the reference, in operations; None where none does, or none is known."""
    reference = entries[0].length.flops
    if not reference:
        return None
    ratios = {entry.name: entry.length.flops / reference for entry in entries[1:] if entry.length.flops}
    apart = {name: ratio for name, ratio in ratios.items() if abs(ratio - 1) > ALIKE}
    if not apart:
        return None
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in apart.items())
    return (
        f"The cost is not equal: {told} times the floating-point operations of {entries[0].name}; --budget flops makes "
        "it so."
    )


def computed_again(entries: Sequence[Entry]) -> str | None:
    """Which recipes look twice at what they have seen, to save memory; None where none does, or none is counted."""
    asked = {entry.name: saves(entry.recipe.train) for entry in entries if entry.length.flops}
    told = ", ".join(f"{name} ({what})" for name, what in asked.items() if what)
    if not told:
        return None
    return f"Computed again to save memory, and not counted as operations or passes, but in seconds: {told}."


def _range(seeds: Sequence[int]) -> str:
    return f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
