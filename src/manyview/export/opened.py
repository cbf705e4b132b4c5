"""What is taken out: a run, or an exported or imported folder, laid out for the time being as a run that has ended."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from manyview.branches.weights import open_weights, warn_of_normalization
from manyview.errors import ManyviewWarning, RunError
from manyview.foundation.files import read_json, write_json, write_state, write_text
from manyview.foundation.grammar import Call, parse_call
from manyview.load import parse_recipe
from manyview.step import Step
from manyview.training.run import Run, run_of


@contextlib.contextmanager
def opened(given: Run | str | Path, to: str) -> Iterator[Run]:
    """A run as it is; an exported folder as one. to: the form that it is taken out to. Raises RunError."""
    run = run_of(given)
    if (run.folder / "recipe.yaml").is_file() or not (run.folder / "config.json").is_file():
        yield run
        return
    if to == "hub":
        raise RunError(
            f"{run.folder} is no run, whose files a model card is made of; take it to timm, onnx or torchscript"
        )
    with tempfile.TemporaryDirectory() as place:
        yield _as_run(run.folder.resolve(), Path(place) / run.folder.resolve().name)


def _as_run(folder: Path, place: Path) -> Run:
    """A run of the recipe with the least in it that has a folder's network and classifier."""
    weights = open_weights(folder)
    warn_of_normalization(weights, folder)
    try:
        config = read_json(folder / "config.json")
        prepared, classes = config["pretrained_cfg"], int(config["num_classes"])
        normalize = [[float(each) for each in prepared[key]] for key in ("mean", "std")]
        views = _views(prepared)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'config.json'} is not what `manyview export` writes: {error!r}") from None
    if (filtered := prepared.get("interpolation", "bilinear")) != "bilinear":
        told = f"{folder} says that images are resized by a {filtered} filter; manyview and what leaves have a bilinear"
        warnings.warn(told, ManyviewWarning, stacklevel=2)
    call = parse_call(str(weights.backbone), str(folder))
    backbone = Call(call.name, (), {**call.kwargs, "init": str(folder)})
    branch = {"backbone": str(backbone), "normalize": normalize}
    branch |= {"logits": str(parse_call(f"linear(h, {classes}, init={str(folder)!r})", "logits"))} if classes else {}
    recipe: dict[str, Any] = {
        "title": folder.name,
        "data": {"channels": len(normalize[0])} if len(normalize[0]) != 3 else {},
        "views": {"a": {"from": "image", "make": "flip(0.5)"}, "b": {"like": "a"}, **views},
        "branches": {"net": branch},
        "relations": ["cross_entropy(logits(a))" if classes else "similarity(h(a), h(b))"],
        "train": {"epochs": 1},
    }
    step = Step(parse_recipe(yaml.safe_dump(recipe)), classes)
    run = Run(place)
    labels = weights.labels or tuple(map(str, range(classes)))
    write_json(place / "splits.json", {"classes": labels, "note": f"those of {folder}"})
    write_text(place / "recipe.yaml", step.recipe.to_yaml())
    write_state(run.last, {"step": step.state_dict()})
    return run


def _views(prepared: dict[str, Any]) -> dict[str, Any]:
    """How timm's configuration has images looked at, where it names a size."""
    if not prepared.get("input_size"):
        return {}
    height, width = map(int, prepared["input_size"][-2:])
    share = float(prepared.get("crop_pct") or 1.0)
    if prepared.get("crop_mode") == "squash":
        make = f"resize(({round(height / share)}, {round(width / share)})) | center_crop(({height}, {width}))"
    elif height == width:
        make = f"resize({round(height / share)}) | center_crop({height})"
    else:
        make = f"resize(({height}, {width}))"
    return {"test": {"from": "image", "make": make}}


__all__ = ["opened"]
