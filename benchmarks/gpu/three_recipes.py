"""The three recipes of `views.py` on the device: ours, plain and compiled, our CPU programs, and other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gpu.bench import Bench, Row, plan_of, textured
from gpu.peers import PEERS, SIZES
from manyview.views.engine.render import sizes_of
from manyview.views.view import draw_views, render_views, sample_views
from views import CASES

SETS = {"simclr32": (2048, (32, 32)), "simclr224": (128, (375, 500)), "supervised32": (2048, (32, 32))}
FEW = 16  # images where a library takes them one by one
Make = Callable[[], object]


def three_recipes(bench: Bench) -> Iterator[Row]:
    """A row a side: images a second, each of which gives two views. What has to be compiled comes last."""
    for compiled in (False, True):
        for name in SIZES:
            count, size = SETS[name]
            if bench.tiny:
                count, size = 4, ((48, 64) if name == "simclr224" else size)
            images = textured(count, size)
            for what, build, of in sides(name, images, images.to(bench.device)):
                if bench.left <= 0:
                    return
                if what.endswith("compiled") == compiled:
                    yield side_row(bench, f"{name}: {what}", build, of, leave_out=bench.tiny and compiled)


def sides(name: str, images: Tensor, there: Tensor) -> Iterator[tuple[str, Callable[[], Make], int]]:
    """(what, what builds the call, images of a call)."""
    plan, rows = plan_of(CASES[name].recipe, views=2), range(len(images))
    few = there[:FEW]
    compiled = partial(torch.compile, render_views, fullgraph=True)
    threads = torch.get_num_threads()

    def ours(renderer: Callable[[], Callable] = lambda: render_views) -> Make:
        made = renderer()
        return lambda: draw_views(plan, there, None, rows, 0, 0, compiled=False, renderer=made)

    yield "ours, on the device", ours, len(images)
    yield "ours, on the device, compiled", partial(ours, compiled), len(images)
    yield "our draws alone, on the CPU", lambda: partial(sample_views, plan, sizes_of(images), rows, 0, 0), len(images)
    yield (
        f"our CPU programs, threads: {threads}",
        lambda: partial(draw_views, plan, images, None, rows, 0, 0),
        len(images),
    )
    for what, build in PEERS.items():
        one_by_one = build.__name__ == "v2_images"
        yield what, partial(build, name, few if one_by_one else there), len(few) if one_by_one else len(images)


def side_row(bench: Bench, what: str, build: Callable[[], Make], count: int, leave_out: bool) -> Row:
    """Times a side, or says why it is left out. One that fails costs no other its row."""
    if leave_out:
        return {"what": what, "note": "left out: to compile takes half a minute"}
    try:
        make = build()
        with torch.no_grad():
            seconds = bench.seconds(make)
    except (ImportError, NotImplementedError) as error:
        return {"what": what, "note": f"left out: {error}"}
    except Exception as error:
        return {"what": what, "note": f"{type(error).__name__}: {str(error)[:300]}", "right": False}
    return {"what": what, "ms": 1000 * seconds, "images_per_second": count / seconds}
