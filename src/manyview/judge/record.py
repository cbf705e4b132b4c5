"""Where results of `manyview eval` are written: beside others, by protocol, its settings, split and data."""

from __future__ import annotations

import hashlib
import re
from dataclasses import MISSING, fields
from io import BytesIO
from pathlib import Path
from typing import Any

from manyview.errors import RunError
from manyview.evaluate.evaluate import flat
from manyview.evaluate.model import Model
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import call_of, settings_of
from manyview.evaluate.report import Report, Table
from manyview.foundation.environment import git_commit, versions
from manyview.foundation.files import read_json, write_bytes, write_json, write_text
from manyview.show.display import table_row

EVALUATIONS = "evaluations"
LONGEST = 120  # characters of a file's name that tell what it is


def record(
    path: Path, split: str, protocol: Measure, report: Report, data: str | None = None, model: Model | None = None
) -> None:
    """Adds a report to a result.json, made if it is not there; what stands in it under other names stays as it is.

    data: what was judged on, where it is not the run's own. model: whose results these are, where the file is not that
    of its run. Raises RunError for a file that is damaged.
    """
    known = _known(path)
    if model is not None:
        known["model"] = {"name": model.name, "key": model.key}
    kept = known.setdefault(EVALUATIONS, {})
    name = f"{call_of(protocol)} on {split}{f' of {data}' if data else ''}"
    kept[name] = {**report.to_dict(), "git": git_commit(), "versions": versions()}
    write_json(path, known)


def check_place(path: Path, model: Model) -> None:
    """Raises RunError where the results of another model stand, or a damaged file."""
    known = _known(path)
    if known and (not isinstance(known.get("model"), dict) or known["model"].get("key") != model.key):
        raise RunError(f"{path} holds the results of another model; choose another --out")


def _known(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        known = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if not isinstance(known, dict) or not isinstance(known.get(EVALUATIONS, {}), dict):
        raise RunError(f"{path} is damaged: it holds no results by name")
    return known


def publish(
    folder: Path, split: str, protocol: Measure, report: Report, model: Model, data: str | None = None
) -> list[Path]:
    """Writes a report as Markdown, and its figure as SVG, into a folder; returns the files."""
    name = file_name(protocol, split, data)
    title = f"# {call_of(protocol, changed(protocol))} on {split}{f' of {data}' if data else ''}"
    about = f"Model: {model.name}{f'; {report.note}' if report.note else ''}"
    rows = tuple(tuple(table_row(key, value)) for key, value in flat({protocol: report}).items())
    tables = {"measures": Table(("measure", "value"), rows), **report.tables}
    parts = [title, about, *(f"## {name}\n\n{table.markdown()}" for name, table in tables.items())]
    written = [folder / f"{name}.md"]
    write_text(written[0], "\n\n".join(parts) + "\n")
    if report.draw is not None:
        drawn = BytesIO()
        report.draw().savefig(drawn, format="svg", metadata={"Date": None})
        written.append(folder / f"{name}.svg")
        write_bytes(written[1], drawn.getvalue())
    return written


def changed(protocol: Measure) -> list[str]:
    """The settings that are not the usual ones."""
    usual = {field.name: field.default for field in fields(protocol)}  # type: ignore[arg-type]
    own = settings_of(protocol)
    return [name for name, value in own.items() if usual[name] is MISSING or usual[name] != value]


def file_name(protocol: Measure, split: str, data: str | None = None) -> str:
    """A name that tells protocol, unusual settings, split and data: `knn_k=1_test`, `robustness_severities=1-3-5_test`.

    Where that leaves out a character of a text, or is long, a digest of the whole is part of it.
    """
    whole = f"{call_of(protocol, changed(protocol))} {split} {data or ''}".rstrip()
    lists = re.sub(r"=[(\[]([^()\[\]]*)[)\]]", lambda found: "=" + "-".join(re.findall(r"[\w.+]+", found[1])), whole)
    name = "_".join(re.findall(r"[\w.=+-]+", re.sub(r"'(\w+)'", r"\1", lists)))
    texts = [data or "", *re.findall(r"""'[^']*'|"[^"]*\"""", whole)]
    if len(name) > LONGEST or not all(re.fullmatch(r"'?\w*'?", text) for text in texts):
        name = f"{name[:LONGEST]}_{hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()}"
    return name
