"""The self-test: several processes against one, a killed run against an unbroken one, and what a run will wait for."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from manyview.errors import RunError
from manyview.foundation.words import few
from manyview.recipe.recipe import Recipe
from manyview.selftest.alike import Compared, compare_with_one
from manyview.selftest.resumed import kill_and_resume
from manyview.selftest.speed import Speed, bottleneck, speeds

MOST = 64  # processes that one machine is asked for


@dataclass(frozen=True)
class Report:
    """What was found. processes: compared with one."""

    processes: int
    compared: list[Compared]
    speeds: list[Speed]

    @property
    def differs(self) -> list[Compared]:
        """What is not as on one process, or as unbroken."""
        return [each for each in self.compared if not each.same]

    def as_json(self) -> dict[str, Any]:
        """All of it; what differs, and what will hold a run up, by name."""
        return {
            "processes": self.processes,
            "differs": [f"{each.what}, {each.how}" for each in self.differs],
            "bottleneck": bottleneck(self.speeds),
            "compared": [{**asdict(each), "same": each.same} for each in self.compared],
            "speeds": [{**asdict(each), "margin": each.margin} for each in self.speeds],
        }

    def show(self, console: Console) -> None:
        """For people: two tables, and a line on each."""
        table = _table(f"{self.processes} processes = 1", "value", "gradient", "3 updates", "")
        for each in self.compared:
            if each.note or (each.same and not each.gradient):
                continue  # told below, in one line for all of a kind
            numbers = (f"{number:.1g}" for number in (each.value, each.gradient, each.state))
            table.add_row(f"{each.what}, {each.how}", *numbers, "same" if each.same else "DIFFERS")
        console.print(table)
        for line in self._lines():
            console.print(line, soft_wrap=True)
        console.print()
        table = _table("of", "here", "needed", "unit", "on")
        for speed in self.speeds:
            table.add_row(speed.what, f"{speed.rate:,.0f}", f"{speed.need:,.0f}", speed.unit, speed.of)
        console.print(table)
        console.print(f"what a run will wait for: {bottleneck(self.speeds)}", soft_wrap=True)

    def _lines(self) -> list[str]:
        silent = [each for each in self.compared if not each.note and each.same and not each.gradient]
        hows = dict.fromkeys(each.how for each in self.compared)
        lines = []
        for how in hows:
            same = [each.what for each in silent if each.how == how]
            notes: dict[str, list[str]] = {}
            for each in self.compared:
                if each.how == how and each.note:
                    notes.setdefault(each.note.partition(":")[0], []).append(each.what)
            if same:
                lines.append(f"{how}: the same for {few(same)}")
            lines += [f"{how}: {note}: {few(names)}" for note, names in notes.items()]
        return lines


def selftest(recipe: Recipe, processes: int = 2, shared: bool = False, folder: Path | None = None) -> Report:
    """Tests this machine. recipe: whose step is timed. shared: also weights that are shared out over processes.

    folder: on the disk that is measured. Raises ManyviewError where it cannot begin.
    """
    if not 2 <= processes <= MOST:
        raise RunError(f"--processes: 2 to {MOST} can be compared with one, got {processes}")
    compared = compare_with_one(processes, shared)
    if hasattr(os, "fork") and hasattr(signal, "SIGKILL"):
        compared.append(kill_and_resume())
    return Report(processes, compared, speeds(recipe, folder))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column, justify="right" if column in ("value", "gradient", "3 updates", "here", "needed") else "left"
        )
    return table


__all__ = ["Report", "selftest"]
