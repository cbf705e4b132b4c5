"""AugSelf: predict how two views of an image differ (Lee, Lee, Shin, NeurIPS 2021).

Invariance throws away what augmentation changes: colour, place, scale. Beside any loss, a small net for each kind of
augmentation reads the features of two views and tells the difference of what they drew, so that features keep it:

    loss = sum over kinds of  weight * mean over rows of  l(net([h_a, h_b]), difference(a, b))

over rows (a, b) and (b, a), the latter in b's frame. What is told, always a minus b:

    crop      4  centre y, centre x, height, width, as fractions of the frame that the crop saw; in a's frame: x of
                 both centres is mirrored where a is flipped                                         MSE after tanh
    color     4  (factor - 1) of brightness, contrast, saturation, and the hue's shift, each over the width of its
                 range; 0 where not applied                                                          MSE after tanh
    blur      1  sigma over the largest; 0 where not applied                                         MSE after tanh
    solarize  1  threshold; 1 where not applied                                                      MSE after tanh
    flip      1  whether both or neither is flipped                                            binary cross-entropy
    rotation  4  quarter turns, (k_a - k_b) mod 4                                                     cross-entropy

The official code leaves sigma as it is, which tanh cannot reach, and its thresholds [B] spread over [B, B]; both are
mended here. Its weight is 1 for every kind on STL-10 and 0.5 on ImageNet100, where crop and color are used (section 4).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.branches.heads import predictor
from manyview.errors import RecipeError
from manyview.relations.precision import in_float32
from manyview.relations.reading import Port, Reading, check_alike
from manyview.views.ops.blur import Blur
from manyview.views.ops.color import Jitter
from manyview.views.ops.crop import Crop, PadCrop
from manyview.views.ops.flip import Flip, Rotate90, VFlip
from manyview.views.ops.op import Op, beside
from manyview.views.ops.threshold import Solarize


@in_float32
def _regression(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.tanh(), beside(target, output).to(output))


@in_float32
def _yes_or_no(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, beside(target, output).to(output))


@in_float32
def _one_of(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, beside(target[:, 0], output))


@dataclass(frozen=True)
class Kind:
    """A way in which views differ.

    ops: names of the ops that make it, and their classes. columns: of the net's output. loss: of its output
    [R, columns] and the ops' difference [R, k], a scalar. unit: what an op measures differences in; it must be the same
    for both views, lest differences leave [-1, 1].
    """

    ops: dict[str, type[Op]]
    columns: int
    loss: Callable[[Tensor, Tensor], Tensor]
    unit: Callable[[Any], object] = lambda op: None


KINDS = {
    "crop": Kind({"crop": Crop, "pad_crop": PadCrop}, 4, _regression),
    "color": Kind({"jitter": Jitter}, 4, _regression, lambda op: op.ranges()),
    "flip": Kind({"flip": Flip}, 1, _yes_or_no),
    "blur": Kind({"blur": Blur}, 1, _regression, lambda op: op.ends()),
    "rotation": Kind({"rotate90": Rotate90}, 4, _one_of),
    "solarize": Kind({"solarize": Solarize}, 1, _regression),
}


class AugSelf(nn.Module):
    """`augself(h(a), h(b), crop=1.0, color=1.0)`: any kinds, a weight each, over all pairs of two or more views.

    Kinds: crop (`crop`, `pad_crop`), color (`jitter`), flip, blur, rotation (`rotate90`), solarize; a kind without a
    weight is not built. Each has a net of its own: linear, BatchNorm, ReLU, twice, to `hidden` units, and a linear
    layer; all pairs pass it at once. Gives a dict, kind -> its weighted loss.

    A view needs exactly one op of each kind, its own: what a view draws that it derives from does not count. Where only
    one view is, say, solarized, the other says `solarize(0.5, p=0)`. Ranges of jitter and blur must be the same in all
    views, their p may differ. Flips and turns come after the crop; quarter turns leave the crop's frame as it is.
    Families pair member by member. The loss is a mean over rows and needs no gather; BatchNorm's statistics are each
    process's own unless it is synchronised. The nets run in float32 whatever `train.precision`. Raises RecipeError for
    all that does not fit.
    """

    symmetric = True

    def __init__(
        self,
        *views: Port,
        crop: float | None = None,
        color: float | None = None,
        flip: float | None = None,
        blur: float | None = None,
        rotation: float | None = None,
        solarize: float | None = None,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        given = {"crop": crop, "color": color, "flip": flip, "blur": blur, "rotation": rotation, "solarize": solarize}
        self.weights = {kind: _checked(kind, weight) for kind, weight in given.items() if weight is not None}
        if not self.weights:
            raise ValueError(f"give at least one kind a weight, as in crop=1.0; kinds: {', '.join(KINDS)}")
        if len(views) < 2:
            raise RecipeError(f"views differ in pairs; give two or more, got {len(views)}")
        twice = [text for text, count in Counter(view.text for view in views).items() if count > 1]
        if twice:
            raise RecipeError(f"{twice[0]} stands here twice, and does not differ from itself")
        self.views = views
        self.names = {kind: [_op_of(kind, view) for view in views] for kind in self.weights}
        for kind in self.weights:
            self._check_units(kind)
        if "crop" in self.weights:
            for view, name in zip(views, self.names["crop"], strict=True):
                _check_frame(view, name)
        check_alike(*views)
        self.predictors = nn.ModuleDict(
            {
                kind: predictor(hidden, KINDS[kind].columns, layers=3, inputs=2 * views[0].dim, classes=0)[0]
                for kind in self.weights
            }
        )

    def forward(self, *readings: Reading) -> dict[str, Tensor]:
        told = self.predict(*readings)
        return {kind: weight * KINDS[kind].loss(*told[kind]) for kind, weight in self.weights.items()}

    def predict(self, *readings: Reading) -> dict[str, tuple[Tensor, Tensor]]:
        """kind -> (what its net gives, before tanh [R, columns]; the truth [R, k]), for R rows, B*members a pair.

        Rows: all pairs (a, b) of views in order, then all of them exchanged. Raises RecipeError for readings without
        the parameters that their views drew.
        """
        for at, reading in enumerate(readings):
            self._check_drawn(at, reading)
        pairs = list(itertools.combinations(range(len(readings)), 2))
        pairs += [(b, a) for a, b in pairs]
        features = torch.cat([torch.cat([readings[a].value, readings[b].value], dim=1) for a, b in pairs])
        return {
            kind: (net(features), torch.cat([self._difference(kind, readings, a, b) for a, b in pairs]))
            for kind, net in self.predictors.items()
        }

    def _difference(self, kind: str, readings: tuple[Reading, ...], a: int, b: int) -> Tensor:
        name_a, name_b = self.names[kind][a], self.names[kind][b]
        frame = readings[a].params
        op = self.views[a].ops[name_a]
        return op.difference(dict(frame[name_a]), dict(readings[b].params[name_b]), frame)

    def _check_units(self, kind: str) -> None:
        unit, names = KINDS[kind].unit, self.names[kind]
        first = unit(self.views[0].ops[names[0]])
        for view, name in zip(self.views[1:], names[1:], strict=True):
            if unit(view.ops[name]) != first:
                raise RecipeError(
                    f"{kind}: {names[0]} of {self.views[0]} and {name} of {view} draw from unlike ranges; "
                    f"give them the same, only p may differ"
                )

    def _check_drawn(self, at: int, reading: Reading) -> None:
        for name in {names[at] for names in self.names.values()}:
            drawn = reading.params.get(name)
            if drawn is None:
                raise RecipeError(
                    f"augself: {self.views[at]} comes without what '{name}' drew (as from timm's loader); "
                    f"let the step or manyview's loader draw the views"
                )
            rows = len(next(iter(drawn.values())))
            if rows != len(reading.value):
                raise RecipeError(
                    f"augself: {self.views[at]} has {len(reading.value)} rows, but '{name}' drew {rows} times; "
                    f"relate features of the views as they are"
                )


def _checked(kind: str, weight: Any) -> float:
    if type(weight) not in (int, float) or not 0 < weight < math.inf:
        raise ValueError(f"{kind}: a weight is a positive number, got {weight!r}; leave a kind out to drop it")
    return float(weight)


def _op_of(kind: str, view: Port) -> str:
    """The name of the view's one op of a kind."""
    makers = KINDS[kind].ops
    found = [name for name, op in view.ops.items() if isinstance(op, tuple(makers.values()))]
    if len(found) != 1:
        raise RecipeError(
            f"{kind}: the view of {view} needs one {' or '.join(makers)} among its own ops, "
            f"has {' and '.join(found) or 'none'}; ops: {', '.join(view.ops) or 'none'}"
        )
    return found[0]


def _check_frame(view: Port, crop: str) -> None:
    """Raises RecipeError where flips or turns leave it open in which frame a crop's box is."""
    names = list(view.ops)
    before = [name for name in names[: names.index(crop)] if isinstance(view.ops[name], Flip | VFlip | Rotate90)]
    if before:
        raise RecipeError(
            f"crop: the view of {view} has {before[0]} before {crop}, so that its boxes lie in unlike frames; "
            f"put {crop} first"
        )
    for flip in (Flip, VFlip):
        found = [name for name, op in view.ops.items() if isinstance(op, flip)]
        if len(found) > 1:
            raise RecipeError(f"crop: the view of {view} has {' and '.join(found)}; one of them is enough")
