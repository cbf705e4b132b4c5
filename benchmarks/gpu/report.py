"""What was found, as lines, as a table, and as a file that is whole at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BESIDE = ("what", "right", "note")  # what is no figure


def shown(row: Mapping[str, Any]) -> str:
    """A row in one line."""
    figures = [f"{key} {brief(value)}" for key, value in row.items() if key not in BESIDE]
    wrong = ["NOT RIGHT"] if row.get("right") is False else []
    return "  ".join([f"{row['what']:<64}", *([row["note"]] if "note" in row else []), *figures, *wrong])


def brief(value: Any) -> str:
    """A figure with as many digits as say something."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def table(report: Mapping[str, Any]) -> str:
    """Markdown: where it was measured, then a table a part."""
    lines = [report["about"], ""]
    for name, part in report["parts"].items():
        lines += [f"## {name}, {part['seconds']:.0f} s", ""]
        rows = [row for row in part["rows"] if "note" not in row]
        keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("what",)))
        if rows:
            lines += [f"| what | {' | '.join(keys)} |", f"| --- |{' --: |' * len(keys)}"]
            lines += [
                f"| {cell(row['what'])} | {' | '.join(brief(row.get(key, '')) for key in keys)} |" for row in rows
            ]
            lines.append("")
        lines += [f"- {cell(row['what'])}: {row['note']}" for row in part["rows"] if "note" in row]
        lines += [f"- {part['ended']}"] if part["ended"] else []
        lines.append("")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return text.replace("|", "\\|")


def write(path: Path, report: Mapping[str, Any]) -> None:
    """The report so far."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(report, indent=1, default=str) + "\n")
    beside.replace(path)
