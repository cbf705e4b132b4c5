"""Adversarial images in pixel space: FGSM and PGD, within epsilon of each pixel and within [0, 1].

A model is any callable from pixels, float [B, 3, H, W] in [0, 1], to logits [B, C]; normalisation belongs inside it,
so that epsilon is measured, and the result clamped, where images live. Its parameters, their gradients and its mode
stay as they are. A module in training mode is refused: its batch statistics would change, and mix the images.

Both follow the gradient of the cross-entropy, by its sign. What is differentiated is the margin
m = log sum_{c != y} exp z_c - z_y, since CE = log(1 + e^m) has the same gradient times 1 - p_y, which is positive, but
rounds to nothing where a network is sure: in float32 from margins of some 17 on, with all of it gone at 104.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyview.errors import DataError
from manyview.evaluate.accuracy import check_labelled
from manyview.evaluate.report import Report, Table
from manyview.evaluate.robustness import bars, chosen
from manyview.evaluate.scores import check_by, scores_of
from manyview.foundation.words import counted
from manyview.relations.reading import check_labels
from manyview.views.draws import Draws
from manyview.views.ops.op import as_float, check_share, check_whole

if TYPE_CHECKING:
    from manyview.data import Splits
    from manyview.evaluate.features import Features

Model = Callable[[Tensor], Tensor]


def fgsm(model: Model, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., ICLR 2015): x + epsilon sign(gradient of the cross-entropy).

    images: [B, 3, H, W], uint8, or float in [0, 1]. labels: integers [B], the true classes. epsilon: in [0, 1].
    Returns float images in [0, 1]. Where the gradient is 0, a pixel stays. Raises ValueError for a model in training
    mode or without a gradient to its pixels, and for images, labels or numbers that cannot be meant.
    """
    check_share("epsilon", epsilon)
    clean = _pixels(model, images, labels)
    return (clean + epsilon * _slope(model, clean, labels).sign).clamp(0, 1)


def fgsm_normalized(model: Model, images: Tensor, labels: Tensor, epsilon: float, mean: Tensor, std: Tensor) -> Tensor:
    """The attack behind AgMax's figures (Atienza, WACV 2022; its official code), which is not FGSM's as published.

    Epsilon and the cut to [0, 1] are of *normalised* pixels, (x - mean) / std: all that is darker than the mean, or
    brighter than the mean by more than a standard deviation, is lost, even for epsilon 0. Only images that the model
    gets right are moved. mean, std: [1, C, 1, 1]. Returns pixels in [0, 1]. Arguments and errors else as of `fgsm`.
    """
    check_share("epsilon", epsilon)
    clean = _pixels(model, images, labels)
    return _cut_as_normalized(clean, _slope(model, clean, labels), epsilon, mean, std)


def _cut_as_normalized(clean: Tensor, slope: _Slope, epsilon: float, mean: Tensor, std: Tensor) -> Tensor:
    mean, std = mean.to(clean), std.to(clean)
    moved = ((clean - mean) / std + epsilon * slope.sign).clamp(0, 1) * std + mean
    return torch.where(slope.right[:, None, None, None], moved.clamp(0, 1), clean)


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    step: float,
    steps: int,
    seed: int | None = None,
    index: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Projected gradient descent (Madry et al., ICLR 2018): `steps` of FGSM of size `step`, each cut to the ball.

    The ball holds all images within epsilon of each pixel and within [0, 1]; the last iterate is returned. seed: of a
    start drawn uniformly from the ball about the image, then clamped; None starts at the image. index: what number
    each image has in its data set [B], by default its row; with it the start does not depend on the batch.
    Else as `fgsm`, which is `pgd` with one step of size epsilon from the image.
    """
    check_share("epsilon", epsilon)
    check_share("step", step)
    check_whole("steps", steps)
    clean = _pixels(model, images, labels)
    low, high = (clean - epsilon).clamp(min=0), (clean + epsilon).clamp(max=1)
    moved = clean
    if seed is not None:
        rows = range(len(clean)) if index is None else index
        if len(rows) != len(clean):
            raise ValueError(f"{len(clean)} images have {len(rows)} indices")
        start = Draws(seed, 0, rows, "pgd").uniform("start", clean[0].numel(), -epsilon, epsilon)
        moved = (clean + start.view(clean.shape).to(clean)).clamp(low, high)
    for _ in range(steps):
        moved = (moved + step * _slope(model, moved, labels).sign).clamp(low, high)
    return moved


def _pixels(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """Images as floats in [0, 1], or ValueError for what cannot be attacked."""
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("the model is in training mode, where its statistics would change; call model.eval() first")
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(f"expected images [B, 3, H, W] and labels [B], got {[*images.shape]} and {[*labels.shape]}")
    pixels = as_float(images).detach()
    if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("images must lie in [0, 1]; normalisation belongs inside the model")
    return pixels


@dataclass(frozen=True)
class _Slope:
    """Where the loss rises. sign: of its gradient [B, C, H, W]; 0 where that is 0 or not finite. right: bool [B]."""

    sign: Tensor
    right: Tensor

    @property
    def flat(self) -> Tensor:
        """Which images have no gradient at any pixel, bool [B]."""
        return (self.sign == 0).flatten(1).all(dim=1)


def _slope(model: Model, images: Tensor, labels: Tensor) -> _Slope:
    """Of each image's margin with respect to its pixels. Summed over the batch: no image weighs on another."""
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.clone().requires_grad_()
        logits = model(pixels)
        if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            raise ValueError(
                f"the model must give logits [B, C] of at least 2 classes for {len(images)} images, got "
                f"{[*logits.shape]}"
            )
        check_labels(labels, logits.shape[1])
        if not logits.requires_grad:
            raise ValueError("the model gives no gradient to its pixels; is there a no_grad or detach in it?")
        scores, own = logits.double(), labels.long().clone()[:, None]
        margin = scores.scatter(1, own, -torch.inf).logsumexp(dim=1) - scores.gather(1, own)[:, 0]
        (gradient,) = torch.autograd.grad(margin.sum(), pixels)
    return _Slope(gradient.sign().nan_to_num(0.0), logits.argmax(dim=1) == own[:, 0])


BATCH = 64
ATTACKS = ("pgd", "fgsm", "agmax")
"""The first that is asked for gives the main figure."""


@dataclass(frozen=True)
class Adversarial:
    """Accuracy on images that are moved against the model itself, each pixel by at most epsilon: by FGSM, and by PGD.

    fgsm, pgd: epsilons of each attack in parts of the range of pixels, as numbers or as fractions such as `8/255`. pgd
    starts at random within epsilon and takes so many `steps`, each an epsilon / 4 unless `step` says (2/255 for 8/255,
    as Madry et al., ICLR 2018). images: at most so many of the split, drawn by the seed; None takes all. The main
    figure is that of the first pgd, or without one of the first fgsm, or of the first agmax.

    agmax: epsilons of the attack that AgMax's official code calls FGSM, at 0.1, 0.3 and 0.5: in parts of the range of
    *normalised* pixels, which it cuts to [0, 1], and only on images that are right (see `fgsm_normalized`). Figures of
    fgsm are not comparable with that paper's, those of agmax are.

    Pixels are those that the model looks at, before normalisation, and what is moved is not rounded to levels. by: what
    is attacked: `classifier`, or a `linear` probe and the backbone beneath; `auto` is the classifier, or the probe
    where there is none. zero_gradients: of how many percent of the images no pixel has a gradient: these withstand
    whatever follows one.
    """

    fgsm: tuple[float | str, ...] = (0.1, 0.3, 0.5)
    pgd: tuple[float | str, ...] = ("8/255",)
    steps: int = 10
    step: float | str | None = None
    images: int | None = 1000
    by: str = "auto"
    agmax: tuple[float | str, ...] = ()

    def __post_init__(self) -> None:
        for name in ATTACKS:
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(given) if isinstance(given, list | tuple) else (given,))
            for epsilon in getattr(self, name):
                _share(name, epsilon)
            if len({_share(name, epsilon) for epsilon in getattr(self, name)}) < len(getattr(self, name)):
                raise ValueError(f"an epsilon is named twice: {name}={getattr(self, name)}")
        if not any(getattr(self, name) for name in ATTACKS):
            raise ValueError("neither fgsm nor pgd nor agmax has an epsilon; nothing is attacked")
        check_whole("steps", self.steps)
        if self.step is not None:
            _share("step", self.step)
        if self.images is not None:
            check_whole("images", self.images)
        if self.by == "knn":
            raise ValueError("an attack follows gradients, and the neighbours of knn have none; take by='linear'")
        check_by(self.by)

    def check(self, splits: Splits) -> None:
        """Raises DataError where a linear probe is asked for and cannot be fitted."""
        if self.by == "linear":
            check_labelled(splits)

    def measure(self, features: Features, split: str) -> Report:
        """The accuracies, in percent: `clean`, and of each attack by its name and epsilon."""
        images, model = features.images(split), features.model
        found_by = scores_of(features, split, self.by)
        scores = found_by.read
        right: dict[str, int] = {}
        seen = flat = 0
        positions = chosen(features, split, images, self.images)
        for batch, kept in features.batches(images, positions, BATCH, "adversarial"):
            pixels, labels = model.prepare(batch), torch.from_numpy(images.labels[kept]).to(model.device)
            slope = _slope(scores, pixels, labels)
            looked = {"clean": pixels}
            for given in self.fgsm:
                looked[f"fgsm({given})"] = (pixels + _share("fgsm", given) * slope.sign).clamp(0, 1)
            for given in self.agmax:
                epsilon = _share("agmax", given)
                looked[f"agmax({given})"] = _cut_as_normalized(pixels, slope, epsilon, *model.normalization)
            for given in self.pgd:
                epsilon = _share("pgd", given)
                step = epsilon / 4 if self.step is None else _share("step", self.step)
                index = torch.from_numpy(images.index[kept])
                looked[f"pgd({given})"] = pgd(scores, pixels, labels, epsilon, step, self.steps, features.seed, index)
            for name, moved in looked.items():
                with torch.no_grad():
                    right[name] = right.get(name, 0) + int((scores(moved).argmax(dim=1) == labels).sum())
            seen += len(kept)
            flat += int(slope.flat.sum())
        if not seen:
            raise DataError(f"no image of '{split}' could be read")
        found = {name: 100 * count / seen for name, count in right.items()}
        attacked = {name: value for name, value in found.items() if name != "clean"}
        main = next(f"{name}({getattr(self, name)[0]})" for name in ATTACKS if getattr(self, name))
        stays = f"; {flat:,} have no gradient at any pixel, so nothing that follows it moves them" if flat else ""
        return Report(
            {"": found[main], **found, "zero_gradients": 100 * flat / seen},
            {"accuracy": Table(("attack", "accuracy, %"), tuple(found.items()))},
            lambda: bars("Accuracy under attack", found["clean"], attacked),
            f"{counted(seen, 'image')}{stays}; {found_by.note}",
        )


def _share(name: str, value: float | str) -> float:
    """A number in [0, 1], also as the text of a fraction."""
    try:
        number = float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name} must be a number in [0, 1], or a fraction such as '8/255', got {value!r}") from None
    check_share(name, number)
    return number
