"""What has to be known of a network that left as one file: what goes in, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manyview.branches.spec import FEATURES
from manyview.export.outgoing import AGGREGATED, Outgoing
from manyview.foundation.files import write_json
from manyview.foundation.words import counted

ABOUT = "model.json"


def about(leaving: Outgoing) -> dict[str, Any]:
    """What `model.json`, and the metadata of ONNX, hold."""
    branch = leaving.branch
    return {
        "input": _input(leaving),
        "mean": branch.mean.flatten().tolist(),
        "std": branch.std.flatten().tolist(),
        "output": {"name": leaving.answer, "shape": ["batch", leaving.classes or branch.dims[FEATURES]]},
        "label_names": leaving.labels,
        "manyview": {"recipe": leaving.recipe.title, "weights_of": leaving.weights},
    }


def _input(leaving: Outgoing) -> dict[str, Any]:
    rgb = "RGB" if leaving.channels == 3 else "pixels"
    if leaving.preprocess is None:
        shape = ["batch", leaving.channels, *leaving.sized()]
        return {"shape": shape, "type": "float32", "values": f"{rgb} in [0, 1], less mean, divided by std"}
    sizes = {"n": "batch", "c": leaving.channels, "h": "height", "w": "width"}
    shape = [sizes[axis] for axis in leaving.preprocess]
    return {"shape": shape, "type": "uint8", "values": f"{rgb} as it is decoded, of any size"}


def write_about(leaving: Outgoing, folder: Path) -> None:
    """Writes it beside."""
    write_json(folder / ABOUT, about(leaving))


def told(leaving: Outgoing) -> str:
    """The network in a line."""
    size = "x".join(map(str, leaving.sized()))
    gives = counted(leaving.classes, "class") if leaving.classes else "features"
    inside = ", averaged over its orbit" if leaving.answer == AGGREGATED else ""
    seen = f"whole images, {leaving.preprocess}, made {size} inside" if leaving.preprocess else f"images of {size}"
    return f"{leaving.branch.spec.backbone.name}, {gives}{inside}, {seen}"


__all__ = ["ABOUT", "about", "told", "write_about"]
