"""TorchScript: one file that torch.jit.load opens, in Python and C++, without timm."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from manyview.errors import RunError, reason
from manyview.export.about import ABOUT, told, write_about
from manyview.export.network import Network
from manyview.export.outgoing import Outgoing, check_answers
from manyview.foundation.files import write_bytes

FILE = "model.pt"


def write_torchscript(leaving: Outgoing, folder: Path, out: Path) -> list[str]:
    """Writes `model.pt`, for any number of images of one size, into a folder that will be `out`; returns lines.

    Raises RunError.
    """
    network = Network(leaving)
    example = torch.zeros(2, leaving.channels, *leaving.sized())
    whole = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of sizes that are fixed, as they shall be, and of a successor that is not stable
        try:
            torch.jit.save(torch.jit.trace(network, example, check_trace=False), whole)
        except Exception as error:  # of anybody's network
            raise RunError(f"torch.jit cannot trace {leaving.branch.spec.backbone}: {reason(error)}") from None
        write_bytes(folder / FILE, whole.getvalue())
        opened = torch.jit.load(io.BytesIO(whole.getvalue())).eval()
        check_answers(leaving, FILE, opened)
    write_about(leaving, folder)
    return [f"wrote {out / FILE} and {ABOUT}: {told(leaving)}", f'load it with torch.jit.load("{out / FILE}")']


__all__ = ["FILE", "write_torchscript"]
