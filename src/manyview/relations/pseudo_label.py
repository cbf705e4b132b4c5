"""The network's own labels: a confident prediction on one view is the target of another, for images without a label.

    loss = 1/B sum over rows of  m CE(l_strong, y),    P = softmax(l_weak)

FixMatch (Sohn et al., NeurIPS 2020): y = argmax P, m = [max P >= 0.95]. UDA (Xie et al., NeurIPS 2020): y is soft,
softmax(l_weak / 0.4), m = [max P >= 0.8]. What FlexMatch, FreeMatch and SoftMatch make of m stands in `thresholds`.

FreeMatch's fairness (eq. 11-13) pulls the marginal of the confident strong rows to that of the moving mean, both evened
out by how often each class was said:  sum_c a_c log b_c,  a = norm(local / labels), b = norm(mean P_strong / counts).
Its sign is the paper's, L_f = - H(a, b), and its weight 0.001 to 0.01.

Where `mixup` or `cutmix` mixed the strong view's images, their labels are mixed as labels of people's are: row i, which
shows lam of its own image and 1 - lam of image j, is asked for  lam m_i y_i + (1 - lam) m_j y_j.  An unsure image adds
nothing, whatever it is mixed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyview.errors import BatchError, RecipeError
from manyview.foundation.distributed import gather
from manyview.relations.precision import check_temperature, in_float32
from manyview.relations.reading import Port, Reading, check_alike, check_classifies, same_shape
from manyview.relations.thresholds import THRESHOLDS, Fixed, Flex, Free, FreeRule, Rule, Soft
from manyview.views.ops.mix import MIXING, mix_rows, on_rows, one_hot
from manyview.views.ops.op import Params

SHOWN = 100  # classes, of which thresholds are logged one by one


@in_float32
def pseudo_label(strong: Tensor, weak: Tensor, threshold: float, temperature: float = 1.0) -> Tensor:
    """FixMatch's unlabelled loss, a scalar, 0 where no row is confident; no gradient to the weak view.

    strong, weak: logits [B, C]. threshold: the least probability that counts as confident. A mean over rows: processes
    need no gather. Raises ValueError for unlike shapes, a threshold outside [0, 1] or temperature <= 0.
    """
    same_shape(strong, weak)
    check_temperature(temperature)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    confidence, labels = (weak.detach() / temperature).softmax(dim=1).max(dim=1)
    return (F.cross_entropy(strong, labels, reduction="none") * (confidence >= threshold)).mean()


@in_float32
def fairness(strong: Tensor, weights: Tensor, local: Tensor, labels: Tensor) -> Tensor:
    """FreeMatch's fairness, a scalar to minimise; 0 where no row counts.

    strong: logits [B, C]. weights: which rows count, 0 or 1 [B]. local, labels: moving means [C] of the probabilities
    and of the labels said. On several processes give the gathered rows. Raises ValueError for shapes that disagree.
    """
    if weights.shape != strong.shape[:1] or not local.shape == labels.shape == strong.shape[1:]:
        raise ValueError(
            f"expected logits [B, C] with weights [B] and two means [C], got {tuple(strong.shape)}, "
            f"{tuple(weights.shape)}, {tuple(local.shape)} and {tuple(labels.shape)}"
        )
    probabilities, count = strong.softmax(dim=1), weights.sum().clamp_min(1)
    said = F.one_hot(probabilities.argmax(dim=1), strong.shape[1]).to(strong.dtype)
    often, mean = (weights @ said) / count, (weights @ probabilities) / count
    a, b = _evened(local, labels), _evened(mean, often)
    return (a.detach() * (b + 1e-12).log()).sum() * (weights.sum() > 0)


def _evened(mean: Tensor, often: Tensor) -> Tensor:
    """Over how often each class was said, classes that were not left out, and 1 in sum."""
    even = torch.where(often > 0, mean / often.clamp_min(torch.finfo(often.dtype).tiny), 0.0)
    return even / even.sum().clamp_min(1e-12)


@dataclass(frozen=True)
class Said:
    """What was said of the rows of the last forward pass: index [B] where it is known, labels [B], weights [B]."""

    index: Tensor | None
    labels: Tensor
    weights: Tensor


class PseudoLabel(nn.Module):
    """`pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=0.95)`: FixMatch and its family.

    threshold: a probability in (0, 1], or `flex(0.95)`, `free()`, `soft()`, see `relations.thresholds`. sharpen: a
    temperature such as UDA's 0.4, for soft targets in place of hard ones. fairness: FreeMatch's, its weight beside a
    loss of 1, with `free()`. No gradient reaches `toward`, which may be an EMA's, `teacher.logits(weak)`. Where the
    strong view mixes images, by `mixup` or `cutmix`, labels and what they count are mixed alike. Logs the share of rows
    that count (`confident`), and thresholds by class where there are such.
    """

    choices: ClassVar = {"threshold": THRESHOLDS}

    def __init__(
        self,
        strong: Port,
        *,
        toward: Port,
        threshold: float | Flex | Free | Soft = 0.95,
        sharpen: float | None = None,
        fairness: float = 0.0,
    ) -> None:
        super().__init__()
        check_alike(strong, toward)
        check_classifies(strong)
        if sharpen is not None:
            check_temperature(sharpen)
        if isinstance(fairness, bool) or not isinstance(fairness, int | float) or fairness < 0:
            raise ValueError(f"fairness must not be negative, got {fairness!r}")
        if fairness and not isinstance(threshold, Free):
            raise RecipeError("fairness is measured by what free() has learnt; write threshold=free()")
        self.rule: Rule
        self.rule = threshold.rule(strong.classes) if isinstance(threshold, Flex | Free | Soft) else Fixed(threshold)
        self.mixings = _mixings(strong, toward)
        if fairness and self.mixings:
            raise RecipeError(
                f"fairness counts which class each row shows, and rows of {strong.text} show two; drop fairness, or "
                f"{self.mixings[0]} of its view"
            )
        self.sharpen, self.fairness = sharpen, fairness
        self.measures: dict[str, Tensor] = {}
        self.said: Said | None = None

    def forward(self, strong: Reading, *, toward: Reading) -> Tensor | dict[str, Tensor]:
        same_shape(strong.value, toward.value)
        weak = toward.value.detach()
        own, index = weak.softmax(dim=1), _index_of_rows(toward)
        joined = gather(own)
        weights = self.rule(own, joined, None if index is None else gather(index))
        target = own.argmax(dim=1) if self.sharpen is None else (weak / self.sharpen).softmax(dim=1)
        loss = self._loss(strong, target, weights)
        self.said = Said(index, own.argmax(dim=1), weights)
        self.measures = {"confident": weights.mean()}
        if (by_class := self.rule.by_class()) is not None and len(by_class) <= SHOWN:
            self.measures |= {f"threshold/{number}": value for number, value in enumerate(by_class)}
        if not self.fairness:
            return loss
        assert isinstance(self.rule, FreeRule)
        _, local, labels = self.rule.moved(joined)
        even = fairness(gather(strong.value), gather(weights), local, labels)
        return {"labels": loss, "fairness": self.fairness * even}

    def _loss(self, strong: Reading, target: Tensor, weights: Tensor) -> Tensor:
        if not self.mixings:
            return (F.cross_entropy(strong.value, target, reduction="none") * weights).mean()
        rows = one_hot(target, strong.value.shape[1]).to(weights.dtype) * weights[:, None]
        for name in self.mixings:
            rows = mix_rows(rows, on_rows(_drawn(strong, name), strong.members))
        return F.cross_entropy(strong.value, rows)  # linear in its targets, which need not sum to 1


def _mixings(strong: Port, toward: Port) -> tuple[str, ...]:
    """The strong view's own ops that mixed what the weak view shows. Raises RecipeError for other mixtures."""
    own = [name for name, op in strong.ops.items() if isinstance(op, MIXING)]
    known, more = strong.mixed[: len(toward.mixed)], len(strong.mixed) - len(toward.mixed)
    if known != toward.mixed or not 0 <= more <= len(own):
        raise RecipeError(
            f"{strong.text} shows images that were mixed otherwise than those of {toward.text}; labels are mixed by "
            f"the own mixup or cutmix of the strong view, and toward reads what that mixes, without mix(…)"
        )
    return tuple(own[len(own) - more :])


def _drawn(reading: Reading, op: str) -> Params:
    if op not in reading.params:
        raise BatchError(f"pseudo_label: the strong view was mixed by {op}; give what that drew, as View(params=…)")
    return dict(reading.params[op])


def _index_of_rows(reading: Reading) -> Tensor | None:
    """The image of each row, [rows]."""
    return None if reading.index is None else reading.index.repeat_interleave(reading.members).to(reading.value.device)


__all__ = ["PseudoLabel", "Said", "fairness", "pseudo_label"]
