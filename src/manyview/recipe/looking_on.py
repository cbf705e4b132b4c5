"""Lines that look on: they train heads behind a stop, `probe: linear(stop(h))`, and all else is as without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from manyview.branches.spec import FEATURES, LOGITS, BranchSpec, source_of
from manyview.errors import RecipeError

if TYPE_CHECKING:
    from manyview.recipe.readouts import Read


def looks_on(reads: Sequence[Read], branches: Mapping[str, BranchSpec], where: str) -> bool:
    """Whether a line trains heads behind a stop alone. Raises RecipeError where others would learn from those."""
    behind = [read for read in reads if read.name in branches[read.branch].probes]
    trained = [read for read in reads if "stop" not in read.functions and branches[read.branch].learns]
    others = [read for read in trained if read not in behind]
    if behind and others:
        told = f"{others[0]} would learn from {behind[0]}, which looks on behind a stop and teaches nothing"
        raise RecipeError(f"{where}: {told}; relate it to other heads of its kind")
    return bool(behind)


def check_that_they_look_on(lines: Iterable[tuple[Sequence[Read], bool]], branches: Mapping[str, BranchSpec]) -> None:
    """Raises RecipeError where a head behind a stop would make its network look at more than the other lines ask for.

    lines: of each its readouts, and whether it looks on.
    """
    lines = list(lines)
    asked = [read for reads, looks in lines if not looks for read in reads]
    computed = {found for read in asked for found in _on_the_way(read, branches[read.branch])}
    for number, (reads, looks) in enumerate(lines):
        for read in reads if looks else ():
            spec = branches[read.branch]
            for branch, name, view in sorted(_on_the_way(read, spec)):
                family = view.partition(".")[0]
                if name not in spec.probes and computed.isdisjoint({(branch, name, view), (branch, name, family)}):
                    told = f"{read} looks on behind a stop, and no other line reads {name} of '{view}'"
                    cure = "which would be computed for it alone; read a view that is read anyway"
                    raise RecipeError(f"relations.{number}: {told}, {cure}")


def _on_the_way(read: Read, spec: BranchSpec) -> set[tuple[str, str, str]]:
    """(branch, readout, view) of a readout and of all that is computed for it, down to h."""
    found: set[tuple[str, str, str]] = set()
    name: str | None = read.name
    while name is not None:
        found.add((read.branch, name, read.view))
        call = spec.heads.get(name)
        name = source_of(call)[0] if call is not None else FEATURES if name == LOGITS else None
    return found | {(read.branch, FEATURES, read.view)}  # which gives layers inside, too
