"""Weights of a file put into a network: which of them are its own, under what names, and what is left over.

Nothing of a network is left at random in silence. What is missing, of another shape, or belongs to a larger network of
the same kind is named; what is no part of a backbone (a classifier, a projector, a queue) is left out, and told.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from manyview.branches.timm_models import COUNTER, timm_library
from manyview.foundation.words import few

PRETEXT = ("mask_token", "decoder_pos_embed")  # parameters that only the training before had a use for


@dataclass
class Fit:
    """What a network finds among given weights.

    state: its own, under its names, in its shapes. missing, reshaped: those it lacks, and those of another shape.
    beyond: those that belong to it as it was where they come from, such as further layers. left_out: those of no part
    of it. stem: of `reshaped`, those of a first convolution of another size. changed: what was done to make them fit.
    cut: whether all that is there fits, and all that lacks stands behind it in the network.
    adapted: whether that was to a first convolution for other channels.
    """

    state: dict[str, Tensor]
    missing: list[str]
    reshaped: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    stem: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    cut: bool = False
    adapted: bool = False

    def misfit(self, stem: bool = False) -> str:
        """What does not fit, in words; "" where all does. stem: whether one of another size may stay as drawn."""
        reshaped = [] if stem else self.stem
        if not (self.missing or self.reshaped or self.beyond or reshaped):
            return ""
        differs = {
            "missing": self.missing,
            "unknown": self.beyond + self.left_out,
            "of another shape": self.reshaped + reshaped,
        }
        return "; ".join(f"{len(names)} {what} ({few(names)})" for what, names in differs.items() if names)

    def refused(self, source: str, network: object, misfit: str) -> str:
        """A line on weights that do not fit. source: where they lie; network: how a recipe calls what lacks them."""
        if self.cut:
            return f"{source} holds the first weights of {network} alone, as a file that was cut short: {misfit}"
        return f"{source} holds weights of another architecture than {network}: {misfit}"

    @property
    def told(self) -> list[str]:
        """What matched and what did not, in parts of a line."""
        lost = [f"{len(self.left_out)} left out ({few(self.left_out)})"] if self.left_out else []
        drawn = [f"at random {few(self.stem)}"] if self.stem else []
        matched = sum(not name.endswith(COUNTER) for name in self.state)
        return [f"{matched} weights", *self.changed, *lost, *drawn]


def fit(given: Mapping[str, Tensor], network: nn.Module, exact: bool = False) -> Fit:
    """Finds a network's weights among given ones, whatever stands before their names.

    Where timm knows how to rename or resample a file's weights for a network of its own (position embeddings of
    another size), it does so. Channels of a first convolution are summed or repeated, as timm does. exact: all of the
    given weights are the network's, under its names, as those of a head.
    """
    own = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
    counters = [name for name in network.state_dict() if name.endswith(COUNTER)]
    prefix = "" if exact else _prefix(given, own)
    plain = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    found, changed = plain, [f"under '{prefix}'"] if prefix else []
    converted = _converted(plain, network)
    if _matches(converted, own) > _matches(plain, own):
        renamed = sum(name not in plain for name in converted if name in own)
        changed += [f"{renamed} renamed by timm"] if renamed else []
        resampled = [
            f"{name} from {[*plain[name].shape]} to {[*value.shape]}"
            for name, value in converted.items()
            if name in plain and name in own and plain[name].shape != value.shape
        ]
        changed += [f"{len(resampled)} resampled ({few(resampled)})"] if resampled else []
        found = converted
    adapted = _with_channels(found, network, changed)
    found = {**found, **adapted}
    made = Fit({}, [name for name in own if name not in found], changed=changed, adapted=bool(adapted))
    first = [f"{name}.weight" for name in _named(network, "first_conv")]
    for name, value in own.items():
        if name in found and found[name].shape == value.shape:
            made.state[name] = found[name]
        elif name in found:
            told = f"{name} {[*found[name].shape]}, not {[*value.shape]}"
            kernels = name in first and found[name].shape[:2] == value.shape[:2]
            (made.stem if kernels else made.reshaped).append(told)
    made.state |= {name: found[name] for name in counters if name in found}
    inside = {name.partition(".")[0] for name in own}
    classifiers = tuple(f"{name}." for name in _named(network, "classifier"))
    for name in found:
        if name not in own and not name.endswith(COUNTER):
            part, _, rest = name.partition(".")
            of_it = (part in inside or not rest) and part not in PRETEXT and not name.startswith(classifiers)
            (made.beyond if of_it or exact else made.left_out).append(name)
    there = [*own][: len(own) - len(made.missing)]
    made.cut = bool(made.missing and there) and all(name in made.state for name in there) and not made.beyond
    return made


def classifier_of(given: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The `weight` and `bias` of a network's one classifier among given weights; {} where there is none.

    network: without a classifier.
    """
    parts = _named(network, "classifier")
    place = f"{_prefix(given, network.state_dict())}{parts[0]}" if len(parts) == 1 else ""
    names = {part: f"{place}.{part}" for part in ("weight", "bias")}
    return {part: given[name] for part, name in names.items() if name in given}


def _prefix(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What stands before the most names that are the network's; of equals the first in the file, as a teacher's are."""
    counts: Counter[str] = Counter()
    for name in given:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts.most_common(1)[0][0] if counts else ""


def _converted(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights as timm renames and resamples them for a network; {} where it has no way, or fails."""
    convert: Any = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return {}
    try:
        return {name: value for name, value in convert(dict(state), network).items() if isinstance(value, Tensor)}
    except Exception:  # weights of another network fail in any way, and are refused by their names and shapes
        return {}


def _matches(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(name in state and state[name].shape == value.shape for name, value in own.items())


def _named(network: nn.Module, part: str) -> list[str]:
    """The modules that timm's configuration of a network names as its `first_conv` or `classifier`."""
    named: Any = (getattr(network, "pretrained_cfg", None) or {}).get(part) or ()
    return [named] if isinstance(named, str) else list(named)


def _with_channels(found: Mapping[str, Tensor], network: nn.Module, changed: list[str]) -> dict[str, Tensor]:
    """First convolutions for as many channels as the network's images have; notes them in `changed`."""
    own, adapted = network.state_dict(), {}
    for name in (f"{part}.weight" for part in _named(network, "first_conv")):
        value, mine = found.get(name), own.get(name)
        if value is not None and mine is not None and value.ndim == mine.ndim == 4 and value.shape[1] != mine.shape[1]:
            adapt = timm_library().models.adapt_input_conv
            made = adapt(mine.shape[1], value, base_chans=value.shape[1])
            if made.shape[1] == mine.shape[1]:
                adapted[name] = made
                changed.append(f"{name} adapted from {value.shape[1]} to {mine.shape[1]} channels")
    return adapted
