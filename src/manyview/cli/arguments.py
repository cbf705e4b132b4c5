"""The arguments that several commands take, each written once, and the recipe that they ask for."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manyview.cli.complete import recipe_names, run_folders
from manyview.foundation.streams import hushed
from manyview.words.files import check_files

if TYPE_CHECKING:
    from manyview.integrations.on_ray import Cluster
    from manyview.recipe.recipe import Recipe

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A packaged recipe's name, or a YAML file.", autocompletion=recipe_names),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Overrides, as train.epochs=10.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", autocompletion=run_folders)]
ModelName = Annotated[
    str,
    typer.Argument(metavar="RUN|MODEL", help="A run, an export, or a timm model's name.", autocompletion=run_folders),
]
Checkpoint = Annotated[Path | None, typer.Option(help="A timm model's weights.")]
Size = Annotated[int | None, typer.Option(help="The side of the images that an export or timm model sees.", min=1)]
Use = Annotated[
    list[Path] | None,
    typer.Option("--use", metavar="FILE.py", help="Words of your own, see docs/words.md; may be repeated."),
]


On = Annotated[
    str | None, typer.Option("--on", metavar="ray[://ADDRESS]", help="Do it on a Ray cluster, see docs/machines.md.")
]
Cpus = Annotated[float, typer.Option(help="With --on ray, the processors that each run takes.", min=0.01)]
Gpus = Annotated[float, typer.Option(help="With --on ray, the GPUs that each run takes; several may share one.", min=0)]


def cluster(on: str, cpus: float, gpus: float, use: Sequence[Path] | None) -> Cluster:
    """The Ray cluster that `--on` names. Raises RunError where there is none."""
    from manyview.integrations.on_ray import Cluster, Share

    return Cluster(on, Share(cpus, gpus), use or ())


def _hush(context: typer.Context, quiet: bool) -> bool:
    """Of what takes long, too, nothing is told until the command ends."""
    if quiet:
        context.with_resource(hushed())
    return quiet


Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but mistakes.", callback=_hush)]


def is_override(text: str) -> bool:
    """Whether a word is `key=value` or `NAME:key=value`, no name, no file that is called so, no call `knn(k=20)`."""
    key, equals, _ = text.partition("=")
    own = key.rpartition(":")[2].strip()
    return bool(equals) and own.replace(".", "_").isidentifier() and not os.path.exists(text)


def load(recipe: str, overrides: Sequence[str] | None, use: Sequence[Path] | None) -> Recipe:
    """The recipe of that name or file, overridden and checked whole, with words of one's own."""
    check_files(use or ())
    gc.disable()  # of what torch makes on the way nothing is garbage, and to look for it takes a fifth of a second
    try:
        from manyview.load import load_recipe
    finally:
        gc.enable()
    return load_recipe(recipe, *overrides or (), use=use or ())
