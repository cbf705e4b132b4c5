"""manyview: train vision models on several augmented views of each image.

recipe = manyview.load_recipe("tied_cifar10", "train.epochs=10")
step = manyview.Step(recipe, num_classes=10, total_steps=4000)
out = step(images, labels, index=index, epoch=epoch)   # out["loss"].backward()
"""

from __future__ import annotations

from importlib.metadata import version

from manyview.errors import ManyviewError
from manyview.load import load_recipe, parse_recipe
from manyview.recipe.recipe import Recipe
from manyview.step import Step
from manyview.training.train import train
from manyview.views.view import View

__version__ = version("manyview")
__all__ = ["ManyviewError", "Recipe", "Step", "View", "load_recipe", "parse_recipe", "train"]
