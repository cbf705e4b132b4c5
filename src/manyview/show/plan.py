"""What a recipe will do, before it does it: as tables for a terminal, and as a figure of its view graph."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from rich.console import Group, RenderableType
from rich.table import Table

from manyview.data import Splits, open_splits
from manyview.errors import DataError
from manyview.foundation.vocabulary import word_of
from manyview.foundation.words import counted
from manyview.optimize.optimize import Clock, make_optimizer
from manyview.optimize.wrapping import looks_of
from manyview.recipe.readouts import RelationPlan
from manyview.recipe.recipe import Recipe
from manyview.recipe.streams import a_step, read_of, streams_seen, unread
from manyview.step import Step
from manyview.views.ops import OPS
from manyview.views.plan import TEST, PlannedView, mixes
from manyview.views.trial import reference_note


@dataclass(frozen=True)
class Plan:
    """A recipe and its step. Built for a number of classes, since the heads depend on it."""

    recipe: Recipe
    step: Step

    def render(self, data: str = "", clock: Clock | None = None) -> RenderableType:
        """Tables of views, branches and relations, and a line on cost.

        data: what is known of the data, in a line; clock: the length of the run on them, where they can be seen.
        """
        views = _table("view", "from", "ops", "images")
        for view in self.recipe.view_plan.values():
            together = self.recipe.train.batch_size // self.recipe.train.accumulate
            note = f" (mixed among {together} images, targets too)" if mixes({view.name: view}) else ""
            if view.name not in (*self.step.rendered_views, TEST):
                note += " (read by no relation: not rendered)"
            views.add_row(view.name, view.source, _ops(view) + note, f"{view.members}")
        branches = _table("branch", "readout", "made by", "columns", "parameters")
        for name in self.step.branches:
            branch = self.step.branch(name)
            spec = branch.spec
            way = "joint" if spec.joint else "separate"
            made = f"{spec.backbone}, {way}" if spec.learns else str(spec.ema or spec.frozen)
            branches.add_row(name, "h", made, str(branch.dims["h"]), _count(branch.backbone))
            for head, module in ((name, branch.head(name)) for name in branch.inputs):
                made = str(spec.heads.get(head, "linear(h)"))
                branches.add_row("", head, made, str(branch.dims[head]), _count(module))
            for tap, layer in branch.taps.items():
                branches.add_row("", tap, f"{spec.heads[tap].name} of {layer}", str(branch.dims[tap]), "0")
        relations = _table("relation", "reads", "options", "weight", "parameters")
        for plan in self.recipe.relation_plan:
            positional, named = plan.calls[0].each(str)
            reads = positional + [f"{k}={' '.join(v) if isinstance(v, tuple) else v}" for k, v in named.items()]
            options = ", ".join(_options(plan))
            relations.add_row(
                plan.name, ", ".join(reads), options, str(plan.weight), _count(self.step.relations[plan.name])
            )
        train = self.recipe.train
        tuned = f"{train.optimizer}, {train.schedule}, {train.precision}"
        told = [f"starts: {part} from {start}" for part, start in self.step.starts.items()]
        told += [f"data: {data}"] if data else []
        if clock is not None:
            epochs = counted(clock.steps / clock.steps_per_epoch, "epoch")
            told.append(f"run: {counted(clock.steps, 'step')}, {epochs} of {clock.steps_per_epoch:,}")
        told += [f"unread: {line}" for line in unread(self.recipe)]
        if note := reference_note(self.recipe.train_views, self.recipe.words):
            told.append(f"views: {note}")
        return Group(self.recipe.title, "", views, branches, relations, self.summary(), tuned, *told)

    def summary(self) -> str:
        """One line on cost."""
        train, rows, looks = self.recipe.train, self.step.rows, looks_of(self.recipe.train.optimizer)
        length = counted(train.epochs, "epoch") if train.epochs else counted(train.steps or 0, "step")
        data, each_row = self.recipe.data, " and ".join(map(str, rows.values()))
        render = {
            "auto": f"made from memory or on the device where a split of one size takes at most {data.memory:g} GiB, "
            "else by the loader's workers",
            "memory": "made by threads from images in memory",
            "device": "made on the device, by the step",
            "workers": "made by the loader's workers",
        }[data.render]
        return (
            f"{_count(self.step)} parameters for {counted(self.step.num_classes, 'class')}; {length}; a step: "
            f"{a_step(self.recipe)}, {sum(train.batch_of(each) * rows[each] for each in rows):,} through the networks "
            f"({each_row} an image{f', in {looks} passes' if looks > 1 else ''}), views {render}"
        )


def plan(recipe: Recipe, num_classes: int = 10) -> Plan:
    """Builds the step and its optimiser, so that what training refuses is refused here. Raises RecipeError."""
    step = Step(recipe, num_classes)
    make_optimizer(recipe.train, step)
    return Plan(recipe, step)


def visible_data(recipe: Recipe, asked: bool = False) -> tuple[Splits | None, str]:
    """The recipe's data, where they lie here, and a line about them; nothing is downloaded, and nothing else fails.

    asked: whether these very data were asked for; then DataError is raised where they cannot be used, unless training
    would download them.
    """
    try:
        splits = open_splits(recipe.data.model_copy(update={"download": False}), recipe.seed)
    except DataError as error:
        if asked and not recipe.data.download:
            raise
        return None, f"not seen ({str(error).partition('; ')[0]}); heads are for 10 classes, or those of --classes"
    return read_of(recipe, splits), splits.note


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = column in ("columns", "parameters", "images")
        # names stand whole in a narrow window, too; what they are made of breaks
        table.add_column(column, justify="right" if number else "left", no_wrap=column == columns[0])
    return table


def _options(relation: RelationPlan) -> list[str]:
    """A relation's options as the recipe writes them."""
    swapped = ["swapped=True"] if len(relation.calls) > 1 else []
    return [*(f"{key}={value!r}" for key, value in relation.options.items()), *swapped]


def _ops(view: PlannedView) -> str:
    parts = []
    for planned in view.ops:
        shared = planned.owner[0] if planned.owner[0] != view.name else ""
        how = "opposite to" if planned.turned else "as in"
        turns = " in turns with its opposite" if planned.alternates else ""
        parts.append(describe(planned.op) + (f" {how} {shared}" if shared else "") + turns)
    if view.orbit:
        parts.append(f"orbit {view.orbit}")
    if view.count:
        parts.append(f"{view.count} draws")
    return " | ".join(parts) or "as it is"


def describe(op: object) -> str:
    """An op as a recipe would write it, defaults left out: `crop(32, scale=(0.2, 1))`."""
    name = word_of(type(op), OPS)
    several = [p.name for p in inspect.signature(type(op)).parameters.values() if p.kind is p.VAR_POSITIONAL]
    shown = [repr(each) for key in several for each in getattr(op, key)]
    shown += [
        f"{key}={value!r}"
        for key, field in type(op).__dataclass_fields__.items()  # type: ignore[attr-defined]
        if key not in several and field.repr and (value := getattr(op, key)) != field.default
    ]
    return f"{name}({', '.join(shown)})"


def _count(module: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters() if p.requires_grad):,}"


# ---------------------------------------------------------------------------------------------------------------- SVG

COLUMN, ROW, BOX, HEIGHT, MARGIN = 236, 58, 196, 38, 24
LETTER = 7.6  # how wide a letter of the title is, on average
EDGE, INK, PALE = "#8a94a0", "#1b1f24", "#57606a"
FILL = {"image": "#eef1f4", "view": "#dceeff", "readout": "#e4f6e4", "relation": "#fff0d6"}


@dataclass(frozen=True)
class Node:
    """A box of the figure. rank: its column. below: a second line in small type."""

    key: str
    label: str
    below: str
    rank: int
    kind: str


@dataclass(frozen=True)
class Layout:
    """Where the boxes of the figure stand, and its size, in points. edges: (from, to, whether dashed)."""

    nodes: Sequence[Node]
    edges: Sequence[tuple[str, str, bool]]
    at: Mapping[str, tuple[float, float]]
    width: float
    height: float

    def bend(self, start: str, end: str) -> tuple[tuple[float, float], ...]:
        """The four points of an edge's curve."""
        (x1, y1), (x2, y2) = self.at[start], self.at[end]
        x1, y1, y2 = x1 + BOX, y1 + HEIGHT / 2, y2 + HEIGHT / 2
        middle = (x1 + x2) / 2
        return (x1, y1), (middle, y1), (middle, y2), (x2, y2)


def layout(recipe: Recipe) -> Layout:
    """The view graph from left to right: image, views, readouts, relations; as wide as its title, too."""
    nodes, edges = _graph(recipe)
    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(node.rank, []).append(node)
    tallest = max(len(column) for column in columns.values())
    at: dict[str, tuple[float, float]] = {}
    for rank, column in columns.items():
        offset = (tallest - len(column)) * ROW / 2
        for position, node in enumerate(column):
            at[node.key] = (MARGIN + rank * COLUMN, MARGIN + 20 + offset + position * ROW)
    width = max(max(columns) * COLUMN + BOX, math.ceil(LETTER * len(recipe.title)))
    return Layout(nodes, edges, at, 2 * MARGIN + width, 2 * MARGIN + 20 + tallest * ROW)


def svg(recipe: Recipe) -> str:
    """The view graph as an SVG."""
    drawn = layout(recipe)
    width, height = drawn.width, drawn.height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{MARGIN}" font-size="14" font-weight="600">{escape(recipe.title)}</text>',
    ]
    for start, end, dashed in drawn.edges:
        (x1, y1), (middle, _), _, (x2, y2) = drawn.bend(start, end)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        curve = f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"
        parts.append(f'<path d="{curve}" fill="none" stroke="{EDGE}"{dash}/>')
    for node in drawn.nodes:
        x, y = drawn.at[node.key]
        parts.append(
            f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="7" fill="{FILL[node.kind]}" stroke="{EDGE}"/>'
        )
        up = HEIGHT / 2 + 4 if not node.below else 16
        parts.append(
            f'<text x="{x + 10}" y="{y + up}" font-size="13" fill="{INK}">{escape(cut(node.label, 27))}</text>'
        )
        if node.below:
            text = escape(cut(node.below, 36))
            parts.append(f'<text x="{x + 10}" y="{y + 30}" font-size="10" fill="{PALE}">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def cut(text: str, length: int) -> str:
    """At most so many letters, the last of them … where some are left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _graph(recipe: Recipe) -> tuple[Sequence[Node], Sequence[tuple[str, str, bool]]]:
    views = recipe.seen_views
    streams = streams_seen(recipe)
    rank = dict.fromkeys(streams, 0)
    nodes = [Node(stream, stream, "", 0, "image") for stream in streams]
    edges: list[tuple[str, str, bool]] = []
    for name, view in views.items():
        source = view.source.partition(".")[0]
        rank[name] = rank[source] + 1
        notes = [f"{view.members} an image"] if view.members > 1 else []
        notes += [f"opposite to {other}" for other in dict.fromkeys(op.owner[0] for op in view.ops if op.turned)]
        notes += [f"{op.name} in turns" for op in view.ops if op.alternates]
        label = f"{name}  ({', '.join(notes)})" if notes else name
        nodes.append(Node(name, label, _ops(view), rank[name], "view"))
        edges.append((source, name, False))
    readout_rank = max(rank.values()) + 1
    seen: set[str] = set()
    many = len({read.branch for relation in recipe.relation_plan for read in relation.all_reads}) > 1
    for number, relation in enumerate(recipe.relation_plan):
        key = f"relation {number}"
        for read in relation.all_reads:
            readout = f"{read.branch}.{read.name}({read.view})"
            if readout not in seen:
                seen.add(readout)
                shown = readout if many else f"{read.name}({read.view})"
                nodes.append(Node(readout, shown, "", readout_rank, "readout"))
                edges.append((read.view.partition(".")[0], readout, False))
            teaches = not recipe.branch_plan[read.branch].learns
            edges.append((readout, key, teaches or "stop" in read.functions))
            edges += [(like.partition(".")[0], key, True) for like in read.views[1:]]  # mixed as that view is
        weight = str(relation.weight)
        below = ", ".join([f"weight {weight}", *_options(relation)])
        nodes.append(Node(key, relation.name, below, readout_rank + 1, "relation"))
    return nodes, edges
