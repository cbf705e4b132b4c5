"""MixUp (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019): each image mixed with another one of its batch.

The view's target is mixed with the same shares (`mix_target`), and so are the features of a clean view in Tied-mixup
(`mix_rows`; Tied-Augment, Kurtulus et al., ICML 2023). What the two ops draw:

    partner  int64 [B]    row, in the batch, of the image mixed in: a random order of the batch, or the reversed batch
    lam      float64 [B]  share kept of the own image, 1 where the coin said no
    applied  bool [B]     the coin
    box      float64 [B, 4], CutMix: top, left, height, width of what is pasted, as fractions of the frame

`per="batch"`, one lam, box and coin for all, with a random order in which an image may meet itself, is what the
authors' code of both and AgMax's do. `per="image"` draws lam, box and coin for each image. `coin="shared"` tosses one
coin for all views of a batch (or image): they are mixed, each in its own way, or none is.

What belongs to the batch is a function of the images it holds, in their order, not of a step number (`Draws.batch`).
Within a family of m members, member t is mixed with member t of the partner (`on_rows`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import DataError
from manyview.views.draws import Draws
from manyview.views.ops.op import Params, ViewParams, as_float, beside, check_probability, per_image, where_applied

PARTNERS = ("random", "reversed")
PER = ("batch", "image")
COINS = ("own", "shared")


@dataclass(frozen=True)
class MixUp:
    """lam * image + (1 - lam) * partner, lam ~ Beta(alpha, alpha), with probability p; the target is mixed alike.

    partner: "random" or "reversed" (Tied-Augment's). per: "batch" (one lam and coin for all, as the authors' code) or
    "image". coin: "own", or "shared" by all views with a mixup of the same p. Gives floats, not rounded to grey levels.
    Parameters: `partner` [B], `lam` [B], `applied` [B].
    Raises DataError for a batch of one and for images of unlike sizes.
    """

    alpha: float = 0.2
    p: float = 1.0
    partner: str = "random"
    per: str = "batch"
    coin: str = "own"

    def __post_init__(self) -> None:
        _check_positive("alpha", self.alpha)
        check_probability(self.p)
        _check_choice("partner", self.partner, PARTNERS)
        _check_choice("per", self.per, PER)
        _check_choice("coin", self.coin, COINS)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        _check_mixable("mixup", sizes)
        source = draws.batch() if self.per == "batch" else draws
        applied = (source.shared() if self.coin == "shared" else source).coin("applied", self.p)
        lam = torch.where(applied, beta(source.uniform("lam")[:, 0], self.alpha), 1.0)
        return _for_all(len(sizes), partner=_partners(draws, self.partner), lam=lam, applied=applied)

    def render(self, images: Tensor, params: Params) -> Tensor:
        _check_share(params["lam"])
        images = as_float(images)
        lam = per_image(params["lam"], images)
        mixed = lam * images + (1 - lam) * images[params["partner"].to(images.device)]
        return where_applied(params["applied"], mixed, images)

    def retarget(self, target: Tensor | None, params: Params, classes: int | None) -> Tensor | None:
        """See `mix_target`."""
        return mix_target(target, params, classes)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Share kept of the own image in a minus that in b [B, 1]; the same in every frame."""
        return (share(a) - share(b))[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class CutMix:
    """A box of the partner is pasted into the image, with probability p; the target is mixed by the pixels' shares.

    The box's sides are sqrt(1 - l) of the frame's, l ~ Beta(beta, beta), its centre anywhere, cut at the edges; as in
    the authors' code the sides are even numbers of pixels before that. `lam` is the exact share of pixels kept.
    partner, per, coin: as for `mixup`; AgMax's CIFAR runs toss one coin a batch for both views.
    Parameters: `partner` [B], `lam` [B], `box` [B, 4], `applied` [B].
    Raises DataError for a batch of one and for images of unlike sizes.
    """

    beta: float = 1.0
    p: float = 1.0
    partner: str = "random"
    per: str = "batch"
    coin: str = "own"

    def __post_init__(self) -> None:
        _check_positive("beta", self.beta)
        check_probability(self.p)
        _check_choice("partner", self.partner, PARTNERS)
        _check_choice("per", self.per, PER)
        _check_choice("coin", self.coin, COINS)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        _check_mixable("cutmix", sizes)
        source = draws.batch() if self.per == "batch" else draws
        applied = (source.shared() if self.coin == "shared" else source).coin("applied", self.p)
        side = (1 - beta(source.uniform("lam"), self.beta)).sqrt()
        half = (sizes * side).floor().div(2, rounding_mode="floor")
        centre = (source.uniform("centre", 2) * sizes).floor()
        first, last = (centre - half).clamp_min(0), torch.minimum(centre + half, sizes)
        lam = torch.where(applied, 1 - (last - first).prod(dim=1) / sizes.prod(dim=1), 1.0)
        box = torch.cat([first, last - first], dim=1) / sizes.repeat(1, 2)
        return _for_all(len(sizes), partner=_partners(draws, self.partner), lam=lam, box=box, applied=applied)

    def render(self, images: Tensor, params: Params) -> Tensor:
        _check_share(params["lam"])
        pasted = params["applied"].to(images.device).view(-1, 1, 1, 1)
        for axis, side in enumerate(images.shape[-2:]):
            first, extent = (
                (params["box"][:, at] * side).round().to(images.device)[:, None] for at in (axis, axis + 2)
            )
            position = torch.arange(side, device=images.device)
            inside = (position >= first) & (position < first + extent)
            pasted = pasted & (inside[:, None, :, None] if axis == 0 else inside[:, None, None, :])
        return torch.where(pasted, images[params["partner"].to(images.device)], images)

    def retarget(self, target: Tensor | None, params: Params, classes: int | None) -> Tensor | None:
        """See `mix_target`."""
        return mix_target(target, params, classes)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Share kept of the own image in a minus that in b [B, 1]; the same in every frame."""
        return (share(a) - share(b))[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


MIXING = (MixUp, CutMix)


def beta(uniform: Tensor, concentration: float) -> Tensor:
    """Uniform numbers in [0, 1) as draws of Beta(c, c), by the inverse of its distribution function."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(concentration, concentration, uniform.numpy()))


def share(params: Params) -> Tensor:
    """Share kept of the own image, float64 [B]."""
    return torch.where(params["applied"], params["lam"], 1.0)


def on_rows(params: Params, members: int) -> Params:
    """Parameters [B*members] of a family whose `partner` counts the family's rows i*members + t, not the images."""
    if members == 1:
        return params
    partner = params["partner"]
    member = torch.arange(len(partner), device=partner.device) % members
    return {**params, "partner": partner * members + member}


def mix_rows(rows: Tensor, params: Params) -> Tensor:
    """Rows [B, D], of features or soft targets, mixed as the images were: lam * row + (1 - lam) * its partner's row."""
    lam = beside(share(params), rows).to(rows.dtype)[:, None]
    return lam * rows + (1 - lam) * rows[beside(params["partner"], rows)]


def mix_target(target: Tensor | None, params: Params, classes: int | None) -> Tensor | None:
    """Soft targets, float [B, classes], from labels [B] or from targets that are soft already; None stays None.

    Raises DataError for labels outside [0, classes), and ValueError where labels come without a number of classes.
    """
    if target is None:
        return None
    if target.ndim == 1 and classes is None:
        raise ValueError("mixing labels needs the number of classes: pass classes")
    return mix_rows(target if classes is None else one_hot(target, classes), params)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Labels [B] as float [B, classes]; targets that are soft already stay. Raises DataError for other labels."""
    if target.ndim > 1:
        return target
    if target.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere it would hold up the device
        wrong = target[(target < 0) | (target >= classes)]
        if len(wrong):
            raise DataError(f"label {int(wrong[0])} is outside [0, {classes})")
    return (target[:, None] == torch.arange(classes, device=target.device)).float()


def _partners(draws: Draws, partner: str) -> Tensor:
    if partner == "reversed":
        return torch.arange(len(draws)).flip(0)
    return draws.batch().permutation("partner", len(draws))[0]


def _for_all(count: int, **params: Tensor) -> Params:
    """What was drawn once for the batch, repeated for each of its images."""
    return {name: value.expand(count, *value.shape[1:]).clone() for name, value in params.items()}


def _check_mixable(name: str, sizes: Tensor) -> None:
    if len(sizes) == 1:
        raise DataError(f"{name} needs at least two images a batch; raise batch_size, or drop the op")
    if len(sizes) and (sizes != sizes[0]).any():
        raise DataError(f"{name} needs images of one size; crop or resize them first")


def _check_share(lam: Tensor) -> None:
    """Raises ValueError for a share outside [0, 1]. On a GPU, where looking means waiting, it does not look."""
    if torch.compiler.is_compiling() or lam.device.type != "cpu":
        return
    wrong = lam[~((lam >= 0) & (lam <= 1))]
    if len(wrong):
        raise ValueError(f"lam must be in [0, 1], got {float(wrong[0]):g}")


def _check_positive(name: str, value: float) -> None:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")
