"""What has to be known of a network that left as one file: what goes in, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manyview.branches.spec import FEATURES
from manyview.export.outgoing import AGGREGATED, Outgoing
from manyview.foundation.files import write_json
from manyview.foundation.words import counted

ABOUT = "model.json"
NORMALIZED = "RGB in [0, 1], less mean, divided by std"


def about(leaving: Outgoing) -> dict[str, Any]:
    """What `model.json`, and the metadata of ONNX, hold."""
    branch = leaving.branch
    values = NORMALIZED if leaving.channels == 3 else NORMALIZED.replace("RGB", "pixels")
    return {
        "input": {"shape": ["batch", leaving.channels, *leaving.sized()], "values": values},
        "mean": branch.mean.flatten().tolist(),
        "std": branch.std.flatten().tolist(),
        "output": {"name": leaving.answer, "shape": ["batch", leaving.classes or branch.dims[FEATURES]]},
        "label_names": leaving.labels,
        "manyview": {"recipe": leaving.recipe.title, "weights_of": leaving.weights},
    }


def write_about(leaving: Outgoing, folder: Path) -> None:
    """Writes it beside."""
    write_json(folder / ABOUT, about(leaving))


def told(leaving: Outgoing) -> str:
    """The network in a line."""
    size = "x".join(map(str, leaving.sized()))
    gives = counted(leaving.classes, "class") if leaving.classes else "features"
    inside = ", averaged over its orbit" if leaving.answer == AGGREGATED else ""
    return f"{leaving.branch.spec.backbone.name}, {gives}{inside}, images of {size}"


__all__ = ["ABOUT", "about", "told", "write_about"]
