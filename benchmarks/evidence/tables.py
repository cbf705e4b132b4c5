"""The tables and figures of docs/evidence.md, from runs.jsonl alone:  python benchmarks/evidence/tables.py

A setting's arms against the better of its two baselines, by the mean over seeds that all have; paired differences with
Student's 95 % interval, p-values by Holm over all arms that were screened in the setting, and the difference that so
many seeds would have found with a power of 80 % at the corrected level of the least p-value.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from arms import BASELINES

from manyview.compare.corrected import detectable, holm
from manyview.compare.figure import save_svg
from manyview.compare.intervals import Difference, paired
from manyview.compare.ledger import read_lines
from manyview.evaluate.report import Table
from manyview.foundation.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "evidence.md"
BEGIN, END = "<!-- made by benchmarks/evidence/tables.py -->", "<!-- end -->"
MEASURE = "top1"
BESIDE = {"loss": "test loss", "calibration_ece15": "ECE"}
"""What may explain a difference, where runs have it: measure -> column."""


@dataclass(frozen=True)
class Row:
    """An arm of a setting. values: seed -> top-1. found: against the better baseline, None of that itself.

    beside: means of BESIDE. power: the difference that would have been found in four of five cases.
    """

    arm: str
    values: Mapping[int, float]
    found: Difference | None
    p_holm: float | None
    power: float | None
    beside: Mapping[str, float]


def settings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings with runs that claim, in the order of the file; `SETTING/PHASE` chose."""
    return list(dict.fromkeys(line["setting"] for line in lines if line["split"] == "test"))


def arms_of(lines: Sequence[Mapping[str, Any]], setting: str) -> set[str]:
    """All arms that were tuned or screened in a setting, or claimed without."""
    own = (setting, f"{setting}/tune", f"{setting}/screen")
    return {line["recipe"].partition(".")[0] for line in lines if line["setting"] in own} - {*BASELINES}


def rows(lines: Sequence[Mapping[str, Any]], setting: str) -> list[Row]:
    """The better baseline first, then the other, then arms by their difference. Empty without a baseline's runs."""
    own = [line for line in lines if line["setting"] == setting and line["split"] == "test"]
    values: dict[str, dict[int, float]] = {}
    for line in own:
        if line["measures"].get(MEASURE) is not None:
            values.setdefault(line["recipe"], {})[line["seed"]] = line["measures"][MEASURE]
    known = [name for name in BASELINES if name in values]
    if not known:
        return []
    common = set.intersection(*({*values[name]} for name in known))
    better = max(known, key=lambda name: np.mean([values[name][seed] for seed in common or values[name]]))
    found = {name: _against(of, values[better]) for name, of in values.items() if name != better}
    tested = {name: each.p if each else None for name, each in found.items() if name not in BASELINES}
    family = max(len(arms_of(lines, setting)), len(tested))
    adjusted = holm(tested, family) if tested else {}
    made = [
        Row(
            name,
            of,
            found.get(name),
            adjusted.get(name),
            _power(of, values[better], family) if name in tested else None,
            _beside([line for line in own if line["recipe"] == name]),
        )
        for name, of in values.items()
    ]
    place = {better: -1, **{name: 0 for name in known if name != better}}
    return sorted(made, key=lambda row: (place.get(row.arm, 1), -(row.found.mean if row.found else 0.0)))


def _pairs(values: Mapping[int, float], baseline: Mapping[int, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([values[seed] - baseline[seed] for seed in sorted(values) if seed in baseline])


def _against(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    pairs = _pairs(values, baseline)
    return paired(pairs) if len(pairs) else None


def _power(values: Mapping[int, float], baseline: Mapping[int, float], family: int) -> float | None:
    pairs = _pairs(values, baseline)
    return detectable(float(pairs.std(ddof=1)), len(pairs), 0.05 / max(1, family)) if len(pairs) > 1 else None


def _beside(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {key: [line["measures"].get(key) for line in lines] for key in BESIDE}
    return {key: float(np.mean(of)) for key, of in found.items() if of and None not in of}


def table(made: Sequence[Row]) -> Table:
    """A row an arm."""
    better = made[0].arm
    shown = []
    for row in made:
        values = np.array(list(row.values.values()))
        spread = f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")
        found = row.found
        interval = None if found is None or found.t is None else f"{found.t[0]:+.2f} to {found.t[1]:+.2f}"
        shown.append(
            (
                row.arm,
                len(values),
                spread,
                None if found is None else f"{found.mean:+.2f}",
                interval,
                None if found is None else f"{found.higher} of {found.n}",
                None if row.p_holm is None else f"{row.p_holm:.3f}",
                None if row.power is None else f"{row.power:.2f}",
                *(None if row.beside.get(key) is None else f"{row.beside[key]:.3f}" for key in BESIDE),
            )
        )
    columns = (
        "arm",
        "seeds",
        "test top-1",
        f"difference to {better}",
        "95 %",
        "higher on",
        "p (Holm)",
        "power at",
    )
    return Table((*columns, *BESIDE.values()), tuple(shown))


def draw(setting: str, made: Sequence[Row]) -> Figure:
    """Differences to the better baseline with their intervals, a row an arm."""
    from matplotlib.figure import Figure

    compared = [row for row in made if row.found is not None]
    figure = Figure(figsize=(7, 1.0 + 0.32 * len(compared)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(compared):
        assert row.found is not None
        if row.found.t is not None:
            axes.plot(row.found.t, [place, place], "-", color="#0b62a8", lw=1.5)
        axes.plot([row.found.mean], [place], "o", color="#0b62a8", ms=5)
    axes.axvline(0, color="#1b1f24", lw=0.8)
    axes.set_yticks(range(len(compared)), [row.arm for row in compared])
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.set_title(f"{setting}: difference to {made[0].arm}, points of test top-1, 95 %", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def text(lines: Sequence[Mapping[str, Any]]) -> str:
    """What stands in the page between its marks."""
    parts = []
    for setting in settings(lines):
        made = rows(lines, setting)
        if made:
            arms = len(arms_of(lines, setting))
            parts += [
                f"### {setting}",
                f"{len(made)} recipes here; p is adjusted over {arms} arms, all that were tried.",
                table(made).markdown(),
                f"![Differences in {setting}](evidence_{setting}.svg)",
            ]
    return "\n\n".join(parts) or "No run has claimed yet."


def main() -> None:
    """Writes the page's tables, and a figure a setting beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE / "runs.jsonl")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    lines = read_lines(args.runs)
    page = args.page.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    assert marked.search(page), f"{args.page} has no place for tables: {BEGIN} … {END}"
    made = f"{BEGIN}\n\n{text(lines)}\n\n{END}"
    for setting in settings(lines):
        if found := rows(lines, setting):
            figure = draw(setting, found)
            write_atomically(args.page.parent / f"evidence_{setting}.svg", lambda path, fig=figure: save_svg(fig, path))
    write_text(args.page, marked.sub(lambda _: made, page))
    print(f"wrote {args.page}: {len(lines)} runs")


if __name__ == "__main__":
    main()
