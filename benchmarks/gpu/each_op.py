"""Throughput of every op on the device, and the share of memory bandwidth that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gpu.bench import Bench, Row, plan_of, textured
from gpu.same_pixels import OF_LABELS
from manyview.views.engine.render import sizes_of
from manyview.views.ops import OPS
from manyview.views.view import render_views, sample_views, to_device
from op_cases import CASES

SETS = ((2048, (32, 32)), (128, (224, 224)))  # images of a batch, their size
OTHERS = {  # SIDE stands for the image's side
    "crop": "crop(SIDE)",
    "center_crop": "center_crop(SIDE)",
    "jitter": "jitter(0.4, 0.4, 0.4, 0.1)",
    "resize": "resize(SIDE)",
    "soften": "crop(SIDE) | soften()",
}


def each_op(bench: Bench) -> Iterator[Row]:
    """First what a copy moves, then a row an op and size: images a second, bytes a second, their share of a copy's."""
    yield {"what": "a copy, reading and writing", "gb_per_second": bench.bandwidth / 1e9}
    calls = {name: call_of(name, arguments) for name, arguments in reversed(CASES)} | OF_LABELS | OTHERS
    for count, size in [(4, (24, 24))] if bench.tiny else SETS:
        images = textured(count, size).to(bench.device)
        for name in sorted(calls):
            if bench.left <= 0:
                return
            yield op_row(bench, calls[name].replace("SIDE", str(images.shape[-1])), images)


def call_of(name: str, arguments: Mapping[str, Any]) -> str:
    """An op as in its first test, but always at work where it has a probability."""
    given = {**arguments, **({"p": 1.0} if "p" in OPS[name].__dataclass_fields__ else {})}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"


def op_row(bench: Bench, call: str, images: Tensor) -> Row:
    """An op on a batch whose draws lie on the device already. Counted are the bytes of the images and of the view."""
    rows = range(len(images))
    labels = torch.arange(len(images), device=bench.device) % 10
    plan = plan_of(call)
    drawn = to_device(sample_views(plan, sizes_of(images), rows, 0, 0), bench.device)
    view = render_views(plan, images, drawn, labels, 10, compiled=False)["a"].images
    moved = images.nbytes + view.nbytes
    seconds = bench.seconds(lambda: render_views(plan, images, drawn, labels, 10, compiled=False), 0.1)
    return {
        "what": f"{call} on {tuple(images.shape)}",
        "images_per_second": len(images) / seconds,
        "gb_per_second": moved / seconds / 1e9,
        "of_a_copy": moved / seconds / bench.bandwidth,
    }
