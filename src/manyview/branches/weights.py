"""Weights by name, from wherever they lie: a run, an export, or a checkpoint file of any trainer.

Tensors and plain values are all that is ever loaded; a file that holds code is refused.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from manyview.branches.checkpoints import read_checkpoint, spelled, stripped, tensors
from manyview.branches.layouts import WRAPPERS
from manyview.branches.origin import without_origin
from manyview.branches.spec import CLASSIFIER, LOGITS, Normalization, parse_branch
from manyview.branches.timm_models import COUNTER, is_stem, timm_library
from manyview.errors import ManyviewError, ManyviewWarning, RunError
from manyview.foundation.bounded_yaml import check_yaml
from manyview.foundation.files import at_home, read_json
from manyview.foundation.grammar import Call, parse_call

NOT_KNOWN = "not known"  # what the config.json of an import says of a normalisation that nobody told
SMALL = "small_"  # stands before the name under which an exported network with the small stem is registered with timm
KEPT = (
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "checkpoints/last-1.pt",
)  # of a run, the weights that it is known by first


@dataclass(frozen=True)
class Weights:
    """Weights as they lie in a file, without what trainers put around them.

    source: where they were found, in words; others: what lies beside them that could have been taken. heads: those of
    a run's heads, by the head's name. backbone: the call that a recipe has for the network, where it is known;
    normalization: what its images were normalised by. plain: whether a head `logits` would be a linear layer on h.
    labels: names of the classes that a classifier tells apart, where they are known.
    """

    state: Mapping[str, Tensor]
    source: str
    others: tuple[str, ...] = ()
    heads: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    backbone: str | None = None
    normalization: Normalization | None = None
    plain: bool = True
    labels: tuple[str, ...] = ()


def open_weights(path: str | Path) -> Weights:
    """The weights of a run's folder (its best checkpoint, else its last), an exported folder, or a file.

    Of a run these are its main branch's, averaged where it averages. Files: .safetensors, or whatever torch.save wrote
    of tensors. Raises RunError for what is not there, damaged, holds code, or holds no weights by name.
    """
    place = at_home(path)
    if not place.is_dir():
        return _of_file(place)
    if (place / "recipe.yaml").is_file():
        return _of_file(kept_checkpoint(place))
    if (place / "config.json").is_file():
        return _of_export(place)
    raise RunError(f"{path} is no run (it has no recipe.yaml), no export (it has no config.json), and no file")


def warn_of_normalization(weights: Weights, folder: Path) -> None:
    """Warns where nobody told how the images of an exported folder were normalised."""
    if weights.normalization is None:
        told = f"{folder}: how its images were normalised is not known; import it again with --normalize"
        warnings.warn(told, ManyviewWarning, stacklevel=3)


def kept_checkpoint(run: Path) -> Path:
    """The checkpoint that a run is known by. Raises RunError where it has none yet."""
    for name in KEPT:
        if (run / name).is_file():
            return run / name
    raise RunError(f"{run} has no checkpoint yet; train it first")


def digest_of(state: Mapping[str, Any], *said: object) -> str:
    """A digest of weights, and of what else decides about outputs."""
    digest = hashlib.blake2b(repr(said).encode(), digest_size=16)
    for name, value in state.items():
        if isinstance(value, Tensor) and not name.endswith(COUNTER):
            whole = value.detach().cpu().contiguous()
            digest.update(f"{name} {whole.dtype} {[*whole.shape]}".encode())
            digest.update(whole.flatten().view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
    return digest.hexdigest()


def _of_file(path: Path) -> Weights:
    found = read_checkpoint(path)
    if isinstance(found, Mapping) and isinstance(found.get("step"), Mapping):
        return _of_step(found["step"], path)
    keys = [key for key in WRAPPERS if tensors(found.get(key))] if isinstance(found, Mapping) else []
    state = tensors(found[keys[0]] if keys else found)
    if not state:
        raise RunError(f"{path} holds no weights by name")
    state = stripped(state)
    if any(name.startswith("branches.") for name in state):  # a step's own state dict, of a loop of one's own
        return _of_step(state, path)
    state, renamed = spelled(state, path)
    told = [keys[0], *(f"not {key}" for key in keys[1:])] if keys else []
    told += [f"renamed from {each}" for each in renamed]
    return Weights(state, f"{path} ({', '.join(told)})" if told else str(path), tuple(keys[1:]))


def _of_step(saved: Mapping[str, Any], path: Path) -> Weights:
    """A run's checkpoint. Its main branch is the first it holds, since EMAs are built after what they follow."""
    state = tensors(saved)
    name = next((key.split(".")[1] for key in state if key.startswith("branches.") and ".backbone." in key), None)
    if name is None:
        raise RunError(f"{path} holds no branch; it is no checkpoint of a run")
    averaged = _under("average.module.", state)
    branch = averaged or _under(f"branches.{name}.", state)
    heads: dict[str, dict[str, Tensor]] = {}
    for key, value in _under("heads.", branch).items():
        head, _, rest = key.partition(".")
        heads.setdefault(head, {})[rest] = value
    source = f"{path} (branch {name}{', averaged' if averaged else ''})"
    described = _described(path.parent.parent / "recipe.yaml", name)
    return Weights(_under("backbone.", branch), source, (), heads, *described, _labels(path.parent.parent))


def _labels(run: Path) -> tuple[str, ...]:
    """Names of the classes of a run's data; none of a checkpoint that was taken out of its run."""
    try:
        return tuple(map(str, read_json(run / "splits.json")["classes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _described(recipe: Path, branch: str) -> tuple[str | None, Normalization | None, bool]:
    """(backbone, normalisation, whether `logits` is linear on h) of a run's branch, as far as its folder tells them.

    Not the backbone of a network that was given.
    """
    try:
        text = recipe.read_text(encoding="utf-8")
        check_yaml(text)
        raw = yaml.safe_load(text)
        channels = raw["data"].get("channels") or 3
        written = raw["branches"][branch]
        told = {key: written.get(key) for key in ("backbone", "normalize")}
        head = parse_call(written.get(LOGITS, str(CLASSIFIER)), branch)
        plain = head.name == CLASSIFIER.name and head.args[:1] == CLASSIFIER.args
        spec = parse_branch(branch, told, channels)
        given = recipe.parent / "networks.json"
        unknown = given.is_file() and branch in read_json(given)
    except (OSError, ValueError, yaml.YAMLError, RecursionError, ManyviewError, KeyError, TypeError, AttributeError):
        return None, None, True  # a checkpoint that was taken out of its run, or a network that only its own words make
    if unknown:
        return None, spec.normalize, plain
    call = without_origin(spec.backbone)
    kept = Call(call.name, (), {key: value for key, value in call.kwargs.items() if key != "pretrained"})
    known = timm_library().get_pretrained_cfg(call.name) if channels == 3 else None  # of one's own there may be none
    usual = {} if known is None else known.to_dict()
    usually = tuple(usual.get("mean", (0.5,))), tuple(usual.get("std", (0.5,)))
    return str(kept), spec.normalize or usually, plain


def network_of(config: Mapping[str, Any]) -> tuple[str, int]:
    """timm's name of an exported network, and `small` of its stem. config: what its config.json holds."""
    small = config.get("manyview", {}).get("small", False)
    if not is_stem(small):
        raise ValueError(f"small is {small!r}")
    return config["architecture"].removeprefix(SMALL if small else ""), small


def _of_export(folder: Path) -> Weights:
    """What `manyview export` wrote, or a folder of the hub's for timm."""
    try:
        config = read_json(folder / "config.json")
        prepared = config["pretrained_cfg"]
        known = config.get("manyview", {}).get("normalize") != NOT_KNOWN
        normalization = (tuple(prepared["mean"]), tuple(prepared["std"])) if known else None
        named = [f"{key}={value!r}" for key, value in config.get("model_args", {}).items()]
        name, small = network_of(config)
        backbone = f"{name}({', '.join([*([f'small={small}'] if small else []), *named])})"
        labels = tuple(map(str, config.get("label_names", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / 'config.json'} is not what `manyview export` writes: {error!r}") from None
    file = next((path for path in _usual_files(folder) if path.is_file()), folder / "model.safetensors")
    return Weights(_of_file(file).state, str(file), (), {}, backbone, normalization, labels=labels)


def _usual_files(folder: Path) -> Iterator[Path]:
    return (folder / name for name in ("model.safetensors", "pytorch_model.bin"))
