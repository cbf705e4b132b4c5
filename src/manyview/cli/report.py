"""Runs and comparisons to look at: as one HTML file, or served while they go on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Quiet, Use, is_override
from manyview.cli.complete import run_folders
from manyview.cli.speech import ringing, speaking
from manyview.errors import RunError, unknown
from manyview.foundation.files import check_writable, write_text
from manyview.words.files import check_files

NEEDED = ("plotly", "jinja2")
Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN…|COMPARISON [KEY=VALUE]…",
        help="Folders of runs, or of a comparison; data.root=DIR where data have moved.",
        autocompletion=run_folders,
    ),
]
Split = Annotated[str, typer.Option(help="Whose answers are shown: val, or test.")]
Answers = Annotated[
    bool, typer.Option("--answers/--no-answers", help="Pass the split through the network, for its answers.")
]
Samples = Annotated[int, typer.Option(help="How many images are shown as the network saw them.", min=0, max=24)]


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="The page to write, .html.")],
    split: Split = "val",
    samples: Samples = 3,
    answers: Answers = True,
    measure: Annotated[bool, typer.Option("--measure", help="Train two steps here for memory and FLOPs.")] = False,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Writes one HTML file about runs, or a comparison: no network is needed to read it.

    Views as the network saw them, and its answers, need the run's data; where they are not at hand, the page says so.
    """
    folders, overrides = _named(runs)
    if out.suffix.lower() not in (".html", ".htm") and not out.is_dir():
        raise RunError(
            f"--out: '{out.name}' does not say what to write; end it in .html, as in {out.with_suffix('.html')}"
        )
    check_writable(out)
    _check(split, use)

    from manyview.report.page import Wishes, check, find, page
    from manyview.report.render import html

    wishes = Wishes(split, overrides, use or (), samples, answers, measure, quiet)
    check(wishes)
    with ringing("report", quiet):
        text = html(page(find(folders), wishes))
        write_text(out, text)
    speaking(quiet).print(f"wrote {out}, {len(text.encode()) / 1e6:.1f} MB", soft_wrap=True)


def watch(
    runs: Runs,
    port: Annotated[int, typer.Option(help="Of this machine; 0 for one that is free.", min=0, max=65535)] = 8765,
    split: Split = "val",
    samples: Samples = 3,
    answers: Answers = True,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Serves the page of `report` on this machine while runs go on, until Ctrl-C; nothing can be changed by it.

    Folders that hold runs are looked through again, so that runs that begin later come in. Only this machine is
    answered (127.0.0.1); from elsewhere, ssh -L 8765:127.0.0.1:8765 HOST.
    """
    folders, overrides = _named(runs)
    _check(split, use)

    from manyview.report.page import Wishes, check
    from manyview.report.watch import serve

    wishes = Wishes(split, overrides, use or (), samples, answers)
    check(wishes)
    serve(folders, wishes, port, lambda place: speaking(quiet).print(f"{place}  (Ctrl-C ends)", soft_wrap=True))


def _named(runs: list[str]) -> tuple[list[Path], list[str]]:
    """(folders, overrides). Raises RunError for a folder that is not there, before anything is loaded."""
    overrides = [text for text in runs if is_override(text)]
    folders = [Path(text) for text in runs if text not in overrides]
    if not folders:
        raise RunError("name a run's folder, several, or a comparison's")
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder} is {'a file' if folder.exists() else 'not there'}; give a folder with runs in it")
    return folders, overrides


def _check(split: str, use: list[Path] | None) -> None:
    if split not in ("val", "test"):
        raise RunError(f"--split: {unknown('split', split, ['val', 'test'])}")
    check_files(use or ())
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RunError(
            f"not installed, and the page is drawn by it: {', '.join(missing)}; pip install 'manyview[report]'"
        )
