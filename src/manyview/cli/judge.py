"""Trained models: judged, and asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import (
    Checkpoint,
    Cpus,
    Gpus,
    ModelName,
    On,
    Quiet,
    Size,
    Use,
    cluster,
    is_override,
)
from manyview.cli.launch import together
from manyview.cli.speech import console, ringing, speaking, tell
from manyview.errors import RecipeError
from manyview.foundation.files import check_writable, write_text
from manyview.foundation.words import counted
from manyview.judge.predicted import as_lines, format_of
from manyview.recipe.find import text_of_run
from manyview.words.files import check_files


def evaluate(
    model: ModelName,
    protocols: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROTOCOL]… [KEY=VALUE]…", help="knn(k=20), linear, data.root=DIR, …"),
    ] = None,
    split: Annotated[str, typer.Option(help="val or test.")] = "val",
    checkpoint: Checkpoint = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for results, tables and figures; by default the run's own.")
    ] = None,
    cache: Annotated[bool, typer.Option(help="Keep features on disk for the next time.")] = True,
    quiet: Quiet = False,
    use: Use = None,
    on: On = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
) -> None:
    """Evaluates a model by named protocols, on the validation split unless told otherwise.

    Started as several processes, as by torchrun, each takes its share of the images, and the first tells what is found.
    With --on ray, runs may be named one after another, and are evaluated side by side.
    """
    check_files(use or ())
    if on is not None:
        more = [Path(word) for word in protocols or () if (Path(word) / "recipe.yaml").is_file()]
        named = [word for word in protocols or () if Path(word) not in more]
        if checkpoint or size or out or any(map(is_override, named)):
            raise RecipeError("eval --on ray: it takes runs and protocols alone; the rest is for one model, here")
        machines = cluster(on, cpus, gpus, use)
        under_way = {run: machines.judging(run, named, split) for run in (Path(model), *more)}
        for run, waited in under_way.items():
            for protocol, measures in waited().items():
                told = "  ".join(f"{name or protocol} {value:.4g}" for name, value in measures.items())
                speaking(quiet).print(f"{run}\t{told}", soft_wrap=True)
        return

    from manyview.evaluate.protocols import parse_protocols, with_own_settings
    from manyview.foundation.environment import best_device
    from manyview.judge.judge import judge
    from manyview.judge.subject import open_subject
    from manyview.training.kept_words import check_words
    from manyview.words.load import words_of

    given = protocols or []
    overrides = [text for text in given if is_override(text)]
    named = [text for text in given if text not in overrides]
    words = words_of(use or ())
    check_words(Path(model), words, exact=False)  # whose line says more than that a protocol of theirs is unknown
    parse_protocols(named, "protocol", words)
    with together():
        subject = open_subject(model, overrides, checkpoint, size, best_device(), use=words)
        chosen = parse_protocols(with_own_settings(named, subject.own), "protocol", words) or list(subject.usual)
    with ringing("evaluation", quiet):
        judge(subject, chosen, split, speaking(quiet), out=out, cache=cache)


def predict(
    model: ModelName,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Image files, or folders of them.")],
    aggregate: Annotated[bool, typer.Option("--aggregate", help="Average over the orbit (SLA+AG).")] = False,
    top: Annotated[int, typer.Option(help="How many classes to tell of each file.", min=1)] = 1,
    kind: Annotated[
        str | None,
        typer.Option("--format", help="tsv, csv, json (an object a line); by default what --out ends in."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for them, in place of stdout.")] = None,
    checkpoint: Checkpoint = None,
    size: Size = None,
    use: Use = None,
) -> None:
    """Classifies image files: one line a file, with tabs between file, class and probability.

    Tabs, ends of lines and backslashes in names are escaped, or quoted as the format has it. A file that is not there
    or cannot be read is told on stderr, and the others follow; the exit code is 1 then, unless the run's own
    data.on_bad_image is skip. Classes without a name are their numbers.
    """
    check_files(use or ())
    if checkpoint is None and not (Path(model) / "config.json").is_file():
        text_of_run(Path(model))  # neither an export nor a model of timm's: no torch is needed to say so
    chosen = format_of(kind, out)
    if out is not None:
        check_writable(out)

    from manyview.foundation.environment import best_device
    from manyview.judge.predict import classes_of, image_files, predict_files
    from manyview.judge.subject import open_model

    opened, data = open_model(model, (), checkpoint, size, best_device(), use or ())
    bad, known = 0, len(classes_of(opened))

    def unread(error: Exception) -> None:
        nonlocal bad
        bad += 1
        tell(error)

    files, notes = image_files(images, data.stored, unread)
    predictions = predict_files(opened, files, data.stored, aggregate, unread, top)
    lines = as_lines(predictions, chosen, min(top, known))
    with ringing("prediction"):
        if out is None:
            for line in lines:
                print(line, end="", flush=True)
        else:
            write_text(out, "".join(lines))
            console.print(f"wrote {out}", soft_wrap=True)
    if top > known:
        notes.append(f"--top {top}: there are {counted(known, 'class')}")
    for note in notes:
        tell(note)
    if bad and data.on_bad_image != "skip":
        sys.exit(1)
