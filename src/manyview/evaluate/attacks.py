"""Adversarial images in pixel space: FGSM and PGD, within epsilon of each pixel and within [0, 1].

A model is any callable from pixels, float [B, 3, H, W] in [0, 1], to logits [B, C]; normalisation belongs inside it,
so that epsilon is measured, and the result clamped, where images live. Its parameters, their gradients and its mode
stay as they are. A module in training mode is refused: its batch statistics would change, and mix the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.augment.op import as_float, check_share, check_whole
from manyview.draws import Draws
from manyview.relations.reading import check_labels

Model = Callable[[Tensor], Tensor]


def fgsm(model: Model, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., ICLR 2015): x + epsilon sign(gradient of the cross-entropy).

    images: [B, 3, H, W], uint8, or float in [0, 1]. labels: integers [B], the true classes. epsilon: in [0, 1].
    Returns float images in [0, 1]. Where the gradient is 0, a pixel stays. Raises ValueError for a model in training
    mode or without a gradient to its pixels, and for images, labels or numbers that cannot be meant.
    """
    check_share("epsilon", epsilon)
    clean = _pixels(model, images, labels)
    return (clean + epsilon * _gradient(model, clean, labels).sign()).clamp(0, 1)


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
        moved = (moved + step * _gradient(model, moved, labels).sign()).clamp(low, high)
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


def _gradient(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """Of each image's cross-entropy with respect to its pixels. Summed over the batch: no image weighs on another."""
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.clone().requires_grad_()
        logits = model(pixels)
        if logits.ndim != 2 or len(logits) != len(images):
            raise ValueError(f"the model must give logits [B, C] for {len(images)} images, got {[*logits.shape]}")
        check_labels(labels, logits.shape[1])
        if not logits.requires_grad:
            raise ValueError("the model gives no gradient to its pixels; is there a no_grad or detach in it?")
        loss = F.cross_entropy(logits.float(), labels.long().clone(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient
