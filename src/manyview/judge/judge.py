"""`manyview eval`: protocols on a subject, one after another, each written down as soon as it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyview.errors import DataError, RunError, brief, unknown
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.crew import Post, crew_of, led
from manyview.evaluate.evaluate import check_model, check_protocols, flat, measured
from manyview.evaluate.features import Features, unwatched
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import parse_protocols, with_own_settings
from manyview.evaluate.report import Report
from manyview.foundation.group import as_one, losing_none
from manyview.foundation.taken import taken_path
from manyview.foundation.vocabulary import NONE
from manyview.judge.record import check_place, publish, record
from manyview.judge.subject import Subject
from manyview.show.display import Display, rich_table, table_row

ROWS_SHOWN = 24
"""Longer tables are in the files alone."""


@losing_none("start them again")
def judge(
    subject: Subject,
    protocols: Sequence[Measure | str] = (),
    split: str = "val",
    console: Console | None = None,
    *,
    out: str | Path | None = None,
    cache: bool = True,
) -> dict[Measure, Report]:
    """Measures all protocols, writes what they find into `out` or the run's folder, and shows it on a console, if any.

    protocols: as parsed, or as a command line names them, `knn(k=20)`, with the settings that the subject's recipe has
    for them; by default what is usual for the subject.
    In a run's own folder that is its result.json, if the run is finished, and reports/; elsewhere `out` itself, which
    belongs to one model. Raises ManyviewError, before anything is computed for what can be known to be wrong; what was
    measured before a protocol fails is written by then.
    On several processes (of a group that was made before) all call this: they pass the images through the network
    together, and the first has what is found, writes and shows it; the others get nothing.
    """
    console = console or Console(quiet=True)
    with as_one():  # of several processes
        asked = _checked(subject, protocols, split, out)
    crew = crew_of(subject.model.device)

    def measure(post: Post | None) -> dict[Measure, Report]:
        features = subject.features(Display(console.quiet).evaluating, cache, crew, post)
        return _measured(subject, features, asked, split, console)

    return led(crew, measure, subject.features(unwatched, False, crew).help) or {}


@dataclass(frozen=True)
class _Asked:
    """protocols: to measure. place: the folder to write into, if any; own: whether it is the run's."""

    protocols: list[Measure]
    place: Path | None
    own: bool


def _checked(subject: Subject, protocols: Sequence[Measure | str], split: str, out: str | Path | None) -> _Asked:
    """What is asked, where nothing is known to be wrong with it. Raises ManyviewError."""
    out = None if out is None else taken_path(out, "judge: out")
    protocols = _parsed(subject, protocols)
    if split not in ("val", "test"):
        raise RunError(f"--split: {unknown('split', split, ['val', 'test'])}")
    if getattr(subject.splits, split) is None:
        whose = "there are" if subject.data else "this run has"
        raise DataError(f"no split '{split}'; {whose} {subject.splits.note}")
    check_protocols(protocols, subject.splits)
    check_model(protocols, subject.model, subject.splits)
    if any(isinstance(protocol, Classify) for protocol in protocols) and not subject.features(unwatched).classifies:
        raise DataError(f"{subject.model.name} has no classifier of these classes; ask for knn or linear")
    return _Asked(protocols, *_place(subject, out))


def _measured(
    subject: Subject, features: Features, asked: _Asked, split: str, console: Console
) -> dict[Measure, Report]:
    """What the protocols find, each written as soon as it is known, and shown."""
    place, own = asked.place, asked.own
    reports: dict[Measure, Report] = {}
    files: list[Path] = []
    for protocol in dict.fromkeys(asked.protocols):
        report = reports[protocol] = measured(protocol, features, split)
        if place is not None:
            model = None if own else subject.model
            record(place / "result.json", split, protocol, report, subject.data, model)
            folder = place / "reports" if own else place
            files += publish(folder, split, protocol, report, subject.model, subject.data)

    _show(subject, split, reports, console)
    for line in dict.fromkeys(features.skipped or ()):
        console.print(f"skipped: {line}", soft_wrap=True, markup=False)
    if place is not None:
        console.print(f"added to {place / 'result.json'}; tables and figures:", soft_wrap=True)
        for path in files:
            console.print(f"  {path}", soft_wrap=True)
    elif own:
        console.print(f"{subject.model.name} is not finished, so nothing was written", soft_wrap=True)
    return reports


def _parsed(subject: Subject, protocols: Sequence[Measure | str]) -> list[Measure]:
    if isinstance(protocols, str):
        raise RunError(f"judge: a list of protocols is wanted, as ['knn', 'linear'], got {brief(protocols)}")
    parsed: list[Measure] = []
    for each in protocols:
        if isinstance(each, str):
            words = NONE if subject.run is None else subject.run.recipe().words
            parsed += parse_protocols(with_own_settings([each], subject.own), "protocol", words)
        else:
            parsed.append(each)
    return parsed or list(subject.usual)


def _place(subject: Subject, out: Path | None) -> tuple[Path | None, bool]:
    """The folder to write into, None for none, and whether it is the run's own. Raises RunError."""
    run = subject.run
    folder = out if run is None or out is not None else run.folder
    if folder is None:
        return None, False
    if run is not None and folder.resolve() == run.folder.resolve():
        return (folder if run.finished() is not None else None), True  # a result.json would say that it is
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out names a folder")
    check_place(folder / "result.json", subject.model)
    return folder, False


def _show(subject: Subject, split: str, reports: dict[Measure, Report], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measure")
    table.add_column(split, justify="right")
    for name, value in flat(reports).items():
        table.add_row(*table_row(name, value))
    if subject.data is not None:
        console.print(f"{split} of {subject.data}", soft_wrap=True)
    console.print(table)
    for note in dict.fromkeys(report.note for report in reports.values() if report.note):
        console.print(note, soft_wrap=True)
    for report in reports.values():
        for title, each in report.tables.items():
            if len(each.rows) <= ROWS_SHOWN:
                console.print()
                console.print(rich_table(title, each))
