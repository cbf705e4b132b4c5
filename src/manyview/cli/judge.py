"""Trained models: judged, asked, taken out."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import RunFolder, Use
from manyview.cli.speech import console, tell
from manyview.errors import RecipeError, shown
from manyview.recipe.find import text_of_run
from manyview.words.files import check_files


def evaluate(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, an export, or a timm model's name.")],
    protocols: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROTOCOL]… [KEY=VALUE]…", help="knn(k=20), linear, data.root=DIR, …"),
    ] = None,
    split: Annotated[str, typer.Option(help="val or test.")] = "val",
    checkpoint: Annotated[Path | None, typer.Option(help="A timm model's weights.")] = None,
    size: Annotated[
        int | None, typer.Option(help="The side of the images that an export or timm model sees.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for results, tables and figures; by default the run's own.")
    ] = None,
    cache: Annotated[bool, typer.Option(help="Keep features on disk for the next time.")] = True,
    use: Use = None,
) -> None:
    """Evaluates a model by named protocols, on the validation split unless told otherwise."""
    check_files(use or ())

    from manyview.evaluate.protocols import parse_protocols, with_own_settings
    from manyview.foundation.environment import best_device
    from manyview.judge.judge import judge
    from manyview.judge.subject import open_subject
    from manyview.words.load import words_of

    given = protocols or []
    overrides = [text for text in given if text.partition("=")[0].replace(".", "_").isidentifier() and "=" in text]
    named = [text for text in given if text not in overrides]
    words = words_of(use or ())
    parse_protocols(named, "protocol", words)
    subject = open_subject(model, overrides, checkpoint, size, best_device(), words)
    chosen = parse_protocols(with_own_settings(named, subject.own), "protocol", words) or list(subject.usual)
    judge(subject, chosen, split, console, out=out, cache=cache)


def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Image files, or folders of them.")],
    aggregate: Annotated[bool, typer.Option("--aggregate", help="Average over the orbit (SLA+AG).")] = False,
    use: Use = None,
) -> None:
    """Classifies image files: one line a file, with tabs between file, class and probability.

    Tabs, ends of lines and backslashes in names are escaped. A file that cannot be read is told on stderr, and the
    others follow; the exit code is 1 then, unless the run's own data.on_bad_image is skip.
    """
    text_of_run(run)
    check_files(use or ())

    from manyview.judge.predict import image_files, predict_files
    from manyview.training.run import Run

    data, bad = Run(run, use or ()).recipe().data, 0

    def unread(error: Exception) -> None:
        nonlocal bad
        bad += 1
        tell(error)

    files, notes = image_files(images, data.stored)
    for line in predict_files(run, files, aggregate, unread, use or ()):
        name = str(line.path) if os.sep == "\\" else str(line.path).replace("\\", "\\\\")
        print(shown(name), shown(line.label), f"{line.probability:.4f}", sep="\t", flush=True)
    for note in notes:
        tell(note)
    if bad and data.on_bad_image != "skip":
        sys.exit(1)


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[str, typer.Option(help="The format: timm.")] = "timm",
    use: Use = None,
) -> None:
    """Takes the trained model out, for timm alone."""
    if to != "timm":
        raise RecipeError(f"--to: unknown format '{to}'; formats: timm")
    text_of_run(run)
    check_files(use or ())

    from manyview.judge.export import export_timm
    from manyview.training.run import Run

    for line in export_timm(Run(run, use or ()), out):
        console.print(line, soft_wrap=True)
