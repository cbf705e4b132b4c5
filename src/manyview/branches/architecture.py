"""What network weights are of, told by their names and shapes: ResNets, CIFAR's ResNets and Wide ResNets, ViTs.

Where shapes leave anything open that changes what a network gives, such as a ViT's number of heads, only sizes that
are in the table are told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from torch import Tensor

from manyview.foundation.grammar import Call

RESNETS: dict[tuple[int, tuple[int, ...], int, int], str] = {
    # (convolutions a block, blocks, width of a group in the first stage, groups) -> timm's name
    (2, (2, 2, 2, 2), 64, 1): "resnet18",
    (2, (3, 4, 6, 3), 64, 1): "resnet34",
    (3, (2, 2, 2, 2), 64, 1): "resnet26",
    (3, (3, 4, 6, 3), 64, 1): "resnet50",
    (3, (3, 4, 23, 3), 64, 1): "resnet101",
    (3, (3, 8, 36, 3), 64, 1): "resnet152",
    (3, (3, 4, 6, 3), 128, 1): "wide_resnet50_2",
    (3, (3, 4, 23, 3), 128, 1): "wide_resnet101_2",
    (3, (3, 4, 6, 3), 4, 32): "resnext50_32x4d",
    (3, (3, 4, 23, 3), 4, 32): "resnext101_32x4d",
    (3, (3, 4, 23, 3), 8, 32): "resnext101_32x8d",
}
OF_BLOCKS = {2: "resnet18", 3: "resnet50"}  # of other depths, the network whose `layers` are given
MOST_BLOCKS = 400
CHANNELS = (64, 128, 256, 512)
CIFAR_RESNETS = {1: "cresnet8", 3: "cresnet20", 5: "cresnet32", 9: "cresnet56"}  # blocks a stage -> manyview's name
WIDE_RESNETS = {(4, 2): "wrn28_2", (4, 10): "wrn28_10", (6, 2): "wrn40_2"}  # (blocks a stage, widening)
VITS = {  # (width, blocks, side of a patch, LayerScale) -> timm's name
    (192, 12, 16, False): "vit_tiny_patch16_224",
    (384, 12, 8, False): "vit_small_patch8_224",
    (384, 12, 16, False): "vit_small_patch16_224",
    (384, 12, 32, False): "vit_small_patch32_224",
    (768, 12, 8, False): "vit_base_patch8_224",
    (768, 12, 16, False): "vit_base_patch16_224",
    (768, 12, 32, False): "vit_base_patch32_224",
    (1024, 24, 16, False): "vit_large_patch16_224",
    (1024, 24, 32, False): "vit_large_patch32_224",
    (1280, 32, 14, False): "vit_huge_patch14_224",
    (384, 12, 14, True): "vit_small_patch14_dinov2",
    (768, 12, 14, True): "vit_base_patch14_dinov2",
    (1024, 24, 14, True): "vit_large_patch14_dinov2",
}
VIT_PARTS = {"cls_token", "pos_embed", "patch_embed", "blocks", "norm", "head"}
VIT_PARTS |= {"mask_token", "register_tokens", "reg_token"}  # DINOv2's
VIT_SIDES = {"224": 224, "dinov2": 518}  # what images timm's have, by the end of the name


def network_by_shapes(state: Mapping[str, Tensor]) -> Call | None:
    """The call of a recipe for a backbone with these weights; None where they do not tell it."""
    for told in (_vit, _wide_resnet, _cifar_resnet, _resnet):
        if (found := told(state)) is not None:
            return found
    return None


def _blocks(state: Mapping[str, Tensor], stage: str) -> int:
    """How many blocks a stage has, by their numbers."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{stage}.") and name.count(".") > 1})


def _size(state: Mapping[str, Tensor], name: str, dims: int) -> Sequence[int] | None:
    """The shape of a tensor that is there and holds something."""
    value = state.get(name)
    return value.shape if value is not None and value.ndim == dims and value.numel() else None


def _first(state: Mapping[str, Tensor], name: str) -> tuple[int, int, int] | None:
    """(out, in, side) of a square first convolution."""
    shape = _size(state, f"{name}.weight", 4)
    return (shape[0], shape[1], shape[2]) if shape is not None and shape[2] == shape[3] else None


def _with(name: str, colours: int, **options: Any) -> Call:
    return Call(name, (), {**options, **({"in_chans": colours} if colours != 3 else {})})


def _resnet(state: Mapping[str, Tensor]) -> Call | None:
    first = _first(state, "conv1")
    stages = [f"layer{stage}" for stage in range(1, 5)]
    if first is None or first[0] != CHANNELS[0] or first[2] not in (3, 7):
        return None
    if any(re.search(r"\.se\.|\.conv4\.|^layer5\.", name) for name in state):
        return None
    parts = 3 if "layer1.0.conv3.weight" in state else 2
    outs = [_size(state, f"{stage}.0.conv{parts}.weight", 4) for stage in stages]
    second = _size(state, "layer1.0.conv2.weight", 4)
    if None in outs or second is None:
        return None
    channels = tuple(out[0] // (4 if parts == 3 else 1) for out in outs if out is not None)
    if not all(channels) or second[0] % second[1]:
        return None
    groups = second[0] // second[1] if parts == 3 else 1
    width = second[0] * 64 // channels[0] // groups if parts == 3 else 64
    layers = tuple(_blocks(state, stage) for stage in stages)
    inner = [channel * width * groups // 64 for channel in channels]
    if sum(layers) > MOST_BLOCKS or any(out[1] != inside for out, inside in zip(outs, inner, strict=True) if out):
        return None  # nothing is built that is far larger than the file
    options: dict[str, Any] = {"small": True} if first[2] == 3 else {}
    name = RESNETS.get((parts, layers, width, groups))
    if name is None:
        name = OF_BLOCKS[parts]
        options |= {"layers": layers} if layers != _usual(name) else {}
        options |= {"base_width": width} if width != 64 else {}
        options |= {"cardinality": groups} if groups != 1 else {}
    return _with(name, first[1], **options, **({"channels": channels} if channels != CHANNELS else {}))


def _usual(name: str) -> tuple[int, ...]:
    return next(layers for (_, layers, _, _), known in RESNETS.items() if known == name)


def _cifar_resnet(state: Mapping[str, Tensor]) -> Call | None:
    first, last = _first(state, "conv1"), _size(state, "layer3.0.conv2.weight", 4)
    if first is None or (first[0], first[2]) != (16, 3) or last is None or last[0] != 64 or "bn.weight" in state:
        return None
    name = CIFAR_RESNETS.get(_blocks(state, "layer3"))
    return None if name is None else _with(name, first[1])


def _wide_resnet(state: Mapping[str, Tensor]) -> Call | None:
    first, last = _first(state, "conv1"), _size(state, "layer3.0.conv2.weight", 4)
    if first is None or (first[0], first[2]) != (16, 3) or last is None or "bn.weight" not in state:
        return None
    name = WIDE_RESNETS.get((_blocks(state, "layer3"), last[0] // 64))
    return None if name is None else _with(name, first[1])


def _vit(state: Mapping[str, Tensor]) -> Call | None:
    first, places = _first(state, "patch_embed.proj"), _size(state, "pos_embed", 3)
    if first is None or places is None or "cls_token" not in state or "blocks.0.attn.qkv.weight" not in state:
        return None
    if {name.partition(".")[0] for name in state} - VIT_PARTS:  # another norm, or none, that shapes cannot tell
        return None
    known = VITS.get((first[0], _blocks(state, "blocks"), first[2], "blocks.0.ls1.gamma" in state))
    if known is None:
        return None
    registers = _size(state, "register_tokens", 3) or _size(state, "reg_token", 3)
    if registers is not None:
        known = known.replace("patch14_", f"patch14_reg{registers[1]}_")
    patches = places[1] - ("reg_token" not in state)  # to timm's with registers the class has no place
    side = isqrt(max(0, patches))
    if not side or side * side != patches:
        return None
    pixels = side * first[2]
    return _with(known, first[1], **({} if pixels == VIT_SIDES[known.rsplit("_", 1)[1]] else {"img_size": pixels}))
