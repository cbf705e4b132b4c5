"""Checkpoints of other trainers come in: as a folder that is evaluated, embedded and begun from as an export is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from manyview.branches.architecture import network_by_shapes
from manyview.branches.checkpoints import Checkpoint, Taken, layout_of, open_checkpoint, plain_value, take
from manyview.branches.fit import Fit
from manyview.branches.layouts import CUT_FROM, LOOKS_AT, SLA_DATA, WRAPPERS, Layout
from manyview.branches.origin import PLACES
from manyview.branches.spec import LOGITS, NORMALIZATIONS, Normalization, parse_normalize
from manyview.branches.timm_models import is_stem, like_backbones, timm_library, timm_model
from manyview.branches.weights import NOT_KNOWN, Weights
from manyview.branches.whole import with_classifier
from manyview.errors import RecipeError, RunError, brief
from manyview.foundation.files import at_home, write_bytes, write_json
from manyview.foundation.folders import check_free, filled
from manyview.foundation.grammar import Call, parse_call, parse_value
from manyview.foundation.taken import taken_path
from manyview.foundation.words import counted, few

MOST = 12  # entries that are not read, which a line names
SAID = "said"  # of a normalisation that the command named
NAMED = ("arch", "model", "backbone")  # what trainers keep the name of a network under


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    backbone: str | None = None,
    normalize: Any = None,
    classes: int | None = None,
) -> list[str]:
    """Writes a checkpoint of another trainer as the folder `out`, used as an export is; returns lines to print.

    layout: a name of `LAYOUTS`, where names of weights do not tell it. backbone: the call of a recipe, such as
    "resnet50(small=True)", where names and shapes do not tell it. normalize: as of a recipe's branch, where the layout
    does not tell it. classes: of a head that may be one of classes x transformations (SLA). All of the network's
    weights are there, or it is refused; what of the file does not come along is in the lines, by name and number.
    Raises RunError.
    """
    path, out = at_home(taken_path(checkpoint, "import: checkpoint")), taken_path(out, "import: out")
    for name, value in {"layout": layout, "backbone": backbone}.items():
        if value is not None and not isinstance(value, str):
            raise RunError(f"import: {name}: a text is wanted, got {brief(value)}")
    check_free(out)
    if path.is_dir():
        raise RunError(f"{path} is a folder, and a checkpoint is a file; runs and exports are taken as they are")
    file = open_checkpoint(path)
    known = layout_of(file, layout)
    taken = take(file, known)
    call, by = _network(file, known, taken, backbone)
    head = _head(file, known, taken, classes)
    weights = Weights(taken.state, str(path), heads={LOGITS: head.weights} if head else {})
    network, found = with_classifier(lambda count: _built(call, count), weights, str(call))
    prepared = _prepared(known, network, call)
    images, told = _normalization(known, network, normalize, named=layout is not None)
    channels = _channels(network)
    prepared |= {key: [*each] * (channels // len(each)) for key, each in zip(("mean", "std"), images, strict=True)}
    own = {"small": call.kwargs.get("small", False), "checkpoint": path.name, "layout": known.name, **told}
    config = {
        "architecture": call.name.split(".")[0],
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "model_args": {key: value for key, value in call.kwargs.items() if key != "small"},
        "pretrained_cfg": prepared,
        "label_names": [],
        "manyview": {**own, "left": {what: len(names) for what, names in taken.left.items()}},
    }
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise RunError(f"{path}: not all numbers of {few(broken)} are finite; it is a checkpoint of a broken training")
    within = counted(network.num_classes, "class") if network.num_classes else "none, it gives features"
    with filled(out) as folder:
        write_bytes(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
        write_json(folder / "config.json", config)
    return [
        f"layout    {known.name} ({known.code})",
        f"network   {call}, {by}",
        *_what_came(file, taken, found),
        f"head      {head.told if head else within}",
        *_what_did_not(file, taken, found),
        f"images    {_seen(prepared)}{_images(images, told, known, call)}",
        f"wrote     {out / 'model.safetensors'} and config.json",
    ]


def _network(file: Checkpoint, layout: Layout, taken: Taken, backbone: str | None) -> tuple[Call, str]:
    """The call for the network, and in words who says so. Raises RunError."""
    if backbone is not None:
        return _parsed(backbone), "as --backbone says"
    found, named = network_by_shapes(taken.state), plain_value(file, *NAMED) or ""
    if named and not timm_library().is_model(named):
        named = ""
    # some networks of timm differ in nothing that has a shape, so its own trainer's word goes first
    if found is not None and (not named or layout.marks or named.partition(".")[0] == found.name):
        own = dict(layout.arguments.get(found.name, {}))
        if untold := [key for key, value in own.items() if value is None]:
            raise RunError(
                f"{file.path}: {found} by names and shapes, but {layout.code} has it with more than one {untold[0]}, "
                f"which no shape tells; say it, as in --backbone '{found.name}({untold[0]}=…)'"
            )
        if layout.padding and found.kwargs.get("small"):
            own["small"] = layout.padding
        return Call(found.name, (), {**found.kwargs, **own}), "by names and shapes"
    if named:
        return Call(named), "as the file says"
    raise RunError(
        f"{file.path}: names and shapes of its weights ({few([*taken.state])}) tell no network; say which, as in "
        "--backbone 'resnet50(small=True)'"
    )


def _parsed(backbone: str) -> Call:
    try:
        call = parse_call(backbone, "--backbone")
    except RecipeError as error:
        raise RunError(str(error)) from None
    refused = {*PLACES, "num_classes", "pretrained"} & set(call.kwargs)
    if refused:
        raise RunError(f"--backbone: {call}: drop {min(refused)}; weights and classes are those of the checkpoint")
    if call.args or not is_stem(call.kwargs.get("small", False)):
        raise RunError(f"--backbone: {call}: write arguments by name, as in {call.name}(small=True)")
    if not timm_library().is_model(call.name):
        raise RunError(f"--backbone: unknown backbone '{call.name}'; {like_backbones(call.name)}")
    return call


def _built(call: Call, classes: int) -> Any:
    options = {key: value for key, value in call.kwargs.items() if key != "small"}
    try:
        return timm_model(call.name, {"num_classes": classes, **options}, call.kwargs.get("small", False))
    except RecipeError as error:
        raise RunError(f"{call}: {error}") from None


@dataclass(frozen=True)
class Head:
    """A classifier that stood apart from the network. weights: `weight` and `bias`; told: which, in words."""

    weights: Mapping[str, Tensor]
    told: str


def _head(file: Checkpoint, layout: Layout, taken: Taken, classes: int | None) -> Head | None:
    """The classifier that stands apart. Raises RunError.

    Of one of classes x transformations, class by class, every m-th row is the plain classifier (SLA+SI).
    """
    if classes is not None and not layout.joint:
        raise RunError(f"--classes is for heads of classes x transformations, as SLA's; {file.path} has none")
    if not taken.classifier:
        return None
    weight = taken.classifier["weight"]
    rows = len(weight) if weight.ndim == 2 else 0
    bias = taken.classifier.get("bias", torch.zeros(rows, dtype=weight.dtype))
    if not rows or bias.shape != weight.shape[:1]:
        raise RunError(
            f"{file.path}: {taken.head}weight {[*weight.shape]} is of no linear layer with a bias {[*bias.shape]}"
        )
    if layout.joint and "joint head" in taken.left:  # beside it, the head is SLA+SD's
        joint = len(file.sections[taken.section]["classifiers.0.weight"])
        if joint % rows or joint == rows:
            raise RunError(f"{file.path}: classifiers.0.weight has {counted(joint, 'row')}, no head of classes x "
                           f"transformations beside one of {counted(rows, 'class')}, as SLA+SD's is")  # fmt: skip
    mode = plain_value(file, "mode") if layout.joint else None
    count = classes or (_sla_classes(file) if mode == "sla" else rows)
    if count is None:
        raise RunError(f"{file.path}: {taken.head}weight is of classes x transformations (SLA); say --classes")
    if not 0 < count <= rows or rows % count:
        raise RunError(f"{file.path}: {taken.head}weight has {counted(rows, 'row')}, no multiple of {count} classes")
    every = rows // count
    told = f"{counted(count, 'class')}, {taken.head}*"
    if every > 1:
        told += f": of its {rows} rows one in {every}, those of the image as it is (SLA+SI)"
    elif layout.joint and not classes and not mode and "joint head" not in taken.left:
        told += ", all of its rows; if those are classes x transformations, say --classes"
    return Head({"weight": weight[::every], "bias": bias[::every]}, told)


def _sla_classes(file: Checkpoint) -> int | None:
    """How many classes the data of SLA's command line has."""
    data = plain_value(file, "dataset") or ""
    number = data.removeprefix("cifar")
    return int(number) if data != number and number.isdecimal() else SLA_DATA.get(data)


def _prepared(layout: Layout, network: Any, call: Call) -> dict[str, Any]:
    """How a layout's code prepares images for a network, else timm; one with the small stem sees them as they are."""
    data = timm_library().data.resolve_model_data_config(network)
    small = call.kwargs.get("small", False)
    theirs = bool(layout.marks) and data["input_size"][-2:] == (LOOKS_AT, LOOKS_AT)
    return {
        "num_classes": network.num_classes,
        "interpolation": layout.resized if theirs else data["interpolation"],
        "crop_pct": 1.0 if small else LOOKS_AT / CUT_FROM if theirs else data["crop_pct"],
        **({} if small else {"input_size": [*data["input_size"]]}),
        "classifier": network.pretrained_cfg.get("classifier", "fc"),
    }


def _normalization(layout: Layout, network: Any, given: Any, named: bool) -> tuple[Normalization, dict[str, str]]:
    """How images are normalised, and what config.json says of it. named: whether `--as` was said. Raises RunError."""
    channels = _channels(network)
    if given is not None:
        try:
            written = isinstance(given, str) and given.startswith(("[", "("))
            value = parse_value(given, "--normalize") if written else given
            said = parse_normalize(value, "--normalize", channels)
            return said, {"normalize": SAID}  # type: ignore[return-value]
        except RecipeError as error:
            raise RunError(str(error)) from None
    theirs = layout.small if getattr(_stem(network), "stride", None) == (1, 1) else layout.large
    if theirs is not None and channels == 3:
        return theirs, {"normalize": layout.name}
    cfg = network.pretrained_cfg
    usual = (tuple(cfg["mean"]), tuple(cfg["std"])) if channels == 3 else NORMALIZATIONS["half"]
    return usual, {"normalize": layout.name if named and not layout.marks else NOT_KNOWN}


def _stem(network: Any) -> Any:
    """What looks at the image first."""
    first: Any = network.pretrained_cfg.get("first_conv") or ""
    return network.get_submodule(first if isinstance(first, str) else first[0])


def _channels(network: Any) -> int:
    return getattr(_stem(network), "in_channels", 3)


def _images(images: Normalization, told: Mapping[str, str], layout: Layout, call: Call) -> str:
    name = next((name for name, known in NORMALIZATIONS.items() if known == images), None)
    written = name or str([[*each] for each in images]).replace(" ", "")
    if told["normalize"] != NOT_KNOWN:
        by = "as --normalize says" if told["normalize"] == SAID else f"as the code of {told['normalize']} has it"
        return f"normalised by {written}, {by}"
    hint = f" ({layout.hint})" if layout.hint else ""
    return f"how they were normalised is not known; {written} is taken, usual for {call.name}, so say --normalize{hint}"


def _seen(prepared: Mapping[str, Any]) -> str:
    """Their size, where it is known, what that is cut out of, and by what filter others make it."""
    if "input_size" not in prepared:
        return ""
    height, width = prepared["input_size"][-2:]
    side, theirs = round(height / prepared["crop_pct"]), prepared["interpolation"]
    cut = f", the centre of {side}" if side != height else ""
    other = f", bilinear here and {theirs} there" if theirs != "bilinear" else ""
    return f"{height}x{width}{cut}{other}; "


def _what_came(file: Checkpoint, taken: Taken, found: Fit) -> list[str]:
    others = [key for key in file.sections if key in WRAPPERS and key != taken.section]
    place = ": ".join(filter(None, (taken.section, f"{taken.under}*" if taken.under else "")))
    beside = f" (not {', '.join(others)})" if others else ""
    changed = [f"renamed from {each}" for each in taken.told] + found.changed
    matched = found.told[0]
    return [f"matched   {'; '.join([f'{matched}, {place}{beside}' if place else matched, *changed])}"]


def _what_did_not(file: Checkpoint, taken: Taken, found: Fit) -> list[str]:
    left = {**taken.left, **({"no part of the network": found.left_out} if found.left_out else {})}
    lines = [f"left      {what}: {counted(len(names), 'tensor')} ({few(names)})" for what, names in left.items()]
    unread = ", ".join(file.unread[:MOST])
    more = f" and {len(file.unread) - MOST:,} more" if len(file.unread) > MOST else ""
    return [*lines, *([f"not read  {unread}{more}"] if unread else [])]


__all__ = ["import_checkpoint"]
