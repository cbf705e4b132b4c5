"""`manyview export`: a run's network as other programs take it, compared with the run before it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from manyview.branches.given import Given
from manyview.errors import RunError, unknown
from manyview.export.hub import write_hub
from manyview.export.onnx import check_onnx, write_onnx
from manyview.export.opened import opened
from manyview.export.outgoing import Outgoing, outgoing
from manyview.export.prepare import LAYOUTS
from manyview.export.timm import write_timm
from manyview.export.torchscript import write_torchscript
from manyview.foundation.folders import check_free, filled
from manyview.foundation.taken import taken_path
from manyview.training.run import Run, run_of

FORMS: Mapping[str, Callable[[Outgoing, Path, Path], list[str]]] = MappingProxyType(
    {"timm": write_timm, "onnx": write_onnx, "torchscript": write_torchscript, "hub": write_hub}
)
"""Name -> what writes it into a folder that will be another, and returns lines on how it is used there."""


def export_model(
    run: Run | str | Path,
    out: str | Path,
    to: str = "timm",
    *,
    backbone: Given | None = None,
    features: bool = False,
    aggregate: bool = False,
    weights: str | None = None,
    size: int | None = None,
    preprocess: str | None = None,
    licence: str | None = None,
) -> list[str]:
    """Writes the folder `out`, which needs no manyview; returns lines to print.

    run: or its folder; or an exported or imported one, but for hub. to: timm, onnx, torchscript or hub. backbone: as it
    was given to `train`. features: without the classifier. aggregate: scores averaged over the orbit of a joint head
    (SLA+AG). weights: averaged or trained; by default those that are evaluated, averaged where the run averages them.
    size: the side of the images it looks at; by default the recipe's. preprocess: nchw or nhwc, the layout of whole
    images, uint8, that ONNX takes, to resize, cut and normalise them inside; without it, float32 images of that size go
    in, normalised. licence: of the data, for the model card of `hub`. Nothing is there until its outputs were found to
    be the run's. Raises ManyviewError.
    """
    if not isinstance(to, str) or to not in FORMS:
        raise RunError(f"export: {unknown('format', str(to), FORMS)}")
    out = taken_path(out, "export_model: out")
    if licence is not None and to != "hub":
        raise RunError("licence: it stands in the model card, which hub alone has")
    if preprocess is not None and to != "onnx":
        raise RunError("preprocess: it is for onnx, whose graph can hold it")
    if preprocess not in (None, *LAYOUTS):
        raise RunError(f"preprocess: {unknown('layout', str(preprocess), LAYOUTS)}")
    check_free(out)
    if to == "onnx":
        check_onnx()
    with opened(run, to) as leaves, filled(out) as folder:
        leaving = outgoing(
            leaves, backbone=backbone, features=features, aggregate=aggregate, weights=weights, size=size
        )
        leaving = replace(leaving, preprocess=preprocess, licence=licence)
        lines = FORMS[to](leaving, folder, out)
    if leaving.recipe.train.precision == "bf16":
        lines.append("the run is evaluated in bf16, and this is float32, whose scores differ by bf16's rounding")
    if to != "hub" and leaves.folder == run_of(run).folder and leaves.finished() is None:  # hub's card says so itself
        lines.append("the run is not finished, and these are the weights that it had until now")
    return lines


__all__ = ["FORMS", "export_model"]
