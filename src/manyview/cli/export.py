"""Trained models taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyview.cli.arguments import Quiet, RunFolder, Use
from manyview.cli.speech import ringing, speaking
from manyview.errors import RecipeError, unknown
from manyview.recipe.find import text_of_run
from manyview.words.files import check_files

FORMS = ("timm", "onnx", "torchscript", "hub")  # those of `export_model`, which takes seconds to import


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[str, typer.Option(help="The format: timm, onnx, torchscript, hub.")] = "timm",
    features: Annotated[bool, typer.Option("--features", help="The features alone, without the classifier.")] = False,
    aggregate: Annotated[
        bool, typer.Option("--aggregate", help="With the orbit inside, averaging over it (SLA+AG).")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(help="averaged or trained; by default what is evaluated, averaged where there are any."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="The side of the images that it will see; by default the recipe's.", min=1)
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            metavar="nchw|nhwc", help="onnx: whole uint8 images go in, and are resized and normalised inside."
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Of the data, for the model card of hub.")
    ] = None,
    quiet: Quiet = False,
    use: Use = None,
) -> None:
    """Takes the trained model out, for programs that know no manyview; its outputs are compared with the run's."""
    if to not in FORMS:
        raise RecipeError(f"--to: {unknown('format', to, FORMS)}")
    if not (run / "config.json").is_file():  # an exported or imported folder
        text_of_run(run)
    check_files(use or ())

    from manyview.export.export import export_model
    from manyview.training.run import Run

    with ringing("export", quiet):
        lines = export_model(
            Run(run, use or ()),
            out,
            to,
            features=features,
            aggregate=aggregate,
            weights=weights,
            size=size,
            preprocess=preprocess,
            licence=licence,
        )
    for line in lines:
        speaking(quiet).print(line, soft_wrap=True)
