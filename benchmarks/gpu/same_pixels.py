"""Check: every op renders on the device what the CPU's programs render, to two grey levels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from gpu.bench import Bench, Row, plan_of
from manyview.views.ops import OPS
from manyview.views.view import View, draw_views
from op_cases import SETTINGS, photos

LEVELS = 2.01
SHARE = 0.999  # of the values: a tie between two pixels may fall to the other side
OF_LABELS = {"cutmix": "cutmix()", "mixup": "mixup()", "soften": "crop(24) | soften()"}  # what needs labels
FROM_NEITHER = {"one_of"}  # made of other ops, each of which is looked at


def same_pixels(bench: Bench) -> Iterator[Row]:
    """A row an op: the smallest share of values within two levels over all its settings, and the largest difference."""
    settings = defaultdict(list)
    for name, call in OF_LABELS.items():
        settings[name].append((call, (24, 24)))
    for name, arguments, size in SETTINGS:
        settings[name].append((f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})", size))
    if missing := OPS.keys() - settings.keys() - FROM_NEITHER:
        raise LookupError(f"no setting for {', '.join(sorted(missing))}")
    for name, calls in settings.items():
        found = [compared(bench, call, size, kind) for call, size in calls for kind in (torch.uint8, torch.float32)]
        share = min(each for each, _ in found)
        yield {
            "what": name,
            "within_2_levels": share,
            "largest": max(each for _, each in found),
            "right": share >= SHARE,
        }


def compared(bench: Bench, call: str, size: tuple[int, int], kind: torch.dtype) -> tuple[float, float]:
    """(share of values within two grey levels, the largest difference in levels) of one setting."""
    images, labels = photos(8 if bench.tiny else 32, size, kind), torch.arange(8 if bench.tiny else 32) % 10
    here = seen(call, images, labels, compiled=True)
    there = seen(call, images.to(bench.device), labels.to(bench.device), compiled=False)
    assert there.images.device.type == bench.device.type
    assert all(
        torch.equal(there.params[op][key].cpu(), value) for op in here.params for key, value in here.params[op].items()
    )
    torch.testing.assert_close(there.target.cpu(), here.target)
    return apart(there, here)


def seen(call: str, images: Tensor, labels: Tensor, compiled: bool) -> View:
    """The view of a call. compiled: by the CPU's programs, which a device has not."""
    return draw_views(plan_of(call), images, labels, range(len(images)), 3, 7, 10, compiled=compiled)["a"]


def apart(ours: View, reference: View) -> tuple[float, float]:
    """(share of values within two grey levels, the largest difference in levels)."""
    assert ours.images.shape == reference.images.shape
    levels = 255 * (ours.pixels.cpu().double() - reference.pixels.cpu().double()).abs()
    return float((levels <= LEVELS).double().mean()), float(levels.max())
