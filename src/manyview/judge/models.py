"""Models from outside: an exported folder, or any model of timm with a checkpoint, seen as a trained step is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from manyview.branches.fit import Fit
from manyview.branches.origin import PLACES
from manyview.branches.spec import FEATURES, LOGITS
from manyview.branches.timm_models import is_stem, like_backbones, timm_library, timm_model
from manyview.branches.weights import Weights, digest_of, network_of, open_weights, warn_of_normalization
from manyview.branches.whole import put, with_classifier
from manyview.errors import ManyviewWarning, RecipeError, RunError
from manyview.evaluate.model import Trunk, trunk_of
from manyview.foundation.files import read_json
from manyview.foundation.grammar import Call
from manyview.views.engine.render import together
from manyview.views.ops.op import as_float
from manyview.views.plan import TEST, PlannedView, usual_test_view
from manyview.views.view import draw_views

ASKED = ("forward_features", "forward_head", "num_classes")


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
        if lacks := [asked for asked in ASKED if not hasattr(network, asked)]:
            raise RunError(f"{name} is no model as timm's are: it has no {' and no '.join(lacks)}")
        self.network, self.test, self.name = network.eval(), test, name
        self.orbit: str | None = None
        self._mean, self._std = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
        classes = int(network.num_classes)  # type: ignore[arg-type]
        self.labels = (tuple(labels) or ("",) * classes) if classes else None

    @property
    def key(self) -> str:
        """A digest of weights and preparation."""
        said = str(self.network), self._mean.tolist(), self._std.tolist(), str(self.test)
        return digest_of(self.network.state_dict(), *said)

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
        trunk = trunk_of(self.network, self._mean.to(self.device), self._std.to(self.device))
        trunk.backbone.reset_classifier(0)  # type: ignore[operator]
        return trunk


def exported(folder: Path, device: str = "cpu", size: int | None = None) -> TimmModel:
    """What `manyview export` wrote. size: pixels of the side it looks at, if not those of its configuration.

    Raises RunError for a folder that is damaged or not of that kind.
    """
    try:
        config = read_json(folder / "config.json")
        name, small = network_of(config)
        spec = Call(name, (), dict(config["model_args"]))
        preparation, labels = config["pretrained_cfg"], config.get("label_names", ())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} is not what `manyview export` writes: {error!r}") from None
    network = _network(spec, small, int(config["num_classes"]), folder)
    weights = open_weights(folder)
    _tell(put(network, dict(weights.state), weights.source, str(spec)), weights)
    warn_of_normalization(weights, folder)
    return _timm_model(network.to(device), preparation, str(folder), size, labels)


def of_timm(call: Call, checkpoint: Path, device: str = "cpu", size: int | None = None) -> TimmModel:
    """A timm model, `resnet18(small=True)`, with the weights of a checkpoint (.safetensors, or PyTorch's).

    size: pixels of the side it looks at, if not timm's for it.

    The checkpoint may be a run's or an export's folder, too. What trainers put around weights is looked through, see
    `open_weights` and `fit`, and what they hold beside is told. It classifies if the checkpoint has a classifier.
    Raises RunError for an unknown name, a file that cannot be read, and weights of another architecture, naming what
    differs.
    """
    options = dict(call.kwargs)
    small = options.pop("small", False)
    if call.args or not is_stem(small):
        raise RunError(f"{call}: write arguments of a model by name, as in {call.name}(small=True)")
    timm = timm_library()
    if not timm.is_model(call.name):
        raise RunError(
            f"'{call.name}' is neither the folder of a run or an export, nor a model of timm; "
            f"{like_backbones(call.name)}"
        )
    weights = open_weights(checkpoint)
    spec = Call(call.name, (), options)
    network, found = with_classifier(lambda classes: _network(spec, small, classes, checkpoint), weights, str(call))
    config = timm.data.resolve_model_data_config(network)
    if weights.normalization is not None:  # a run's or an export's own
        config = {**config, **dict(zip(("mean", "std"), weights.normalization, strict=True))}
    model = _timm_model(network.to(device), config, str(call) if options or small else call.name, size)
    _tell(found, weights)  # last: of what is refused there is nothing to tell
    return model


def _timm_model(
    network: Any, config: Mapping[str, Any], name: str, size: int | None, labels: Sequence[str] = ()
) -> TimmModel:
    test = None
    if size is not None:
        test = usual_test_view((size, size))
    elif config.get("input_size"):
        height, width = config["input_size"][-2:]
        squash = config.get("crop_mode") == "squash"
        test = usual_test_view((height, width), float(config.get("crop_pct") or 1.0), squash)
    return TimmModel(network, config["mean"], config["std"], test, name, labels)


def _network(spec: Call, small: int, classes: int, where: Path) -> Any:
    refused = {*PLACES, "num_classes", "pretrained"} & set(spec.kwargs)
    if refused:
        raise RunError(f"{spec}: {min(refused)} cannot be given; weights and classes are those of {where}")
    try:
        return timm_model(spec.name, {"num_classes": classes, **spec.kwargs}, small)
    except RecipeError as error:
        raise RunError(f"{where}: {spec}: {error}") from None


def _tell(found: Fit, weights: Weights) -> None:
    """Warns of what of a file is no part of the network, and of what was done to make the rest fit."""
    if found.left_out or found.changed or weights.others:
        warnings.warn(f"{weights.source}: {', '.join(found.told)}", ManyviewWarning, stacklevel=3)
