"""Features taken out of a model."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Checkpoint, ModelName, Quiet, Size, Use, is_override
from manyview.cli.speech import ringing, speaking, tell
from manyview.errors import DataError, RunError
from manyview.foundation.files import check_writable
from manyview.foundation.words import counted
from manyview.show.pictures import check_name
from manyview.words.files import check_files

ENDINGS = (".npz", ".parquet")


def embed(
    model: ModelName,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]… [KEY=VALUE]…",
            help="Image files, or folders of them; or data.source=…; by default the run's own data.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file: .npz or .parquet.")] = ...,  # type: ignore[assignment]
    readout: Annotated[str, typer.Option(help="h, logits, or a head of the run.")] = "h",
    split: Annotated[str | None, typer.Option(help="train, val or test of the data; by default all.")] = None,
    half: Annotated[bool, typer.Option("--float16", help="Half the size, where that is exact enough.")] = False,
    checkpoint: Checkpoint = None,
    size: Size = None,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Writes a model's features of images into a file, with their names, labels and classes where they are known.

    An image that is not there or cannot be read is told on stderr, and the others follow; the exit code is 1 then,
    unless data.on_bad_image is skip.
    """
    check_name(out, ENDINGS, "--out")
    check_writable(out)
    check_files(use or ())
    if out.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise RunError(f"{out}: pyarrow is not installed; pip install pyarrow, or write .npz")
    given = images or []
    overrides = [text for text in given if is_override(text)]
    paths = [Path(text) for text in given if text not in overrides]
    sourced = [text for text in overrides if text.startswith("data.source=")]
    if paths and (sourced or split is not None):
        raise DataError(f"give image files, or {'--split' if not sourced else sourced[0]}, not both")

    from manyview.judge.embed import embed as run_embed
    from manyview.judge.embed import write_embedding
    from manyview.show.display import Display

    with ringing("embedding", quiet):
        found = run_embed(
            model,
            paths,
            overrides,
            readout=readout,
            split=split,
            checkpoint=checkpoint,
            size=size,
            use=use or (),
            watch=Display(quiet).evaluating,
        )
        halved = write_embedding(out, found, half)
    for line in (*found.skipped, *found.notes):
        tell(line)
    if half and not halved:
        tell("kept as float32: as float16 a row would move by more than a thousandth of its length")
    shape = f"{counted(len(found.features), 'image')}, {found.features.shape[1]} numbers each"
    speaking(quiet).print(f"wrote {out}: {readout} of {shape}", soft_wrap=True)
    if found.skipped and not found.skips:
        sys.exit(1)
