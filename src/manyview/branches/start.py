"""Where a network starts: `resnet18(init='runs/simsiam')` begins with the weights of a run, an export or a file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manyview.branches.fit import Fit, classifier_of, fit
from manyview.branches.origin import origin_of, without_origin
from manyview.branches.spec import LOGITS, NORMALIZATIONS, Normalization
from manyview.branches.weights import Weights, digest_of, open_weights
from manyview.errors import ManyviewError, ManyviewWarning, RecipeError
from manyview.foundation.files import at_home
from manyview.foundation.grammar import Call


@dataclass(frozen=True)
class Start:
    """Where weights came from. source: the place, in words; told: what matched, in a line; digest: of the weights.

    normalization: what images were normalised by there, where that is known. columns: of what a frozen branch gives;
    labels: names of its classes, where they are known.
    """

    source: str
    told: str
    digest: str
    normalization: Normalization | None = None
    columns: Mapping[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.source}: {self.told}"

    @property
    def noted(self) -> dict[str, Any]:
        """What a run keeps of it."""
        noted = {"source": self.source, "told": self.told, "digest": self.digest}
        return {**noted, "columns": dict(self.columns)} if self.columns else noted


def start_backbone(network: nn.Module, call: Call, where: str) -> Start | None:
    """Gives a backbone the weights that its call names, or finds timm's published ones there; None where it names none.

    Raises RecipeError, naming the place, where they are not there, or not those of this network. Only a first
    convolution of another size may keep what was drawn, which is warned of.
    """
    weights = _named(call, where)
    if weights is None:
        return published(network, call, where) if call.kwargs.get("pretrained") else None
    found = fit(weights.state, network)
    if wrong := found.misfit(stem=True):
        known = f"; those are of {weights.backbone}" if weights.backbone else ""
        raise RecipeError(f"{where}: {found.refused(weights.source, without_origin(call), wrong)}{known}")
    _load(network, found)
    if found.stem:
        _warn_of_stem(where, weights.source, f" ({weights.backbone})" if weights.backbone else "")
    return Start(weights.source, ", ".join(found.told), digest_of(network.state_dict()), weights.normalization)


def published(network: Any, call: Call, where: str) -> Start:
    """Where a network stands that timm has given its published weights, all of them but a small stem's."""
    cfg = network.pretrained_cfg
    source = cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url") or call.name
    if call.kwargs.get("small"):
        _warn_of_stem(where, source)
    normalization = tuple(cfg["mean"]), tuple(cfg["std"])
    return Start(source, "published weights", digest_of(network.state_dict()), normalization)


def _warn_of_stem(where: str, source: str, network: str = "") -> None:
    told = f"{where}: the first convolution starts at random, since that of {source}{network} is of another size"
    warnings.warn(told, ManyviewWarning, stacklevel=6)


def start_head(module: nn.Module, call: Call, head: str, network: nn.Module, where: str) -> Start | None:
    """Gives a head the weights that its call names: of a run, those of its head of that name.

    network: the backbone, whose classifier, as an export or a checkpoint has it, may be `logits`. Raises RecipeError.
    """
    weights = _named(call, where)
    if weights is None:
        return None
    given = weights.heads.get(head) or (classifier_of(weights.state, network) if head == LOGITS else {})
    if not given:
        known = f"its heads are {', '.join(weights.heads)}" if weights.heads else "it has a backbone's weights alone"
        raise RecipeError(f"{where}: {weights.source} has no head {head}; {known}")
    found = fit(given, module, exact=True)
    if wrong := found.misfit():
        raise RecipeError(f"{where}: {found.refused(weights.source, without_origin(call), wrong)}")
    _load(module, found)
    return Start(weights.source, f"{len(found.state)} weights", digest_of(module.state_dict()))


def _named(call: Call, where: str) -> Weights | None:
    """The weights at the place that a call names. Raises RecipeError."""
    path = origin_of(call, where)
    return None if path is None else weights_at(path, where)


def weights_at(path: str, where: str) -> Weights:
    """The weights at a place that a recipe names. Raises RecipeError, naming `where` in the recipe."""
    if not at_home(path).exists():
        raise RecipeError(f"{where}: there is no run, export or file '{path}', seen from {Path.cwd()}")
    try:
        return open_weights(path)
    except ManyviewError as error:
        raise RecipeError(f"{where}: {error}") from None


def _load(module: nn.Module, found: Fit) -> None:
    module.load_state_dict(found.state, strict=False)  # an older checkpoint may lack BatchNorm's counters


def doubt_of_normalization(start: Start, ours: Normalization, where: str) -> str | None:
    """A line where weights were trained on images that were normalised otherwise; None where they were not.

    ours: means and standard deviations, one a channel.
    """
    theirs = start.normalization
    if theirs is None or len(theirs[0]) not in (1, len(ours[0])) or _alike(theirs, ours):
        return None
    name = next((name for name, known in NORMALIZATIONS.items() if _alike(known, theirs)), None)
    written = name or str([[round(value, 6) for value in each] for each in theirs]).replace(" ", "")
    return f"{where}: {start.source} was trained on images normalised otherwise than here; {where}.normalize={written}"


def _alike(one: Normalization, other: Normalization) -> bool:
    """Whether two normalisations are the same, one number standing for all channels."""
    channels = max(len(one[0]), len(other[0]))
    first, second = (torch.tensor([each * (channels // len(each)) for each in pair]) for pair in (one, other))
    return first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=1e-4)
