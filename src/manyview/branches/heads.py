"""Heads: small networks from one readout to the next, written in a recipe as `z: projector(h, 2048, layers=2)`.

Each builder takes the width of its input and gives (module, width of its output). BatchNorm and no bias before it,
ReLU between layers, as in the SimCLR family.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.branches.origin import without_origin
from manyview.errors import RecipeError, brief
from manyview.foundation.grammar import Call, Name, bind
from manyview.foundation.vocabulary import NONE, Words
from manyview.views.ops.op import TURNS, WIDTH, check_kind, check_whole
from manyview.views.plan import PlannedView

Built = tuple[nn.Module, int]


def linear(out: int | None = None, *, inputs: int, classes: int, members: int = 1) -> Built:
    """One linear layer. out: columns; by default one a class, and with `orbit=r` one a class and member (SLA)."""
    if out is None:
        out = classes * members
    elif members > 1:
        raise ValueError("orbit= fixes the number of columns; drop the other one")
    check_whole("out", out, most=WIDTH)
    return nn.Linear(inputs, out), out


def mlp(hidden: int, out: int | None = None, layers: int = 2, *, inputs: int, classes: int) -> Built:
    """Linear layers with ReLU between, without normalisation. out: by default one column a class."""
    out = classes if out is None else out
    return nn.Sequential(*_layers([inputs, *[hidden] * (check_layers(layers) - 1), out], norm=False)), out


def projector(
    out: int,
    hidden: int | None = None,
    layers: int = 2,
    *,
    inputs: int,
    classes: int,
    norm_last: bool = True,
    affine: bool = False,
) -> Built:
    """SimCLR's and SimSiam's projector: linear, BatchNorm, ReLU, …, linear, BatchNorm.

    hidden: by default `out`. affine: whether the last BatchNorm has one; not so in SimSiam (Chen & He, CVPR 2021,
    official code) and DSSL on CIFAR, but in AugSelf's SimSiam and DSSL's on ImageNet. norm_last=False drops that
    BatchNorm, as in AugSelf's SimCLR, MoCo, BYOL and SwAV. (MoCo v2 itself has none: `mlp(h, 2048, 128)`.)
    """
    for name, value in (("norm_last", norm_last), ("affine", affine)):
        check_kind(name, value, bool, "True or False")
    if affine and not norm_last:
        raise ValueError("affine=True is for the last BatchNorm, which norm_last=False drops; keep one")
    hidden = out if hidden is None else hidden
    modules = _layers([inputs, *[hidden] * (check_layers(layers) - 1), out], norm=True)
    if norm_last:
        modules[-1] = nn.Linear(modules[-1].in_features, out, bias=False)  # type: ignore[arg-type]
        modules.append(nn.BatchNorm1d(out, affine=affine))
    return nn.Sequential(*modules), out


def predictor(hidden: int, out: int | None = None, layers: int = 2, *, inputs: int, classes: int) -> Built:
    """SimSiam's and BYOL's predictor, with nothing after its last layer. out: by default the width of its input."""
    out = inputs if out is None else out
    return nn.Sequential(*_layers([inputs, *[hidden] * (check_layers(layers) - 1), out], norm=True)), out


class DinoHead(nn.Module):
    """Linear layers with GELU between, to a unit vector, and its cosines with `out` directions; see `dino_head`."""

    def __init__(self, inputs: int, out: int, hidden: int, bottleneck: int, layers: int, freeze: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise([inputs, *[hidden] * (layers - 1), bottleneck]):
            modules += [nn.Linear(before, after), nn.GELU()]
            nn.init.trunc_normal_(modules[-2].weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(modules[-2].bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*modules[:-1])
        self.last = nn.Parameter(F.normalize(torch.randn(out, bottleneck), dim=1))
        self.freeze = freeze
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.updates: Tensor

    def no_weight_decay(self) -> set[str]:
        """The last layer: its length says nothing, and while it is frozen nothing may move it."""
        return {"last"}

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, out], each in [-1, 1]."""
        # while frozen it has a gradient of zero, which neither momentum nor clip sees
        last = torch.where(self.updates < self.freeze, self.last.detach(), self.last)
        return F.linear(F.normalize(self.layers(x), dim=1), F.normalize(last, dim=1))

    @torch.no_grad()
    def after_step(self) -> None:
        """Counts towards the thaw."""
        self.updates += 1


def dino_head(
    out: int,
    hidden: int = 2048,
    bottleneck: int = 256,
    layers: int = 3,
    freeze: int = 0,
    *,
    inputs: int,
    classes: int,
) -> Built:
    """DINO's head (Caron et al., ICCV 2021, appendix C): GELU between layers, a unit vector of `bottleneck`, K columns.

    The last layer is normalised by weight with its gain fixed at 1, so a column is a cosine. freeze: updates during
    which it stays as it was drawn, in the paper those of the first epoch. out: 65,536 there; take fewer for small data.
    Other than in the official code, that layer has no weight decay, which would only shorten what is normalised anyway,
    and while it is frozen its gradient is zero, where there it has none: Adam's moments begin at once, and not at the
    thaw, after which its first steps are some times as long.
    """
    for name, value in (("out", out), ("hidden", hidden), ("bottleneck", bottleneck)):
        check_whole(name, value, most=WIDTH)
    check_whole("freeze", freeze, least=0)
    return DinoHead(inputs, out, hidden, bottleneck, check_layers(layers), freeze), out


HEADS: dict[str, Callable[..., Built]] = {
    "dino_head": dino_head,
    "linear": linear,
    "mlp": mlp,
    "predictor": predictor,
    "projector": projector,
}


def check_layers(layers: int) -> int:
    """The number of layers, or ValueError unless it is a positive whole number, and no slip of the pen."""
    check_whole("layers", layers, most=TURNS)
    return layers


def _layers(widths: list[int], norm: bool) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        check_whole("width", after, most=WIDTH)
        last = number == len(widths) - 2
        modules.append(nn.Linear(before, after, bias=last or not norm))
        if not last:
            modules += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    return modules


def flattened(features: Tensor) -> Tensor:
    """A layer's whole output as one row an image, [B, C*h*w]."""
    return features.flatten(1)


def pooled(features: Tensor) -> Tensor:
    """A layer's output as one row an image: maps [B, C, h, w] and tokens [B, N, C] are averaged to [B, C]."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features


# heads that read a layer inside the backbone: `low: pool("layer2")`
TAPS: dict[str, Callable[[Tensor], Tensor]] = {"maps": flattened, "pool": pooled}


@dataclass(frozen=True)
class Head:
    """A head that was built. width: of its output. orbit: the family whose members it tells apart, if any."""

    module: nn.Module
    width: int
    orbit: PlannedView | None = None


def build_head(
    call: Call, inputs: int, classes: int, views: Mapping[str, PlannedView], where: str, words: Words = NONE
) -> Head:
    """A head from its call, `linear(h, orbit=r)`. inputs: columns of what it reads. Raises RecipeError at `where`.

    Weights that `init=` names are put in afterwards, see `start_head`.
    """
    options: dict[str, Any] = dict(without_origin(call).kwargs)
    extra: dict[str, Any] = {"inputs": inputs, "classes": classes}
    orbit = None
    if call.name == "linear" and "orbit" in options:
        view = options.pop("orbit")
        if not isinstance(view, Name) or view.text not in views or not views[view.text].is_family:
            families = [family.name for family in views.values() if family.is_family]
            raise RecipeError(f"{where}: orbit= names a family of views, got {view}; families: {families or 'none'}")
        orbit = views[view.text]
        extra["members"] = orbit.members
    built: Any = bind(words.beside("HEADS", HEADS)[call.name], Call(call.name, call.args[1:], options), where, **extra)
    if not (isinstance(built, tuple) and [isinstance(built[0], nn.Module), type(built[-1])] == [True, int]):
        raise RecipeError(f"{where}: {call.name} builds (module, width of its output), got {brief(built)}")
    module, width = built
    return Head(module, width, orbit)
