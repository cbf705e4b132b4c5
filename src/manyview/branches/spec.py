"""Branches as a recipe writes them: backbone, heads, normalisation, start; which branch an EMA follows; what is frozen.

`h` is the pooled feature of the backbone; the heads a recipe declares are readouts too, and `logits` is `linear(h)`
unless the recipe says otherwise.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from manyview.branches.ema import Ema
from manyview.branches.frozen import Frozen
from manyview.branches.heads import HEADS, TAPS
from manyview.branches.initial import Init, Normal, parse_init
from manyview.branches.origin import origin_of
from manyview.branches.timm_arguments import timm_options
from manyview.branches.timm_models import like_backbones, timm_library
from manyview.errors import RecipeError, unknown
from manyview.foundation.grammar import Call, Name, bind, check_name, parse_call
from manyview.foundation.vocabulary import NONE, Words

FEATURES = "h"
LOGITS = "logits"
STOP = "stop"
CLASSIFIER = Call("linear", (Name(FEATURES),))  # what `logits` is unless the recipe says otherwise
SETTINGS = ("backbone", "forward", "init", "normalize")  # keys of a branch that are no heads
TEACHERS = ("ema", "frozen")  # words that a branch is written with which does not learn
EXAMPLES = ("ema(online)", "frozen('runs/x')")
WIDTH_OF = "width_of"  # of a head: the frozen branch whose h is as wide as it
Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # means and standard deviations, one a channel or of all
NORMALIZATIONS: dict[str, Normalization] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0,), (1.0,)),
}


@dataclass(frozen=True)
class BranchSpec:
    """A branch as a recipe writes it, parsed.

    normalize: (mean, std) of each channel, or one of each for all; None takes the backbone's own for RGB, and 0.5 for
    other channels. init: how weights start, see `initial`; None leaves them as timm and torch draw them. ema: for a
    branch that follows another, whose backbone and heads it has. words: of one's own, which heads may be.
    """

    name: str
    backbone: Call
    heads: dict[str, Call]
    joint: bool = True
    normalize: Normalization | None = None
    init: Init | None = None
    ema: Ema | None = None
    frozen: Frozen | None = None
    words: Words = field(default=NONE, repr=False)

    @property
    def readouts(self) -> list[str]:
        """Names a relation may read."""
        return list(dict.fromkeys([FEATURES, LOGITS, *self.heads]))

    @property
    def learns(self) -> bool:
        """Whether gradients move it: it is no EMA and not frozen. Others are teachers, which a recipe always names."""
        return self.ema is None and self.frozen is None

    def with_widths(self, widths: Mapping[str, int]) -> BranchSpec:
        """With numbers of columns for what heads call `width_of=teacher`. widths: of h, by frozen branch that is read.

        Raises RecipeError for a width of another.
        """
        heads = dict(self.heads)
        for head, call in self.heads.items():
            if (teacher := call.kwargs.get(WIDTH_OF)) is None:
                continue
            if teacher.text not in widths:
                raise RecipeError(
                    f"branches.{self.name}.{head}: no relation reads {teacher}, whose width this is; relate the two, "
                    "or give the number of columns"
                )
            others = {key: value for key, value in call.kwargs.items() if key != WIDTH_OF}
            heads[head] = Call(call.name, call.args, {**others, "out": widths[teacher.text]})
        return replace(self, heads=heads)

    @property
    def probes(self) -> set[str]:
        """Heads behind a stop, `probe: linear(stop(h))`: they learn, and nothing learns through them."""
        found: set[str] = set()
        for head, call in self.heads.items():
            source, stopped = source_of(call)
            if stopped or source in found:
                found.add(head)
        return found


def source_of(call: Call) -> tuple[str | None, bool]:
    """The readout that a head reads, and whether it reads it stopped, as `linear(stop(h))`; None of a layer inside."""
    if call.name in TAPS:
        return None, False
    read = call.args[0]
    return (read.args[0].text, True) if isinstance(read, Call) else (read.text, False)


def parse_branches(raw: Mapping[str, Any], channels: int = 3, words: Words = NONE) -> dict[str, BranchSpec]:
    """All branches by name, in the order of the recipe. channels: of the images. Raises RecipeError."""
    own = {name: parse_branch(name, each, channels, words) for name, each in raw.items() if _word(each) is None}
    if not own:
        raise RecipeError("branches: at least one branch is needed, such as net: {backbone: resnet18}")
    still = {name: _parse_frozen(name, each, raw, channels) for name, each in raw.items() if _word(each) == "frozen"}
    for spec in own.values():
        _check_widths(spec, still)
    made = {**own, **still}
    return {name: made[name] if name in made else _parse_ema(name, each, own, raw) for name, each in raw.items()}


def _word(raw: Any) -> str | None:
    """The word that a teacher is written with; None for a branch of its own."""
    text = raw.strip() if isinstance(raw, str) else ""
    return next((word for word in TEACHERS if text.startswith(word)), None)


def _call_of(name: str, text: str, word: str) -> Call:
    where = f"branches.{name}"
    check_name(name, where)
    call = parse_call(text, where)
    if call.name != word:
        raise RecipeError(f"{where}: expected a mapping with a backbone, or {' or '.join(EXAMPLES)}, got {text!r}")
    return call


def _parse_ema(name: str, text: str, own: Mapping[str, BranchSpec], raw: Mapping[str, Any]) -> BranchSpec:
    where = f"branches.{name}"
    ema = bind(Ema, _call_of(name, text, "ema"), where)
    followed = ema.of.text
    if followed in raw and followed not in own:
        kind = "itself an EMA" if _word(raw[followed]) == "ema" else "frozen, and stands still"
        raise RecipeError(f"{where}: '{followed}' is {kind}; follow the branch that is trained")
    if followed not in own:
        raise RecipeError(f"{where}: {unknown('branch', followed, own, 'branches')}")
    return replace(own[followed], name=name, ema=ema)


def _parse_frozen(name: str, text: str, raw: Mapping[str, Any], channels: int) -> BranchSpec:
    where = f"branches.{name}"
    frozen = bind(Frozen, _call_of(name, text, "frozen"), where)
    network = frozen.network
    if isinstance(network, Call):
        if network.name in raw:
            raise RecipeError(
                f"{where}: '{network.name}' is a branch of this recipe; frozen is for a network that was trained "
                f"before, and stop({network.name}.h(…)) reads a branch without training it"
            )
        timm_options(network, where, channels)
    normalize = parse_normalize(frozen.normalize, f"{where}.normalize", channels)
    backbone = network if isinstance(network, Call) else Call("frozen")
    return BranchSpec(name, backbone, {}, normalize=normalize, frozen=frozen)


def _check_widths(spec: BranchSpec, still: Mapping[str, BranchSpec]) -> None:
    for head, call in spec.heads.items():
        if WIDTH_OF in call.kwargs:
            where, given = f"branches.{spec.name}.{head}", call.kwargs[WIDTH_OF]
            if not isinstance(given, Name) or given.text not in still:
                known = f"frozen branches: {', '.join(still) or 'none'}"
                raise RecipeError(f"{where}: {WIDTH_OF} names a frozen branch, got {given}; {known}")
            if "out" in call.kwargs:
                raise RecipeError(f"{where}: {WIDTH_OF} is the number of columns; drop the other one, got {call}")


def parse_branch(name: str, raw: Any, channels: int = 3, words: Words = NONE) -> BranchSpec:
    """A branch from its mapping {backbone, forward, normalize, init, <head>: <call>}. Raises RecipeError.

    channels: how many the images have.
    """
    where = f"branches.{name}"
    check_name(name, where)
    if not isinstance(raw, Mapping) or "backbone" not in raw:
        near = difflib.get_close_matches("backbone", map(str, raw), n=1) if isinstance(raw, Mapping) else []
        got = f"did you mean backbone by '{near[0]}'?" if near else f"got {raw!r}"
        wanted, others = "a mapping with a backbone, such as {backbone: resnet18}", f", or {' or '.join(EXAMPLES)}"
        raise RecipeError(f"{where}: expected {wanted}{others if isinstance(raw, str) else ''}; {got}")
    fields = dict(raw)
    backbone = _parse_backbone(fields.pop("backbone"), f"{where}.backbone")
    timm_options(backbone, f"{where}.backbone", channels)
    forward = fields.pop("forward", "joint")
    if forward not in ("joint", "separate"):
        raise RecipeError(f"{where}.forward: {unknown('way', str(forward), ['joint', 'separate'])}")
    normalize = parse_normalize(fields.pop("normalize", None), f"{where}.normalize", channels)
    start = fields.pop("init", None)
    init = None if start is None else parse_init(start, f"{where}.init")
    init_std = fields.pop("init_std", None)
    if init_std is not None and (type(init_std) not in (int, float) or init_std <= 0):
        raise RecipeError(f"{where}.init_std: expected a positive number, got {init_std!r}")
    if init is not None and init_std:
        raise RecipeError(f"{where}.init_std: init says how weights start; drop init_std, which earlier versions had")
    init = Normal(init_std) if init_std else init
    if init is not None and backbone.kwargs.get("pretrained") and not origin_of(backbone, f"{where}.backbone"):
        raise RecipeError(f"{where}.init: {init} would draw the published weights anew; drop it, or pretrained=True")
    heads: dict[str, Call] = {}
    known = [*words.beside("HEADS", HEADS), *TAPS]
    for head, text in fields.items():
        call = parse_call(text, f"{where}.{head}")
        check_name(head, f"{where}.{head}")
        if head == FEATURES:
            raise RecipeError(f"{where}.{head}: '{head}' cannot name a head; h is the backbone's feature")
        if call.name not in known:
            meant = difflib.get_close_matches(head, SETTINGS, n=1)
            hint = f"was {where}.{meant[0]} meant? " if meant else ""
            raise RecipeError(f"{where}.{head}: {hint}{unknown('head', call.name, known, own=words.own('HEADS'))}")
        if call.name in TAPS:
            if len(call.args) != 1 or not isinstance(call.args[0], str) or call.kwargs:
                asked = f"write the layer's name in quotes, as in {call.name}('layer2')"
                raise RecipeError(f"{where}.{head}: {asked}, got {call}")
        elif not call.args or not _is_source(call.args[0]):
            raise RecipeError(f"{where}.{head}: a head first names what it reads, as in {call.name}(h), got {call}")
        elif source_of(call)[0] not in (FEATURES, *heads):
            raise RecipeError(f"{where}.{head}: {unknown('readout', str(source_of(call)[0]), [FEATURES, *heads])}")
        else:
            origin_of(call, f"{where}.{head}")
        heads[head] = call
    return BranchSpec(name, backbone, heads, forward == "joint", normalize, init, words=words)


def _is_source(value: Any) -> bool:
    """A readout's name, or one in `stop(…)`."""
    stopped = isinstance(value, Call) and value.name == STOP and len(value.args) == 1 and not value.kwargs
    return isinstance(value.args[0] if stopped else value, Name)


def _parse_backbone(text: Any, where: str) -> Call:
    """The call; names are also told that are no call, such as ResNet-50 or resnet18.a1_in1k."""
    if isinstance(text, str) and re.fullmatch(r"[\w.-]*[.-][\w.-]*", text.strip()):
        name = text.strip()
        if name in timm_library().list_pretrained():
            raise RecipeError(f"{where}: write {name}(pretrained=True) for those weights, or {name.partition('.')[0]}")
        raise RecipeError(f"{where}: unknown backbone '{name}'; {like_backbones(name)}")
    return parse_call(text, where)


def parse_normalize(value: Any, where: str, channels: int) -> Normalization | None:
    """(means, standard deviations) from a name, or from both; None stays None. Raises RecipeError."""
    if value is None:
        return None
    name = value if isinstance(value, str) else None
    if name is not None:
        if name not in NORMALIZATIONS:
            raise RecipeError(f"{where}: {unknown('normalisation', name, NORMALIZATIONS)}")
        value = NORMALIZATIONS[name]
    try:
        mean, std = (tuple(float(number) for number in numbers) for numbers in value)
    except (TypeError, ValueError):
        raise RecipeError(f"{where}: expected a name or [[means], [stds]], got {value!r}") from None
    finite = all(math.isfinite(number) for number in (*mean, *std))
    if len(mean) != len(std) or len(mean) not in (1, channels) or not finite or not all(number > 0 for number in std):
        wanted = f"{channels} means and {channels} positive stds" if channels > 1 else "one mean and one positive std"
        if name is not None:
            own = "[[0.5], [0.25]]" if channels == 1 else f"[[{channels} means], [{channels} stds]]"
            raise RecipeError(
                f"{where}: {name} is of {len(mean)} channels, and images have {channels} (data.channels); write "
                f"{where}=half, or {wanted} of your own, as in '{where}={own}'"
            )
        raise RecipeError(f"{where}: expected {wanted}, one a channel, got {value!r}")
    return mean, std
