"""manyview: train vision models on several augmented views of each image.

recipe = manyview.load_recipe("tied_cifar10", "train.epochs=10")
step = manyview.Step(recipe, num_classes=10, total_steps=4000)
out = step(images, labels, index=index, epoch=epoch)   # out["loss"].backward()

What is named here is loaded when it is first used, since torch takes seconds and not all need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyview.errors import ManyviewError
    from manyview.judge.replay import replay
    from manyview.load import load_recipe, parse_recipe
    from manyview.recipe.recipe import Recipe
    from manyview.step import Step
    from manyview.training.train import train
    from manyview.views.view import View

    __version__: str

__all__ = ["ManyviewError", "Recipe", "Step", "View", "load_recipe", "parse_recipe", "replay", "train"]
_HOMES = {
    "ManyviewError": "manyview.errors",
    "Recipe": "manyview.recipe.recipe",
    "Step": "manyview.step",
    "View": "manyview.views.view",
    "load_recipe": "manyview.load",
    "parse_recipe": "manyview.load",
    "replay": "manyview.judge.replay",
    "train": "manyview.training.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("manyview")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
