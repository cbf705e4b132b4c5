"""Data sets themselves: packed into shards, looked through before they are trained on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from manyview.cli.arguments import Quiet, Use
from manyview.cli.speech import ringing, speaking, tell
from manyview.errors import DataError, RunError, shown
from manyview.foundation.words import counted
from manyview.words.files import check_files

LEAST = 1_000  # bytes of a shard that can be asked for
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="As in data.source: folder, cifar10, \"hf(label='fine')\", …")
]
Given = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="data.root=DIR and the like, as in a recipe.")
]
Workers = Annotated[int | None, typer.Option(help="Processes; by default one a core.", min=0)]


def pack(
    source: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder for the shards, or one that was begun.")],
    overrides: Given = None,
    shard_size: Annotated[str, typer.Option(help="Bytes of a shard, about: 500MB, 1GB.")] = "1GB",
    seed: Annotated[int, typer.Option(help="Of the order in which images lie, and of what data.… chooses.", min=0)] = 0,
    workers: Workers = None,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Writes a source's images, as they are, into shards: tar files with a table of where each image lies.

    All that the source has is packed, split as it is there: nothing is held out unless data.val_fraction says so. The
    same command goes on where it was ended. data.source="shards('OUT')" reads them.
    """
    size = _bytes_of(shard_size)
    check_files(use or ())

    from manyview.data.pack import pack_splits
    from manyview.data.sources import open_raw
    from manyview.data.splits import make_splits
    from manyview.foundation.files import at_home
    from manyview.load import data_of
    from manyview.show.display import Display
    from manyview.words.load import words_of

    given = overrides or []
    spec, seed = data_of([f"data.source={source}", "data.val_fraction=0", *given, f"seed={seed}"], words_of(use or ()))
    if spec.unlabeled is not None:
        raise DataError("data.unlabeled: pack the source of the stream by itself, and name those shards in the recipe")
    display = Display(quiet)
    with display.busy("opening"):
        raw = open_raw(spec)
        splits = make_splits(raw, spec, seed)
    speaking(quiet).print(splits.note, soft_wrap=True)
    total = sum(len(images) for images in (splits.train, splits.val, splits.test) if images is not None)
    with ringing("packing", quiet), display.evaluating("pack", total) as watch:
        done = pack_splits(
            splits,
            at_home(out),
            size,
            seed,
            root=None if spec.root is None else at_home(spec.root),
            carve_test=raw.carve_test and splits.test is None,
            skip=spec.on_bad_image == "skip",
            workers=_processes(workers),
            watch=watch,
        )
    for line in done.skipped:
        tell(f"left out: {line}")
    how = "is packed already" if done.before else "packed"
    what = f"{counted(done.images, 'image')} in {counted(done.shards, 'shard')}, {_told(done.bytes)}"
    cure = f"read them with data.source=\"shards('{shown(out)}')\""
    speaking(quiet).print(f"{how}: {what}: {shown(out)}; {cure}", soft_wrap=True)


def check(
    source: Source,
    overrides: Given = None,
    as_json: Annotated[bool, typer.Option("--json", help="All that was found, for a program.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Looks at every image of a source: unreadable ones, copies, odd labels, sizes. The exit code is 1 for findings.

    Copies are images with the very same pixels, within a split and between them, whatever their files are called or
    how they are compressed. Labels are odd where they name no class, where a class has no image or one alone, and where
    one picture has several.
    """
    check_files(use or ())

    from manyview.data.check import as_lines, check_source
    from manyview.data.sources import open_raw
    from manyview.load import data_of
    from manyview.show.display import Display
    from manyview.words.load import words_of

    spec, _ = data_of([f"data.source={source}", *(overrides or ())], words_of(use or ()))
    bars = Console(stderr=True, quiet=quiet) if as_json else None  # stdout is the program's
    raw = open_raw(spec)
    total = sum(len(images) for images in (raw.train, raw.val, raw.test) if images is not None)
    with ringing("the check", quiet), Display(quiet, bars).evaluating("check", total) as watch:
        found = check_source(raw, _processes(workers), watch, spec.timeout)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        for line in as_lines(found):
            speaking(quiet).print(line, soft_wrap=True)
    if found.findings:
        sys.exit(1)


def _bytes_of(text: str) -> int:
    """500MB, 1GB, or a plain number of bytes. Raises RunError."""
    number, unit = text.strip().upper().removesuffix("B"), ""
    if number[-1:] in UNITS:
        number, unit = number[:-1], number[-1:]
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if not LEAST <= size < 2**50:  # a number alone is bytes, and an image a file would be packed for nothing
        raise RunError(f"--shard-size {text}: bytes, as 500MB, 1GB or 1000000000, and no fewer than {LEAST:,}")
    return size


def _told(size: int) -> str:
    """Bytes, as --shard-size takes them, to three digits."""
    unit = next((unit for unit in reversed(UNITS) if size >= UNITS[unit]), "")
    return f"{size / UNITS[unit]:.3g} {unit}B"


def _processes(workers: int | None) -> int:
    return (os.cpu_count() or 1) if workers is None else workers
