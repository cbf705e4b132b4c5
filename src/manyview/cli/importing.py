"""Checkpoints of other trainers, brought in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Quiet
from manyview.cli.speech import speaking
from manyview.errors import shown


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file, or what torch.save wrote.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    layout: Annotated[
        str | None,
        typer.Option("--as", metavar="LAYOUT", help="Whose it is, where its names do not tell, see docs/import.md."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="CALL", help="The network, where shapes do not tell it: 'resnet50(small=True)'."),
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(help="How its images were normalised, as normalize of a branch.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Of a head of classes x transformations (SLA), how many classes.", min=1)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Brings a checkpoint of another trainer in, as a folder that is used as an export is.

    Says what matched, what did not come along, and how images are normalised. Code in a file is never run.
    """
    from manyview.judge.importing import import_checkpoint

    for line in import_checkpoint(
        checkpoint, out, layout=layout, backbone=backbone, normalize=normalize, classes=classes
    ):
        speaking(quiet).print(shown(line), soft_wrap=True)
