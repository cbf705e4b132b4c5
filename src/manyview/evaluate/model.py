"""What is evaluated: a trained step, an exported folder, or any model of timm with a checkpoint, all seen alike."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from manyview.branches.branch import FEATURES, LOGITS
from manyview.branches.timm_models import like_backbones, timm_library, timm_model
from manyview.errors import RecipeError, RunError
from manyview.foundation.files import read_state
from manyview.foundation.grammar import Call
from manyview.step import Step
from manyview.views.ops.op import as_float
from manyview.views.view import TEST, PlannedView, draw_views, together, usual_test_view

COUNTER = "num_batches_tracked"  # BatchNorm's, which has no part in what it gives


class Model(Protocol):
    """A network in evaluation mode, with what has to be done to an image before it sees it."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def key(self) -> str:
        """A digest of weights and preparation: models of one key give the same outputs."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes that its scores are of, empty where they are not known; None if nothing classifies."""

    @property
    def orbit(self) -> str | None:
        """The orbit whose members a joint head tells apart, so that scores over it can be averaged (SLA+AG)."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [1, C, 1, 1] by which it normalises pixels."""

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """What it looks at: float [B, 3, h, w] in [0, 1], on its device; images: uint8 [B, 3, H, W], or B [3, H, W]."""

    def read(self, pixels: Tensor, *, aggregated: bool = False) -> dict[str, Tensor]:
        """float32 features `h` [B, dim], and `logits` [B, classes] where it classifies; gradients reach the pixels.

        pixels: what `prepare` gave. aggregated: also `aggregated` [B, classes], over `orbit`.
        """

    def trainable(self) -> Trunk:
        """A copy of the backbone that can be trained."""


@final
class Trunk(nn.Module):
    """A backbone with its normalisation: pixels [B, 3, h, w] in [0, 1] -> features [B, dim]."""

    def __init__(self, backbone: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of pixels."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return self.backbone((pixels - mean) / std)


@final
class StepModel:
    """A step, with the weights that it has now. labels: names of its classes."""

    def __init__(self, step: Step, labels: Sequence[str] = (), name: str = "") -> None:
        self.step, self.name = step, name or str(step.main.spec.backbone)
        known = tuple(labels) or ("",) * step.num_classes
        self.labels: tuple[str, ...] | None = known if step.classifier is not None else None
        families = [view.orbit for view in step.main.orbits.values() if view.orbit]
        self.orbit: str | None = families[0] if families else None

    @property
    def key(self) -> str:
        """A digest of weights and preparation."""
        step = self.step
        looks = [str(view) for view in step.test_plan.values()] or [str(step.trained_size)]
        branch = step.evaluated
        normalized = branch.mean.tolist(), branch.std.tolist()
        return _digest(branch.state_dict(), str(branch.spec), step.classifier, self.orbit, normalized, *looks)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.step.main.mean.device

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of pixels."""
        return self.step.evaluated.mean, self.step.evaluated.std

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """The view `test`, or what stands for it (see `Step.test_pixels`)."""
        return self.step.test_pixels(images).to(self.device)

    def read(self, pixels: Tensor, *, aggregated: bool = False) -> dict[str, Tensor]:
        """Features and scores, in evaluation mode; the step's own mode stays."""
        with _evaluating(self.step):
            return self.step.read(pixels, aggregated=aggregated)

    def trainable(self) -> Trunk:
        """A copy of the backbone."""
        branch = self.step.evaluated
        return _trunk(branch.backbone, branch.mean, branch.std)


@final
class TimmModel:
    """A model of timm.

    mean, std: of pixels in [0, 1]. test: what it looks at; without, the image as it is. labels: names of its classes.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        test: PlannedView | None,
        name: str,
        labels: Sequence[str] = (),
    ) -> None:
        self.network, self.test, self.name = network.eval(), test, name
        self.orbit: str | None = None
        self._mean, self._std = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
        classes = int(network.num_classes)  # type: ignore[arg-type]
        self.labels = (tuple(labels) or ("",) * classes) if classes else None

    @property
    def key(self) -> str:
        """A digest of weights and preparation."""
        said = str(self.network), self._mean.tolist(), self._std.tolist(), str(self.test)
        return _digest(self.network.state_dict(), *said)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of pixels."""
        return self._mean.to(self.device), self._std.to(self.device)

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Resized and cut to the size that timm's configuration names; bilinear, whatever filter it names."""
        batch = images if isinstance(images, Tensor) else together(images)
        if self.test is not None:
            batch = draw_views({TEST: self.test}, batch, None, range(len(images)), 0, 0)[TEST].pixels
        if not isinstance(batch, Tensor):
            raise RunError(f"{self.name} names no size to bring images of unlike sizes to; give one with --size")
        return as_float(batch).to(self.device)

    def read(self, pixels: Tensor, *, aggregated: bool = False) -> dict[str, Tensor]:
        """Features before the classifier, and its scores."""
        if aggregated:
            raise RunError(f"{self.name} tells no members of an orbit apart")
        maps = self.network.forward_features((pixels - self._mean.to(pixels)) / self._std.to(pixels))  # type: ignore[operator]
        found = {FEATURES: self.network.forward_head(maps, pre_logits=True).float()}  # type: ignore[operator]
        if self.labels is not None:
            found[LOGITS] = self.network.forward_head(maps).float()  # type: ignore[operator]
        return found

    def trainable(self) -> Trunk:
        """A copy of the network without its classifier."""
        trunk = _trunk(self.network, self._mean.to(self.device), self._std.to(self.device))
        trunk.backbone.reset_classifier(0)  # type: ignore[operator]
        return trunk


def exported(folder: Path, device: str = "cpu", size: int | None = None) -> TimmModel:
    """What `manyview export` wrote. size: pixels of the side it looks at, if not those of its configuration.

    Raises RunError for a folder that is damaged or not of that kind.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        spec = Call(config["architecture"], (), dict(config["model_args"]))
        small = bool(config.get("manyview", {}).get("small", False))
        preparation, labels = config["pretrained_cfg"], config.get("label_names", ())
    except (OSError, json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} is not what `manyview export` writes: {error!r}") from None
    state = _weights(folder / "model.safetensors")
    network = _network(spec, small, int(config["num_classes"]), folder)
    _load(network, state, str(folder / "model.safetensors"), str(spec))
    return _timm_model(network.to(device), preparation, str(folder), size, labels)


def of_timm(call: Call, checkpoint: Path, device: str = "cpu", size: int | None = None) -> TimmModel:
    """A timm model, `resnet18(small=True)`, with the weights of a checkpoint (.safetensors, or PyTorch's).

    size: pixels of the side it looks at, if not timm's for it.

    Wrappers that trainers put around weights (`state_dict`, `model`, `module.`) are looked through. It classifies if
    the checkpoint has a classifier. Raises RunError for an unknown name, a file that cannot be read, and weights of
    another architecture, naming what differs.
    """
    options = dict(call.kwargs)
    small = options.pop("small", False)
    if call.args or not isinstance(small, bool):
        raise RunError(f"{call}: write arguments of a model by name, as in {call.name}(small=True)")
    timm = timm_library()
    if not timm.is_model(call.name):
        raise RunError(
            f"'{call.name}' is neither the folder of a run or an export, nor a model of timm; "
            f"{like_backbones(call.name)}"
        )
    state = _unwrapped(_weights(checkpoint), checkpoint)
    spec = Call(call.name, (), options)
    bare = _network(spec, small, 0, checkpoint)
    head = bare.pretrained_cfg.get("classifier")
    weight = state.get(f"{head}.weight") if isinstance(head, str) else None
    classes = 0 if weight is None else len(weight)
    network = _network(spec, small, classes, checkpoint) if classes else bare
    _load(network, state, str(checkpoint), str(call))
    return _timm_model(
        network.to(device),
        timm.data.resolve_model_data_config(network),
        str(call) if options or small else call.name,
        size,
    )


def _timm_model(
    network: Any, config: Mapping[str, Any], name: str, size: int | None, labels: Sequence[str] = ()
) -> TimmModel:
    test = None
    if size is not None:
        test = usual_test_view((size, size))
    elif config.get("input_size"):
        height, width = config["input_size"][-2:]
        test = usual_test_view((height, width), float(config.get("crop_pct") or 1.0))
    return TimmModel(network, config["mean"], config["std"], test, name, labels)


def _network(spec: Call, small: bool, classes: int, where: Path) -> Any:
    refused = {"num_classes", "pretrained", "checkpoint_path"} & set(spec.kwargs)
    if refused:
        raise RunError(f"{spec}: {min(refused)} cannot be given; weights and classes are those of {where}")
    try:
        return timm_model(spec.name, {"num_classes": classes, **spec.kwargs}, small)
    except RecipeError as error:
        raise RunError(f"{where}: {spec}: {error}") from None


def _weights(path: Path) -> Any:
    if not path.is_file():
        raise RunError(f"no checkpoint {path}")
    if path.suffix != ".safetensors":
        return read_state(path)
    try:
        return load(path.read_bytes())  # its own reader takes no path that is not UTF-8
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _unwrapped(state: Any, where: Path) -> dict[str, Tensor]:
    """Weights without what trainers put around them."""
    found = state if isinstance(state, Mapping) else {}
    inner: Any = next((found[key] for key in ("state_dict", "model", "model_state_dict") if key in found), found)
    tensors: dict[str, Tensor] = {}
    if isinstance(inner, Mapping):
        tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RunError(f"{where} holds no weights by name")
    while prefix := next((p for p in ("module.", "_orig_mod.") if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _load(network: nn.Module, state: Mapping[str, Tensor], where: str, spec: str) -> None:
    own = network.state_dict()
    differs = {
        "missing": [name for name in own if name not in state and not name.endswith(COUNTER)],
        "unknown": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {[*state[name].shape]}, not {[*value.shape]}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    told = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in differs.items()
        if names
    ]
    if told:
        raise RunError(f"{where} holds weights of another architecture than {spec}: {'; '.join(told)}")
    network.load_state_dict(state, strict=False)  # an older checkpoint may lack BatchNorm's counters


def _trunk(backbone: nn.Module, mean: Tensor, std: Tensor) -> Trunk:
    from timm.layers import BatchNormAct2d

    alone = copy.deepcopy(backbone)
    for module in alone.modules():
        if isinstance(module, nn.SyncBatchNorm):  # which would wait for processes that do not train this copy
            alike: Any = BatchNormAct2d if hasattr(module, "act") else nn.BatchNorm2d
            module.__class__ = alike
    return Trunk(alone, mean, std).requires_grad_(True).train()


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _digest(state: Mapping[str, Any], *said: object) -> str:
    digest = hashlib.blake2b(repr(said).encode(), digest_size=16)
    for name, value in state.items():
        if isinstance(value, Tensor) and not name.endswith(COUNTER):
            whole = value.detach().cpu().contiguous()
            digest.update(f"{name} {whole.dtype} {[*whole.shape]}".encode())
            digest.update(whole.flatten().view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
    return digest.hexdigest()
