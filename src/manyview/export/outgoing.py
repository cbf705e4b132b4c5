"""What of a run leaves: which weights, and what they answer with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from manyview.branches.branch import Branch
from manyview.branches.given import Given
from manyview.branches.spec import FEATURES, LOGITS
from manyview.errors import RunError, brief, reason, unknown
from manyview.foundation.words import counted
from manyview.recipe.recipe import Recipe
from manyview.step import Step
from manyview.training.run import Run
from manyview.views.plan import TEST, fixed_size

AGGREGATED = "aggregated"
WEIGHTS = ("averaged", "trained")
CLOSE = 1e-5
"""Outputs before and after may differ by as much, times the largest of them where that is above 1."""


@final
@dataclass(frozen=True)
class Outgoing:
    """A run's network on its way out.

    answer: `logits`, scores of classes; `h`, the features alone; or `aggregated`, scores averaged over the orbit that
    its joint head tells apart (SLA+AG). size: height and width of the images that it looks at, where they are known.
    asked: whether the size was asked for, and is not the recipe's. preprocess: the layout of whole images, where these
    go in. licence: of the data, where it was told.
    """

    run: Run
    recipe: Recipe
    step: Step
    answer: str
    size: tuple[int, int] | None
    asked: bool = False
    preprocess: str | None = None
    licence: str | None = None

    @property
    def branch(self) -> Branch:
        """The branch that leaves."""
        return self.step.evaluated

    @property
    def weights(self) -> str:
        """Whether its weights are averages."""
        return "averaged" if self.step.average is not None else "trained"

    @property
    def evaluated(self) -> bool:
        """Whether they are those that the run is evaluated by."""
        return (self.weights == "averaged") == bool(self.recipe.train.ema)

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.branch.mean.shape[1]

    @property
    def classes(self) -> int:
        """That it tells apart; 0 where it gives features."""
        return 0 if self.answer == FEATURES else self.step.num_classes

    @property
    def labels(self) -> list[str]:
        """Names of the classes that it tells apart."""
        return [] if self.answer == FEATURES else self.run.classes()

    @property
    def command(self) -> str:
        """What takes it out in the same way, for a card."""
        told = {FEATURES: " --features" if self.step.classifier else "", AGGREGATED: " --aggregate"}.get(
            self.answer, ""
        )
        told += "" if self.evaluated else f" --weights {self.weights}"
        told += f" --size {self.sized()[0]}" if self.asked else ""
        return f"manyview export OUT FOLDER --to hub{told}"

    @torch.no_grad()
    def outputs(self, pixels: Tensor) -> Tensor:
        """What the run itself answers, float32 [B, n], for pixels in [0, 1] as `Step.test_pixels` makes them."""
        return self.step.eval().read(pixels, aggregated=self.answer == AGGREGATED)[self.answer]

    def normalized(self, pixels: Tensor) -> Tensor:
        """Pixels as the network without its normalisation takes them."""
        return (pixels - self.branch.mean) / self.branch.std

    def sized(self) -> tuple[int, int]:
        """Its size. Raises RunError where it is not known."""
        if self.size is None:
            raise RunError("the recipe fixes no size of the images; say which one leaves, as in --size 224")
        return self.size


def outgoing(
    run: Run,
    *,
    backbone: Given | None = None,
    features: bool = False,
    aggregate: bool = False,
    weights: str | None = None,
    size: int | None = None,
) -> Outgoing:
    """Opens a run to be taken out. The arguments are those of `export_model`. Raises ManyviewError."""
    if features and aggregate:
        raise RunError("features are not averaged over an orbit; choose features or aggregate")
    if size is not None and (type(size) is not int or size < 1):
        raise RunError(f"size: a number of pixels is wanted, got {brief(size)}")
    if weights not in (None, *WEIGHTS):
        raise RunError(f"weights: {unknown('kind', str(weights), WEIGHTS)}")
    recipe = run.recipe()
    step = run.step(recipe, backbone=backbone)
    if weights == "averaged" and step.average is None:
        raise RunError(f"{run.folder} has no averaged weights; train.ema makes them")
    if weights == "trained":
        step.average = None  # and so the branch itself answers
    if aggregate and not step.can_aggregate:
        raise RunError("nothing to aggregate: no head of this recipe tells the members of an orbit apart")
    scores = LOGITS if step.classifier is not None else FEATURES
    found = (fixed_size(step.test_plan, TEST) if step.test_plan else None) or step.trained_size
    own = getattr(getattr(step.evaluated.backbone, "patch_embed", None), "img_size", None)
    found = (size, size) if size is not None else found or (tuple(own) if own else None)
    return Outgoing(
        run, recipe, step, FEATURES if features else AGGREGATED if aggregate else scores, found, size is not None
    )


def pictures(count: int, channels: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Images to try a network on, uint8 [count, channels, h, w], always the same: patches, edges and grain."""
    drawn = torch.Generator().manual_seed(seed)
    made = torch.zeros(count, channels, *size)
    for places, share in ((2, 0.4), (7, 0.3), (16, 0.2)):
        rough = torch.rand(count, channels, places, places, generator=drawn)
        made += share * nn.functional.interpolate(rough, size, mode="nearest" if places == 7 else "bilinear")
    made += 0.1 * torch.rand(made.shape, generator=drawn)
    return (made * 255).round().to(torch.uint8)


def check_alike(name: str, expected: Tensor, found: Tensor) -> float:
    """The largest difference of outputs [B, n]. Raises RunError where they are not the same but for rounding."""
    if found.shape != expected.shape:
        raise RunError(
            f"{name} gives {[*found.shape]}, and the run {[*expected.shape]}; please report it with the recipe"
        )
    if not bool(expected.isfinite().all()):
        raise RunError("the model's own outputs are not finite numbers, so there is nothing to take out")
    apart = float((found.double() - expected.double()).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not apart <= CLOSE * scale:
        raise RunError(
            f"{name} does not reproduce this model's outputs: of up to {scale:.3g}, they differ by {apart:.2g}; please "
            "report it with the recipe"
        )
    return apart


Runner = Callable[[Tensor], Tensor]


def check_answers(leaving: Outgoing, name: str, run: Runner) -> float:
    """Compares what left with the run, on several images and on one; returns the largest difference.

    run: what left, from normalised pixels [B, C, h, w] to outputs.
    """
    images = pictures(5, leaving.channels, leaving.sized()).float() / 255
    return max(
        check_alike(name, leaving.outputs(part), answered(name, run, leaving.normalized(part)))
        for part in (images, images[:1])
    )


def answered(name: str, run: Runner, images: Tensor) -> Tensor:
    """What it gives for images. Raises RunError where it does not take them."""
    try:
        return run(images)
    except Exception as error:  # of anybody's network, in anybody's runtime
        raise RunError(f"{name} does not take {counted(len(images), 'image')}: {reason(error)}") from None


__all__ = [
    "AGGREGATED",
    "CLOSE",
    "WEIGHTS",
    "Outgoing",
    "answered",
    "check_alike",
    "check_answers",
    "outgoing",
    "pictures",
]
