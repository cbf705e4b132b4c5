"""Check: what was drawn makes the same picture again, in another batch, and beside the CPU's."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu.bench import Bench, Row, plan_of
from gpu.same_pixels import apart
from manyview.views.view import View, draw_views, render_views
from op_cases import photos

PIPELINES = (
    "crop(16, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2) | blur(kernel=9)",
    "pad_crop(24, padding=4) | flip | randaugment(2, 14, interpolation='bicubic') | cutout(8)",
    "resize(32) | center_crop(28) | autocontrast | posterize(3) | rotate(30) | erase(p=1, value='noise')",
    "crop(24) | augmix(3) | lighting(0.2) | perspective",
)
SHARE = 0.99  # within two levels of the CPU: ops in a row hand on each other's ties


def same_again(bench: Bench) -> Iterator[Row]:
    """A row a pipeline: the same bits from the same draws; to two levels those of a part of the batch and the CPU's."""
    count = 16 if bench.tiny else 200
    images = photos(count, (40, 40))
    there = images.to(bench.device)
    for make in PIPELINES:
        plan = plan_of(make, views=2)
        first = draw_views(plan, there, None, range(count), 3, 7, compiled=False)
        again = render_views(plan, there, {name: view.params for name, view in first.items()}, compiled=False)
        part = draw_views(plan, there[3:9], None, range(3, 9), 3, 7, compiled=False)
        here = draw_views(plan, images, None, range(count), 3, 7)
        replayed = all(torch.equal(first[name].images, again[name].images) for name in first)
        # sums over a picture may be split otherwise in another batch
        alone = min(apart(part[name], View(view.images[3:9]))[0] for name, view in first.items())
        share = min(apart(view, here[name])[0] for name, view in first.items())
        yield {
            "what": make,
            "replayed": replayed,
            "in_another_batch": alone,
            "within_2_levels": share,
            "right": replayed and alone >= SHARE and share >= SHARE,
        }
