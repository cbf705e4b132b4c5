"""What is evaluated: a network with what has to be done to an image first; here a step, in `judge` those of timm."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol, final

import torch
from torch import Tensor, nn

from manyview.branches.given import Reader
from manyview.branches.origin import without_origin
from manyview.branches.weights import digest_of
from manyview.foundation.modes import evaluating
from manyview.optimize.sync_batchnorm import alone_again
from manyview.step import Step


class Model(Protocol):
    """A network in evaluation mode, with what has to be done to an image before it sees it."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def key(self) -> str:
        """A digest of weights and preparation: models of one key give the same outputs."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes that its scores are of, empty where they are not known; None if nothing classifies."""

    @property
    def orbit(self) -> str | None:
        """The orbit whose members a joint head tells apart, so that scores over it can be averaged (SLA+AG)."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [1, C, 1, 1] by which it normalises pixels."""

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """What it looks at: float [B, 3, h, w] in [0, 1], on its device; images: uint8 [B, 3, H, W], or B [3, H, W]."""

    def read(self, pixels: Tensor, *, aggregated: bool = False) -> dict[str, Tensor]:
        """float32 features `h` [B, dim], and `logits` [B, classes] where it classifies; gradients reach the pixels.

        pixels: what `prepare` gave. aggregated: also `aggregated` [B, classes], over `orbit`.
        """

    def trainable(self) -> Trunk:
        """A copy of the backbone that can be trained."""


@final
class Trunk(nn.Module):
    """A backbone with its normalisation: pixels [B, 3, h, w] in [0, 1] -> features [B, dim]."""

    def __init__(self, backbone: nn.Module, mean: Tensor, std: Tensor, reader: Reader | None = None) -> None:
        super().__init__()
        self.backbone, self.reader = backbone, reader or Reader()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of pixels."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return self.reader(self.backbone, (pixels - mean) / std)


@final
class StepModel:
    """A step, with the weights that it has now. labels: names of its classes."""

    def __init__(self, step: Step, labels: Sequence[str] = (), name: str = "") -> None:
        self.step, self.name = step, name or str(without_origin(step.main.spec.backbone))
        known = tuple(labels) or ("",) * step.num_classes
        self.labels: tuple[str, ...] | None = known if step.classifier is not None else None
        families = [view.orbit for view in step.main.orbits.values() if view.orbit]
        self.orbit: str | None = families[0] if families else None

    @property
    def key(self) -> str:
        """A digest of weights, preparation and precision."""
        step = self.step
        looks = [str(view) for view in step.test_plan.values()] or [str(step.trained_size)]
        branch = step.evaluated
        normalized = branch.mean.tolist(), branch.std.tolist()
        own = str(branch.spec.words.used_in(str(branch.spec)))  # whose files say what a head or a backbone does
        looks.append(step.recipe.train.precision)
        return digest_of(branch.state_dict(), str(branch.spec), own, step.classifier, self.orbit, normalized, *looks)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.step.main.mean.device

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of pixels."""
        return self.step.evaluated.mean, self.step.evaluated.std

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """The view `test`, or what stands for it (see `Step.test_pixels`)."""
        return self.step.test_pixels(images).to(self.device)

    def read(self, pixels: Tensor, *, aggregated: bool = False) -> dict[str, Tensor]:
        """Features and scores, in evaluation mode and the precision that it was trained in; the step's mode stays."""
        half = self.step.recipe.train.precision == "bf16"
        with evaluating(self.step), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.step.read(pixels, aggregated=aggregated)

    def trainable(self) -> Trunk:
        """A copy of the backbone."""
        branch = self.step.evaluated
        return trunk_of(branch.backbone, branch.mean, branch.std, branch.reader)


def trunk_of(backbone: nn.Module, mean: Tensor, std: Tensor, reader: Reader | None = None) -> Trunk:
    """A copy that can be trained, by one process alone. reader: how features are read from it."""
    alone = copy.deepcopy(backbone)
    alone_again(alone)  # it would wait for processes that do not train this copy
    return Trunk(alone, mean, std, reader).requires_grad_(True).train()
