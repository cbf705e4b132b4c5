"""What protocols found, from the tables that they leave in result.json, each drawn where its kind is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from manyview.evaluate.report import Table
from manyview.report.blocks import Block, Rows, Section, Text
from manyview.report.charts import bars, reliability
from manyview.report.told import MOST_ROWS, mapping, number, numbers, table
from manyview.show.display import protocol_row, table_row

BINS = re.compile(r"^([\d.]+) to ([\d.]+)$")
MOST_KEPT = 24
"""Evaluations that are shown."""


def measures(result: Mapping[str, Any]) -> list[Block]:
    """All that a finished run measured, a row a measure and a column a split."""
    split = str(result.get("eval_split") or "val")
    found = {"val": numbers(result.get("val"))} | {split: numbers(result.get("eval"))}
    found = {name: each for name, each in found.items() if each}
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    if not names:
        return [Text("Nothing was measured.", told=True)]
    rows = tuple(tuple(table_row(name, *(each.get(name) for each in found.values()))) for name in names)
    return [Rows("All measures", Table(("measure", *found), rows))]


def of_training(key: str, result: Mapping[str, Any]) -> list[Block]:
    """Charts of what a run measured of itself by protocols that tell several numbers."""
    found, split = numbers(result.get("eval")), str(result.get("eval_split") or "val")
    blocks: list[Block] = []
    known = {name.removeprefix("awareness_"): value for name, value in found.items() if name.startswith("awareness_")}
    known = {name: value for name, value in known.items() if not name.endswith("_right")}
    if known:
        rows = Table(("number", "R²"), tuple((name.replace("_", " "), value) for name, value in known.items()))
        blocks.append(_aware(f"{key}-awareness", f"What the features know of augmentation ({split})", rows, 1))
    for name, what in (("robustness", "corruption"), ("invariance", "op")):
        own = {measure: value for measure, value in found.items() if re.match(rf"{name}(_|$)", measure)}
        if own:
            told = ", ".join(" ".join(table_row(measure, value)) for measure, value in own.items())
            kept = f"The figure of each {what} is kept by manyview eval RUN {name}."
            blocks.append(Text(f"On {split}: {told}. {kept}", small=True))
    return blocks


def evaluations(key: str, result: Mapping[str, Any]) -> list[Section]:
    """A section for each protocol that `manyview eval` ran on the run afterwards."""
    kept = [*mapping(result.get("evaluations")).items()]
    sections = [_evaluation(f"{key}-eval-{at}", name, mapping(own)) for at, (name, own) in enumerate(kept[:MOST_KEPT])]
    if len(kept) > MOST_KEPT:
        told = f"{len(kept) - MOST_KEPT:,} further evaluations are in result.json."
        sections.append(Section(f"{key}-eval-more", "More", [Text(told, told=True)]))
    return sections


def _evaluation(key: str, name: str, report: Mapping[str, Any]) -> Section:
    """name: the protocol's call, and what it judged: `knn(k=20) on test`."""
    call, _, where = name.rpartition(" on ")
    protocol = (call or name).partition("(")[0]
    found = {str(title): one for title, each in mapping(report.get("tables")).items() if (one := table(each))}
    told = numbers(report.get("measures"))
    note = str(report.get("note") or "")
    blocks: list[Block] = [Text(f"{name}. {note}", small=True)]
    charts = _drawn(key, protocol, found, told)
    blocks += charts.values()
    rows = tuple(tuple(protocol_row(protocol, measure, value)) for measure, value in told.items())
    blocks += [Rows("Measures", Table(("measure", "value"), rows))] if rows else []
    blocks += [_shown(title, one) for title, one in found.items() if title not in charts]
    return Section(key, f"{protocol} on {where}" if call else name, blocks)


def _shown(title: str, found: Table) -> Rows:
    left = len(found.rows) - MOST_ROWS
    note = f"{left:,} further rows are in result.json." if left > 0 else ""
    return Rows(title, Table(found.columns, found.rows[:MOST_ROWS]), note)


def _drawn(key: str, kind: str, tables: Mapping[str, Table], measured: Mapping[str, float]) -> dict[str, Block]:
    """Title -> chart of each table of a protocol whose tables are known."""
    if kind == "robustness" and "accuracy" in tables:
        return {"accuracy": _robust(f"{key}-chart", tables["accuracy"], measured.get("clean"))}
    if kind == "invariance" and "ops" in tables:
        return {"ops": _invariant(f"{key}-chart", tables["ops"])}
    if kind == "awareness" and "numbers" in tables and len(tables["numbers"].columns) > 1:
        return {"numbers": _aware(f"{key}-chart", "What the features know of augmentation", tables["numbers"], 1)}
    found = {
        title: diagram(f"{key}-chart-{at}", each, None, "", title)
        for at, (title, each) in enumerate(tables.items())
        if kind == "calibration" and len(each.columns) == 4
    }
    return {title: blocks[0] for title, blocks in found.items() if blocks}


def _column(found: Table, at: int) -> list[float | None]:
    return [number(row[at]) for row in found.rows]


def _robust(key: str, found: Table, clean: float | None) -> Block:
    names = [str(row[0]).replace("_", " ") for row in found.rows]
    means = _column(found, len(found.columns) - 1)
    dots = {
        f"severity {name}": _column(found, at)
        for at, name in enumerate(found.columns)
        if 0 < at < len(found.columns) - 1
    }
    told = "; ".join(f"{name} {value:.1f} %" for name, value in zip(names, means, strict=True) if value is not None)
    reference = None if clean is None else (clean, f"clean {clean:.1f} %")
    title = "Accuracy under corruptions"
    return bars(key, title, f"Bar chart of accuracies: {told}.", names, means, found, reference, dots)


def _invariant(key: str, found: Table) -> Block:
    at = found.columns.index("score") if "score" in found.columns else min(3, len(found.columns) - 1)
    names = [" ".join(str(each) for each in row[:2] if each is not None) for row in found.rows]
    scores = _column(found, at)
    dots = {}
    if "agreement" in found.columns:
        shares = _column(found, found.columns.index("agreement"))
        dots = {"answers agree": [None if each is None else each / 100 for each in shares]}
    told = "; ".join(f"{name} {value:.2f}" for name, value in zip(names, scores, strict=True) if value is not None)
    low = min([0.0, *(value - 0.02 for value in scores if value is not None)])
    said = f"Bar chart, 1 where an op is ignored, 0 where it changes as much as another image does: {told}."
    note = "1: the op is ignored; 0: as different as another image."
    return bars(key, "What the features ignore", said, names, scores, found, None, dots, (low, 1.02), "", note, "score")


def _aware(key: str, title: str, found: Table, at: int) -> Block:
    names, values = [str(row[0]) for row in found.rows], _column(found, at)
    told = "; ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True) if value is not None)
    shown = [None if value is None else max(0.0, value) for value in values]
    note = "R² of a ridge regression from the features of two views to how they differ; 0: no better than the mean."
    return bars(key, title, f"Bar chart of R²: {told}.", names, shown, found, None, None, (0, 1), "", note)


def diagram(key: str, found: Table, error: float | None, note: str = "", title: str = "") -> list[Block]:
    """A reliability diagram from the table that `calibration` makes of its bins; nothing for another table."""
    bins = []
    for row in found.rows:
        edges = BINS.match(str(row[0]))
        count = number(row[1]) if len(row) == 4 else None
        if edges is None or count is None:
            return []
        low, high = map(float, edges.groups())
        bins.append(
            {"low": low, "high": high, "count": int(count), "confidence": number(row[2]), "accuracy": number(row[3])}
        )
    if any(each["count"] and (each["confidence"] is None or each["accuracy"] is None) for each in bins):
        return []
    told = f"How often it is right when it is so sure{f', {title}' if title and title != 'as it is' else ''}"
    ece = "" if error is None else f"Expected calibration error {error:.3f}; "
    return [reliability(key, told, bins, found, f"{ece}{note}")]


__all__ = ["diagram", "evaluations", "measures", "of_training"]
