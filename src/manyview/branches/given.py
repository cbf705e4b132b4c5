"""A network that a caller gives in place of the recipe's: looked at once, refused where it cannot be meant.

The very object is trained, as it stands. Its feature h is what it gives, maps and tokens averaged over their places; of
a network that ends in its classifier, a linear layer that gives the network's scores, it is what that layer is given,
and the layer is the readout `logits`. So the object is a finished model afterwards.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from manyview.branches.classifier import (
    KNOWN,
    Called,
    GivenError,
    check_classifier,
    doubt_of,
    find_classifier,
    is_torchvisions,
    named_parts,
    scores_in,
    without,
)
from manyview.branches.spec import LOGITS, NORMALIZATIONS, BranchSpec
from manyview.branches.start import Start
from manyview.errors import reason, unknown, warn
from manyview.foundation.modes import evaluating
from manyview.foundation.words import a, counted
from manyview.views.plan import PlannedView

Given = nn.Module | Mapping[str, nn.Module]  # what `backbone=` takes: a network, or one for each branch
USUAL = (64, 64)  # what a network is tried on whose views keep the size of their images
WRAPPERS = {"DataParallel": "wrap the step instead", "DistributedDataParallel": "wrap the step instead",
            "OptimizedModule": "give it uncompiled, and call step.compile_parts()"}  # fmt: skip
NOTHING = nn.Identity()


@dataclass(frozen=True)
class Reader:
    """How the feature h is read from a network. classifier: the layer that is left out, where it ends in one."""

    classifier: str | None = None
    memory_format: torch.memory_format = torch.channels_last

    def __call__(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Features [B, D] of normalised pixels [B, C, h, w]."""
        with left_out(network, self.classifier):
            return _feature(network(pixels.contiguous(memory_format=self.memory_format)), network)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reader, (self.classifier, self.memory_format is torch.channels_last)  # torch pickles no memory_format


def _reader(classifier: str | None, channels_last: bool) -> Reader:
    return Reader(classifier, torch.channels_last if channels_last else torch.contiguous_format)


@dataclass(frozen=True)
class Network:
    """A given network, looked at. name: what to call it. width: of h. trains: whether its classifier is `logits`, which
    has so many classes, 0 without one. start: where a frozen one's weights came from."""

    module: nn.Module
    name: str
    reader: Reader
    width: int
    trains: bool
    classes: int = 0
    start: Start | None = None

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return _device(self.module)

    def copied(self) -> Network:
        """With a deep copy of the module, which an EMA begins as."""
        try:
            return replace(self, module=copy.deepcopy(self.module))
        except Exception as error:  # of anybody's module
            raise GivenError(f"backbone: {self.name} cannot be copied, for an EMA: {reason(error)}") from None


def given_networks(given: Given | None, specs: Mapping[str, BranchSpec], read: Collection[str]) -> dict[str, nn.Module]:
    """The networks by branch. specs: of all branches. read: branches that relations read.

    Raises GivenError for what is no network, and for branches that cannot have one.
    """
    if given is None:
        return {}
    given = dict(given.items()) if type(given) is nn.ModuleDict else given  # timm has networks that are one
    own = [name for name, spec in specs.items() if spec.learns]
    networks = dict(given) if isinstance(given, Mapping) else {"": given}
    if not isinstance(given, Mapping):
        _check_module(given, "backbone")
        if len(own) > 1:
            told = ", ".join(f"'{name}': …" for name in own)
            raise GivenError(f"backbone: the recipe has {len(own)} branches; say whose it is: backbone={{{told}}}")
        networks = {own[0]: given}
    seen: dict[int, str] = {}
    for name, module in networks.items():
        where = f"backbone['{name}']"
        if name not in specs:
            raise GivenError(f"backbone: {unknown('branch', str(name), specs, 'branches')}")
        if (ema := specs[name].ema) is not None:
            raise GivenError(f"{where}: this branch is an EMA, a copy of '{ema.of}'; give the network of '{ema.of}'")
        if name not in read:
            raise GivenError(f"{where}: no relation reads this branch, so nothing would train it; drop it")
        _check_module(module, where)
        for parameter in module.parameters():
            if seen.setdefault(id(parameter), name) != name:
                raise GivenError(
                    f"{where} shares parameters with backbone['{seen[id(parameter)]}']; one branch may look at any "
                    "number of views, and a second network of the same weights is copy.deepcopy(model)"
                )
    return networks


def _check_module(module: Any, where: str) -> None:
    if isinstance(module, nn.Module):
        kind = type(module).__name__
        if kind in WRAPPERS:
            raise GivenError(f"{where}: a network in {kind} was given; {WRAPPERS[kind]}")
        return
    if isinstance(module, str):
        raise GivenError(
            f"{where}: expected an nn.Module, got the name '{module}'; names are the recipe's, as in "
            f"load_recipe(…, 'branches.net.backbone={module}')"
        )
    got = f"the class {module.__name__}; call it" if isinstance(module, type) else f"{type(module).__name__}"
    raise GivenError(f"{where}: expected an nn.Module, got {got}")


def look_at(
    module: nn.Module,
    spec: BranchSpec,
    sizes: Sequence[tuple[int, int]],
    used: Collection[str],
    trained: bool,
    classes: int,
    channels: int,
) -> Network:
    """Looks at two images of noise of each size; nothing of the network changes by that.

    But that its weights come to lie channels last, as those of named backbones do, where it takes such images.

    sizes: height and width of the views that it will see. used: readouts that are needed. trained: whether gradients
    reach the branch. A frozen one may have any classes. Raises GivenError.
    """
    name = name_of(module)
    where = f"branches.{spec.name}: the given {name}"
    _check_state(module, where)
    with looking_on(module):
        pixels, *others = (_noise(channels, size, _device(module)) for size in sizes)
        output, memory_format, called = _try(module, pixels, where)
        layer = find_classifier(module, output, called, classes, where)
        reader = Reader(layer, memory_format)
        feature = _read(reader, module, pixels, where)
        if layer is None:
            doubt_of(module, output, feature, called, classes, where)
        elif not torch.allclose(module.get_submodule(layer)(feature), scores_in(output), rtol=1e-3, atol=1e-4):
            raise GivenError(f"{where} does more with its features than its classifier '{layer}'; {without(layer)}")
        for other in others:
            widths = feature.shape[1], _read(reader, module, other, where).shape[1]
            if len(set(widths)) > 1:
                raise GivenError(
                    f"{where} gives {widths[0]:,} columns for an image of {_shape(pixels)}, and {widths[1]:,} for one "
                    f"of {_shape(other)}; pool over places before its features"
                )
    if trained:
        _check_frozen(module, layer is not None, where)
    columns = 0 if layer is None else int(module.get_submodule(layer).out_features)  # type: ignore[arg-type]
    if layer is not None and spec.frozen is None:
        check_classifier(module.get_submodule(layer), layer, spec, LOGITS in used, classes, where)
    if spec.normalize is None and channels == 3 and _told_normalization(module) is None:
        warn(
            f"{where} does not tell what it was made for, so pixels are normalised by mean 0.5 and std 0.5; say "
            f"branches.{spec.name}.normalize=half, imagenet, or none where it normalises them itself"
        )
    if spec.init is not None:
        warn(f"{where} keeps its weights; init: {spec.init} is for heads and relations alone then")
    module.to(memory_format=memory_format)
    return Network(module, name, reader, feature.shape[1], layer is not None and LOGITS in used, columns)


def name_of(module: nn.Module) -> str:
    """What to call a network: timm's name of its architecture, or its class."""
    config = getattr(module, "pretrained_cfg", None)
    known = config.get("architecture") if isinstance(config, Mapping) else None
    return known or type(module).__name__


def normalization_of(module: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of RGB that a network was made for: timm's own, ImageNet's for torchvision's, else 0.5 and 0.5."""
    return _told_normalization(module) or NORMALIZATIONS["half"]


def _told_normalization(module: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, Mapping) and "mean" in config and "std" in config:
        return tuple(config["mean"]), tuple(config["std"])
    return NORMALIZATIONS["imagenet"] if is_torchvisions(module) else None


def tried_size(module: nn.Module, views: Mapping[str, PlannedView]) -> tuple[int, int]:
    """The size that the first view has; where that is the images' own, what a network of a fixed size tells, or 64."""
    timms, hubs = getattr(module, "patch_embed", None), getattr(module, "config", None)
    told = getattr(timms, "img_size", None), getattr(hubs, "image_size", None), getattr(module, "image_size", None)
    size = next(filter(None, told), USUAL)
    usual = (size, size) if isinstance(size, int) else tuple(size)
    height, width = next(iter(views.values())).output_size(torch.tensor([usual]))[0].tolist()
    return height, width


def one_device(tensors: Iterable[Tensor]) -> torch.device:
    """Where given networks lie. tensors: one of each. Raises GivenError where that is not one device."""
    devices = {each.device for each in tensors}
    if len(devices) > 1:
        raise GivenError(f"backbone: the networks lie on {' and '.join(map(str, devices))}; bring them to one")
    return devices.pop()


@contextlib.contextmanager
def left_out(network: nn.Module, layer: str | None) -> Iterator[None]:
    """Inside, the layer passes on what it is given."""
    if layer is None:
        yield
        return
    parent, _, name = layer.rpartition(".")
    layers = network.get_submodule(parent)._modules
    kept, layers[name] = layers[name], NOTHING
    try:
        yield
    finally:
        layers[name] = kept


@contextlib.contextmanager
def looking_on(network: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients; modes, buffers and generators are afterwards as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers() if not is_lazy(buffer)]
    devices = {each.get_device() for each in network.parameters() if each.is_cuda}
    try:
        with evaluating(network), torch.no_grad(), torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _check_frozen(module: nn.Module, ends: bool, where: str) -> None:
    """Warns of a network of which nothing is trained; raises GivenError where its own classifier is frozen, too."""
    parameters = list(module.parameters())
    if not parameters or any(each.requires_grad for each in parameters):
        return
    told = f"{where} has {counted(len(parameters), 'parameter')}, of which none requires gradients"
    if ends:
        raise GivenError(
            f"{told}, so nothing of it would be trained; call model.requires_grad_(True), or train its classifier alone"
        )
    warn(f"{told}: it stays as it is, and heads and relations alone are trained")


def _check_state(module: nn.Module, where: str) -> None:
    parameters = list(module.parameters())
    devices = sorted({str(each.device) for each in parameters})
    if len(devices) > 1:
        raise GivenError(f"{where} lies on {' and '.join(devices)}; bring it to one device")
    if devices == ["meta"]:
        raise GivenError(f"{where} lies on the meta device, without weights; build it on a real one")
    if dtypes := {each.dtype for each in parameters if each.is_floating_point()} - {torch.float32}:
        raise GivenError(
            f"{where} has weights of {min(map(str, dtypes))}; give them as float32, with model.float(), and compute in "
            "less under torch.autocast"
        )


def _device(module: nn.Module) -> torch.device:
    return next((each.device for each in module.parameters()), torch.device("cpu"))


def _try(module: nn.Module, pixels: Tensor, where: str) -> tuple[Any, torch.memory_format, list[Called]]:
    """Output, the layout of images that it takes, and its layers with what they gave, in the order of calls."""
    called: list[Called] = []
    with contextlib.ExitStack() as hooks:
        for name, layer in module.named_modules():
            leaf = not [*layer.children()] and [*layer.parameters()]
            if name and (leaf or isinstance(layer, (nn.Linear, nn.Conv2d))):

                def note(layer: nn.Module, args: Any, output: Any, name: str = name) -> None:
                    called.append((name, layer, output))

                hooks.callback(layer.register_forward_hook(note).remove)
        for memory_format in (torch.channels_last, torch.contiguous_format):
            called.clear()
            try:
                return module(pixels.contiguous(memory_format=memory_format)), memory_format, called
            except Exception as raised:  # view() of maps that lie channels last, or all that a network may dislike
                error = raised
    raise GivenError(f"{where} cannot read an image of {_shape(pixels)}: {reason(error)}") from None


def _noise(channels: int, size: tuple[int, int], device: torch.device) -> Tensor:
    return (torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(device)


def _shape(pixels: Tensor) -> str:
    return "x".join(map(str, pixels.shape[1:]))


def _read(reader: Reader, module: nn.Module, pixels: Tensor, where: str) -> Tensor:
    try:
        feature = reader(module, pixels)
    except GivenError as error:
        raise GivenError(f"{where} {error}") from None
    except Exception as error:
        raise GivenError(f"{where} cannot read an image of {_shape(pixels)}: {reason(error)}") from None
    if len(feature) != len(pixels):
        raise GivenError(f"{where} gives {counted(len(feature), 'row')} for {counted(len(pixels), 'image')}")
    if not bool(feature.isfinite().all()):
        raise GivenError(f"{where} gives NaN or infinity for an image of noise; look at its weights")
    return feature


def _feature(output: Any, network: nn.Module) -> Tensor:
    """h [B, D] from what a network gave: vectors, maps [B, D, h, w], tokens [B, N, D], or a mapping of such.

    Of the mappings of Hugging Face's models, and of objects with attributes of these names, it is the pooled output,
    the scores (whose layer is left out) or the last hidden state; of other mappings, as torchvision's of maps, the
    last.
    """
    if parts := named_parts(output):
        known = [parts[key] for key in KNOWN if parts.get(key) is not None]
        output = known[0] if known else list(parts.values())[-1]
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim not in (2, 3, 4):
        shape = f"of {output.dtype} {[*output.shape]}" if isinstance(output, Tensor) else ""
        several = f"of {len(output)}" if isinstance(output, (tuple, list)) else ""
        cure = "" if isinstance(output, Tensor) else "; wrap it in a module whose forward gives that one"
        raise GivenError(
            f"gives {a(type(output).__name__)} {shape}{several}".rstrip()
            + f", where one tensor is needed: vectors [B, D], maps [B, D, h, w] or tokens [B, N, D]{cure}"
        )
    if output.ndim == 4:
        return output.mean(dim=(1, 2) if getattr(network, "output_fmt", "") == "NHWC" else (2, 3))
    if output.ndim == 3:
        return output[:, getattr(network, "num_prefix_tokens", 0) :].mean(dim=1)
    return output


__all__ = [
    "Given",
    "GivenError",
    "Network",
    "Reader",
    "given_networks",
    "left_out",
    "look_at",
    "looking_on",
    "normalization_of",
    "one_device",
]
