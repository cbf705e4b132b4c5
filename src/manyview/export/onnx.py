"""ONNX: one file for onnxruntime and whatever else reads it, made by torch's exporter of whole graphs."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manyview.errors import RunError, reason
from manyview.export.about import ABOUT, about, told, write_about
from manyview.export.network import Network
from manyview.export.outgoing import Outgoing, answered, check_alike, check_answers, pictures
from manyview.export.prepare import Prepared, cuts, expected, sizes_to_try, view_of
from manyview.foundation.files import write_bytes

FILE = "model.onnx"
NEEDS = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
ONE_FILE = 2**31 - 2**24  # bytes of weights that the format holds in one file, with room for the graph
IN = "images"


def check_onnx() -> None:
    """Raises RunError where a library is missing."""
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise RunError(f"--to onnx: {missing[0]} is not installed; pip install 'manyview[export]'")


def write_onnx(leaving: Outgoing, folder: Path, out: Path) -> list[str]:
    """Writes `model.onnx`, for any number of images of one size, into a folder that will be `out`; returns lines.

    Weights beyond two gigabytes lie beside it, in `model.onnx.data`. Raises RunError.
    """
    check_onnx()
    network: Network | Prepared
    if leaving.preprocess is None:
        network = Network(leaving)
        example, axes = torch.zeros(2, leaving.channels, *leaving.sized()), {0: "batch"}
    else:
        network = Prepared(leaving, leaving.preprocess)
        at = leaving.preprocess.index("h")
        example, axes = network.example(leaving.channels), {0: "batch", at: "height", at + 1: "width"}
    try:
        program = _program(network, example, axes, leaving.answer)
    except Exception as error:  # of anybody's network
        raise RunError(f"torch.onnx cannot export {leaving.branch.spec.backbone}: {reason(error)}") from None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in about(leaving).items()})
    large = sum(each.numel() * each.element_size() for each in network.state_dict().values()) > ONE_FILE
    if large:
        program.save(str(folder / FILE), external_data=True)
    else:
        write_bytes(folder / FILE, program.model_proto.SerializeToString())  # whatever the folder is called
    _check(leaving, network, opened(folder / FILE, large))
    write_about(leaving, folder)
    lines = [
        f"wrote {out / FILE} and {ABOUT}: {told(leaving)}",
        f"opset {OPSET}; input '{IN}', output '{leaving.answer}'; onnxruntime.InferenceSession(\"{out / FILE}\")",
    ]
    cut = cuts(view_of(leaving)) if leaving.preprocess else None
    return [*lines, *([cut] if cut else [])]


def _check(leaving: Outgoing, network: Network | Prepared, session: Any) -> None:
    """Raises RunError where the file does not answer as the run does."""

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {IN: images.numpy()})[0])

    if isinstance(network, Network):
        check_answers(leaving, FILE, run)
        return
    for number, size in enumerate(sizes_to_try(leaving)):
        images = pictures(3 - number % 3, leaving.channels, size, number)
        check_alike(FILE, expected(leaving, images), answered(FILE, run, network.laid(images)))


def opened(path: Path, large: bool = False) -> Any:
    """A session of onnxruntime on the CPU. large: whether weights lie beside the file."""
    import onnxruntime  # an extra, and a second to import

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    model = str(path) if large else path.read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _program(network: nn.Module, example: Tensor, axes: Mapping[int, str], answer: str) -> Any:
    """torch's exporter of the whole graph; that of TorchScript knows no rotations, and is no longer kept up."""
    with torch.no_grad(), _hushed():
        return torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in axes.items()},),
            input_names=[IN],
            output_names=[answer],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """What the exporter tells on its way is of itself, not of the model."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)


__all__ = ["FILE", "IN", "check_onnx", "opened", "write_onnx"]
