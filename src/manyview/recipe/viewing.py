"""From what a step is given to the views that its relations read: of one stream of images, or of several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from manyview.data.batch import Batch
from manyview.errors import BatchError, unknown
from manyview.recipe.recipe import Recipe
from manyview.views.engine.render import Source
from manyview.views.inputs import Inputs, device_of, on_one_device
from manyview.views.plan import PlannedView, of_stream, with_sources
from manyview.views.streams import IMAGE, STREAMS, seed_of
from manyview.views.view import View, draw_views, render_views

Notice = Callable[[str, Source, Tensor, int], None]  # stream, images, index, epoch


@final
class Viewer:
    """The views of a recipe. classes: how many labels tell apart. rendered: those that relations read, and their own.

    renderer: what makes pixels from images on a device, see `draw_views`.
    """

    def __init__(self, recipe: Recipe, classes: int) -> None:
        self.seed, self.classes = recipe.seed, classes
        self.rendered = list(recipe.seen_views)
        self.renderer: Callable[..., dict[str, View]] = render_views
        self._looked_at = {
            view.partition(".")[0] for plan in recipe.relation_plan for read in plan.all_reads for view in read.views
        }
        self._strict = recipe.data.on_bad_image == "raise"
        channels, learns = recipe.data.channels or 3, bool(recipe.needs_labels)
        plan, seen = recipe.train_views, of_streams(recipe.seen_views)
        self._plans = {stream: of_stream(plan, stream) for stream in of_streams(plan)}
        self._others = [stream for stream in seen if stream != IMAGE]
        self._inputs = {
            stream: Inputs(channels, classes, learns and stream == IMAGE) for stream in {IMAGE: 0, **self._plans}
        }

    def images(self, given: Any) -> Source:
        """Images as they are taken, see `Inputs`. Raises BatchError."""
        return self._inputs[IMAGE].images(given)

    def draw(self, batch: Batch, only: Collection[str] | None = None, stream: str = IMAGE) -> dict[str, View]:
        """The views of a stream's images, by default all of them. Raises BatchError."""
        inputs = self._of(stream)
        source, plan = inputs.images(batch.images), self._plans.get(stream, {})
        if only is not None:
            plan = {name: plan[name] for name in with_sources(plan, only)}
        rows, passage = inputs.index(batch.index, len(source)), inputs.epoch(batch.epoch)
        if stream != IMAGE and batch.targets is not None:
            raise BatchError(f"the stream {stream} is read without labels; leave them out")
        target = inputs.labels(batch.targets, len(source), device_of(source))
        seed, drawn = seed_of(self.seed, stream), batch.drawn
        return draw_views(plan, source, target, rows, passage, seed, self.classes, renderer=self.renderer, drawn=drawn)

    def given(self, batch: Batch, device: torch.device, notice: Notice | None) -> dict[str, View]:
        """The views that relations look at, drawn here or made before, where the networks lie.

        notice: is told what is drawn to learn from, see `Habits.draws`.
        """
        self._check_streams(batch)
        views = self._given(batch, device, notice, IMAGE)
        for stream, other in batch.streams.items():
            views |= self._given(other, device, notice, stream)
        return views

    def _given(self, batch: Batch, device: torch.device, notice: Notice | None, stream: str) -> dict[str, View]:
        inputs, plan = self._of(stream), self._plans.get(stream, {})
        if isinstance(batch.images, Mapping):
            wanted = [name for name in self.rendered if name in self._looked_at and name in plan]
            views = inputs.views(batch.images, wanted)
            first = next(iter(views.values()))
            on_one_device(first.images, device)
            target = inputs.labels(batch.targets, len(first.images) // first.members, device)
            numbers = batch.numbers
            if numbers is None and batch.index is not None:
                numbers = inputs.index(batch.index, len(first.images) // first.members)
            return {name: replace(view, index=numbers) for name, view in inputs.labelled(views, target).items()}
        source = inputs.images(batch.images)
        on_one_device(source, device)
        if notice is not None and self._strict:
            # in the place of a bad image, another comes twice; what is only looked at, by `draw`, is no passage
            notice(stream, source, inputs.index(batch.index, len(source)), inputs.epoch(batch.epoch))
        drawn = self.draw(replace(batch, images=source), self.rendered, stream)
        numbers = inputs.index(batch.index, len(source)) if batch.numbers is None else batch.numbers
        return {name: replace(view, index=numbers) for name, view in drawn.items()}

    def _of(self, stream: str) -> Inputs:
        if stream not in self._inputs:
            raise BatchError(unknown("stream", stream, self._inputs))
        return self._inputs[stream]

    def _check_streams(self, batch: Batch) -> None:
        missing = [stream for stream in self._others if stream not in batch.streams]
        if missing:
            raise BatchError(
                f"the relations read views of the stream {missing[0]}; give its images, too, as in step(images, "
                f"labels, index=…, epoch=…, streams={{'{missing[0]}': Batch(images, None, index, epoch)}})"
            )
        for stream in batch.streams:
            if stream not in self._others:
                raise BatchError(f"streams: {unknown('stream', stream, self._others)}")


def of_streams(plan: Mapping[str, PlannedView]) -> list[str]:
    """The streams whose images some view is made of."""
    return [stream for stream in STREAMS if of_stream(plan, stream)]


__all__ = ["Viewer"]
