"""Where results of `manyview eval` are written: beside others, by protocol, its settings, split and data."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from io import BytesIO
from pathlib import Path
from typing import Any

from manyview.environment import git_commit, versions
from manyview.errors import ManyviewWarning, RunError
from manyview.evaluate.protocols import Measure, call_of
from manyview.evaluate.report import Report
from manyview.files import write_bytes, write_json, write_text

EVALUATIONS = "evaluations"


def record(path: Path, split: str, reports: Mapping[Measure, Report], data: str | None = None) -> None:
    """Adds reports to a result.json, made if it is not there; what stands in it under other names stays as it is.

    data: the source that was judged on, where it is not the run's own. Raises RunError for a file that is damaged.
    """
    known: dict[str, Any] = {}
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            kept = known.setdefault(EVALUATIONS, {})
        except (json.JSONDecodeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}") from None
    else:
        kept = known[EVALUATIONS] = {}
    made = {"git": git_commit(), "versions": versions()}
    for protocol, report in reports.items():
        kept[f"{call_of(protocol)} on {split}{f' of {data}' if data else ''}"] = {**report.to_dict(), **made}
    write_json(path, known)


def publish(folder: Path, split: str, reports: Mapping[Measure, Report], data: str | None = None) -> list[Path]:
    """Writes the tables of reports as Markdown, and their figures as SVG, into a folder; returns the files."""
    written = []
    for protocol, report in reports.items():
        name = file_name(protocol, split, data)
        if report.tables:
            title = f"# {call_of(protocol, changed(protocol))} on {split}{f' of {data}' if data else ''}"
            parts = [title, *(f"## {table}\n\n{each.markdown()}" for table, each in report.tables.items())]
            write_text(folder / f"{name}.md", "\n\n".join(parts) + "\n")
            written.append(folder / f"{name}.md")
        if report.draw is not None:
            try:
                figure = report.draw()
            except ImportError:
                warnings.warn("no figures: matplotlib is not installed", ManyviewWarning, stacklevel=2)
                continue
            drawn = BytesIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            write_bytes(folder / f"{name}.svg", drawn.getvalue())
            written.append(folder / f"{name}.svg")
    return written


def changed(protocol: Measure) -> list[str]:
    """The settings that are not the usual ones."""
    usual = {field.name: field.default for field in fields(protocol)}  # type: ignore[arg-type]
    return [name for name, value in usual.items() if value is MISSING or getattr(protocol, name) != value]


def file_name(protocol: Measure, split: str, data: str | None = None) -> str:
    """A name that tells protocol, unusual settings, split and data: `knn_k=1_test`."""
    words = re.findall(r"[\w.=+-]+", f"{call_of(protocol, changed(protocol))} {split} {data or ''}")
    return "_".join(words)[:150]
