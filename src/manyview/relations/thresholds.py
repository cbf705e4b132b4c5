"""Which pseudo-labels count, and how much: one threshold, or rules that learn theirs while a run goes on.

    threshold=0.95          FixMatch (Sohn et al., NeurIPS 2020), UDA
    threshold=flex(0.95)    FlexMatch (Zhang et al., NeurIPS 2021, eq. 6-7, 12)
    threshold=free()        FreeMatch (Wang et al., ICLR 2023, eq. 6)
    threshold=soft()        SoftMatch (Chen et al., ICLR 2023, eq. 8)

With c the largest probability of a row and y its class:

- FlexMatch: c >= t b_y / (2 - b_y), b_y in [0, 1]: how well class y is learned.
- FreeMatch: c >= overall l_y / max l, from moving means of c and of the probabilities.
- SoftMatch: each row counts exp(- min(c - mean, 0)^2 n^2 / (2 variance)), n = 2.

What a rule has learnt is in its buffers, of the rows of all processes, and moves on with the update. FlexMatch judges a
batch by what was learnt before it, as its code does; FreeMatch and SoftMatch by moving means that the batch is part of.
Their means begin as in the papers, at 1/C (USB's code begins FreeMatch's at 1), SoftMatch's variance at 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import BatchError, warn
from manyview.relations.precision import in_float32
from manyview.views.ops.op import COUNTABLE, check_whole

NEVER, UNSURE = -2, -1  # in FlexMatch's memory: an image that was not met, or is met and was never confident


@in_float32
def flex_thresholds(learned: Tensor, threshold: float = 0.95) -> Tensor:
    """FlexMatch's thresholds by class, [C]: low where a class is not learned yet, `threshold` where it is.

    learned: [C], each in [0, 1]: images whose last confident prediction was the class, over those of the most frequent
    (or over those never confident, while these are more). Raises ValueError for another shape and a threshold outside
    (0, 1].
    """
    if learned.ndim != 1:
        raise ValueError(f"expected how well each class is learned [C], got {tuple(learned.shape)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    return threshold * learned / (2 - learned)


@in_float32
def free_thresholds(overall: Tensor, local: Tensor) -> Tensor:
    """FreeMatch's thresholds by class, [C]: the overall one, times how near a class is to the most expected.

    overall: a scalar, the moving mean of the largest probability. local: [C], the moving mean of the probabilities.
    Raises ValueError for other shapes.
    """
    if local.ndim != 1 or overall.numel() != 1:
        raise ValueError(f"expected a scalar and [C], got {tuple(overall.shape)} and {tuple(local.shape)}")
    return overall.reshape(()) * local / local.max()


@in_float32
def soft_weights(confidence: Tensor, mean: Tensor, variance: Tensor, sigmas: float = 2.0) -> Tensor:
    """SoftMatch's weights of rows, [B] in (0, 1]: 1 from the mean confidence on, below it half a Gaussian.

    confidence: [B], the largest probability. mean, variance: scalars, moving, of the confidences; of variance 0 all
    below the mean count nothing. sigmas: the Gaussian's deviation is the confidences', over `sigmas` (n above). Raises
    ValueError for other shapes, sigmas <= 0.
    """
    if confidence.ndim != 1 or mean.numel() != 1 or variance.numel() != 1:
        raise ValueError(
            f"expected [B] and two scalars, got {tuple(confidence.shape)}, {tuple(mean.shape)}, {tuple(variance.shape)}"
        )
    if not sigmas > 0:
        raise ValueError(f"sigmas must be positive, got {sigmas}")
    below = (confidence - mean.reshape(())).clamp_max(0)
    wide = (2 * variance.reshape(())).clamp_min(torch.finfo(variance.dtype).tiny)
    return (-below.square() * sigmas**2 / wide).exp()


@dataclass(frozen=True)
class Flex:
    """`flex(0.95, images=50000)`: thresholds by class, low for a class that is not learned yet.

    images: how many unlabelled images there are; by default as many as were met so far, which is the same from the
    second epoch on.
    """

    threshold: float = 0.95
    images: int | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.images is not None:
            check_whole("images", self.images, most=COUNTABLE)

    def __repr__(self) -> str:
        return f"flex({self.threshold:g}{'' if self.images is None else f', images={self.images}'})"

    def check_images(self, count: int) -> None:
        """Raises ValueError where there are more images than it says, and warns where there are fewer."""
        if self.images is None or self.images == count:
            return
        if self.images < count:
            raise ValueError(f"{self!r}: there are {count:,} unlabelled images; give that many, or leave images out")
        warn(
            f"{self!r}: there are {count:,} unlabelled images, so {self.images - count:,} are never met, nor ever sure"
        )

    def rule(self, classes: int) -> FlexRule:
        """Its memory."""
        return FlexRule(self, classes)


@dataclass(frozen=True)
class Free:
    """`free(momentum=0.999)`: thresholds by class from moving means of what the network says."""

    momentum: float = 0.999

    def __post_init__(self) -> None:
        _check_momentum(self.momentum)

    def __repr__(self) -> str:
        return "free()" if self.momentum == 0.999 else f"free(momentum={self.momentum:g})"

    def rule(self, classes: int) -> FreeRule:
        """Its moving means."""
        return FreeRule(self, classes)


@dataclass(frozen=True)
class Soft:
    """`soft(sigmas=2, momentum=0.999, align=False)`: every row counts, an unsure one the less.

    align: uniform alignment, confidences are measured after the classes were evened out; labels stay as they were.
    """

    sigmas: float = 2.0
    momentum: float = 0.999
    align: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.sigmas, bool) or not isinstance(self.sigmas, int | float) or not self.sigmas > 0:
            raise ValueError(f"sigmas must be positive, got {self.sigmas!r}")
        if not isinstance(self.align, bool):
            raise ValueError(f"align must be True or False, got {self.align!r}")
        _check_momentum(self.momentum)

    def __repr__(self) -> str:
        given = {"sigmas": (self.sigmas, 2.0), "momentum": (self.momentum, 0.999), "align": (self.align, False)}
        return f"soft({', '.join(f'{key}={value!r}' for key, (value, usual) in given.items() if value != usual)})"

    def rule(self, classes: int) -> SoftRule:
        """Its moving moments."""
        return SoftRule(self, classes)


THRESHOLDS: dict[str, Callable[..., Flex | Free | Soft]] = {"flex": Flex, "free": Free, "soft": Soft}


def check_threshold(threshold: Any, else_: str = "") -> None:
    """Raises ValueError unless it is in (0, 1]. else_: what it may be beside."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1]{else_}, got {threshold!r}")


def _check_momentum(momentum: float) -> None:
    if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")


class Fixed(nn.Module):
    """One threshold, and nothing learnt."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        check_threshold(threshold)
        self.threshold = float(threshold)

    def forward(self, own: Tensor, joined: Tensor, index: Tensor | None) -> Tensor:
        """Weights of rows [B], 0 or 1. own: probabilities [B, C]; joined, index: of all processes' rows."""
        return (own.max(dim=1).values >= self.threshold).to(own.dtype)

    def by_class(self) -> None:
        """No thresholds by class."""


def _counts(labels: Tensor, classes: int) -> Tensor:
    """How many are of each class; `torch.bincount` waits for the device."""
    counts = torch.zeros(classes, dtype=torch.long, device=labels.device)
    return counts.index_add(0, labels, torch.ones_like(labels))


class FlexRule(nn.Module):
    """FlexMatch's memory: which class each image was last sure to be.

    `said` [N] grows with the largest index that was met, or to `room` at once, which a run knows: to ask for the
    largest is to wait for the device. The rows of an update enter it behind the update.
    """

    def __init__(self, told: Flex, classes: int) -> None:
        super().__init__()
        self.told, self.classes = told, classes
        self.room: int | None = None  # indices are below it
        self.said: Tensor
        self.register_buffer("said", torch.full((told.images or 0,), NEVER, dtype=torch.int32))
        self._met: list[tuple[Tensor, Tensor]] = []

    def forward(self, own: Tensor, joined: Tensor, index: Tensor | None) -> Tensor:
        """Weights of rows [B], 0 or 1. Raises BatchError without the images' indices."""
        if index is None:
            raise BatchError("flex(…) remembers what it said of each image; give the images' index to the step")
        if self.training and torch.is_grad_enabled():  # else no update follows
            confidence, labels = joined.max(dim=1)
            self._met.append((index, torch.where(confidence >= self.told.threshold, labels, UNSURE)))
        confidence, labels = own.max(dim=1)
        return (confidence >= self.by_class()[labels]).to(own.dtype)

    def by_class(self) -> Tensor:
        """Thresholds [C]."""
        sure = _counts(self.said.long() - NEVER, self.classes - NEVER)[-NEVER:]  # behind those of no class
        met = (self.said != NEVER).sum() if self.told.images is None else self.told.images
        learned = sure / torch.maximum(sure.max(), met - sure.sum()).clamp_min(1)
        return flex_thresholds(learned, self.told.threshold)

    @torch.no_grad()
    def after_step(self) -> None:
        """Takes in the rows of the update; an image of which nothing is sure now keeps what was said of it."""
        for index, labels in self._met:
            if (size := self.room or int(index.max()) + 1) > len(self.said):
                more = self.said.new_full((size - len(self.said),), NEVER)
                self.said = torch.cat([self.said, more])
            kept = self.said[index].clamp_min(UNSURE)
            self.said[index] = torch.where(labels >= 0, labels.to(kept.dtype), kept)
        self._met = []

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        if (saved := state.get(f"{prefix}said")) is not None:
            self.said = self.said.new_full(saved.shape, NEVER)
        super()._load_from_state_dict(state, prefix, *rest)


class FreeRule(nn.Module):
    """FreeMatch's moving means: of the largest probability, of all probabilities, of the labels said."""

    def __init__(self, told: Free, classes: int) -> None:
        super().__init__()
        self.told = told
        self.overall: Tensor
        self.local: Tensor
        self.labels: Tensor
        self.register_buffer("overall", torch.tensor(1 / classes))
        self.register_buffer("local", torch.full((classes,), 1 / classes))
        self.register_buffer("labels", torch.full((classes,), 1 / classes))
        self._met: list[Tensor] = []

    def forward(self, own: Tensor, joined: Tensor, index: Tensor | None) -> Tensor:
        """Weights of rows [B], 0 or 1."""
        if self.training and torch.is_grad_enabled():
            self._met.append(joined)
        overall, local, _ = self.moved(joined)
        confidence, labels = own.max(dim=1)
        return (confidence >= free_thresholds(overall, local)[labels]).to(own.dtype)

    def moved(self, joined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three means after a batch [B, C]."""
        confidence, labels = joined.max(dim=1)
        counts = _counts(labels, len(self.local)).to(joined.dtype) / len(joined)
        found, rate = (confidence.mean(), joined.mean(dim=0), counts), self.told.momentum
        held = (self.overall, self.local, self.labels)
        overall, local, said = (rate * old + (1 - rate) * new for old, new in zip(held, found, strict=True))
        return overall, local, said

    def by_class(self) -> Tensor:
        """Thresholds [C]."""
        return free_thresholds(self.overall, self.local)

    @torch.no_grad()
    def after_step(self) -> None:
        """Takes in the rows of the update."""
        if self._met:
            overall, local, labels = self.moved(torch.cat(self._met))
            self.overall.copy_(overall)
            self.local.copy_(local)
            self.labels.copy_(labels)
        self._met = []


class SoftRule(nn.Module):
    """SoftMatch's moving mean and variance of the largest probability; with `align` the mean of all probabilities."""

    def __init__(self, told: Soft, classes: int) -> None:
        super().__init__()
        self.told = told
        self.mean: Tensor
        self.variance: Tensor
        self.local: Tensor
        self.register_buffer("mean", torch.tensor(1 / classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("local", torch.full((classes,), 1 / classes))
        self._met: list[Tensor] = []

    def forward(self, own: Tensor, joined: Tensor, index: Tensor | None) -> Tensor:
        """Weights of rows [B], in (0, 1]."""
        if self.training and torch.is_grad_enabled():
            self._met.append(joined)
        mean, variance, local = self.moved(joined)
        return soft_weights(self._aligned(own, local).max(dim=1).values, mean, variance, self.told.sigmas)

    def _aligned(self, probabilities: Tensor, local: Tensor) -> Tensor:
        if not self.told.align:
            return probabilities
        even = probabilities / local
        return even / even.sum(dim=1, keepdim=True)

    def moved(self, joined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and mean probabilities after a batch [B, C]; of one row the variance stays."""
        rate = self.told.momentum
        local = rate * self.local + (1 - rate) * joined.mean(dim=0)
        confidence = self._aligned(joined, local).max(dim=1).values
        spread = confidence.var() if len(confidence) > 1 else self.variance
        mean = rate * self.mean + (1 - rate) * confidence.mean()
        return mean, rate * self.variance + (1 - rate) * spread, local

    def by_class(self) -> None:
        """No thresholds by class."""

    @torch.no_grad()
    def after_step(self) -> None:
        """Takes in the rows of the update."""
        if self._met:
            mean, variance, local = self.moved(torch.cat(self._met))
            self.mean.copy_(mean)
            self.variance.copy_(variance)
            self.local.copy_(local)
        self._met = []


Rule = Fixed | FlexRule | FreeRule | SoftRule

__all__ = [
    "THRESHOLDS",
    "Fixed",
    "Flex",
    "Free",
    "FreeRule",
    "Rule",
    "Soft",
    "check_threshold",
    "flex_thresholds",
    "free_thresholds",
    "soft_weights",
]
