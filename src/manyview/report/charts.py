"""Charts: curves, bars, a matrix, a reliability diagram and differences with their intervals, each with its numbers.

Colours are read on white and on black alike (3:1 and more); the page has those of text and lines.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manyview.evaluate.report import Cell, Table
from manyview.foundation.words import counted, cut
from manyview.report.blocks import Chart
from manyview.report.curves import Point, thinned

COLOURS = ("#2f7fd0", "#d9730d", "#1f9d63", "#9a5fd0", "#d64545", "#0f95a8", "#c9528f", "#8a7a1f")
GREY = "#7d8794"
MOST_LINES = 16
TABLED = 13  # rows of a curve's table
HEIGHT = 260  # pixels of a chart of curves
ROW = 26  # pixels of a bar


@dataclass(frozen=True)
class Line:
    """A curve. colour: its place among COLOURS. group: lines of one name and colour stand in the legend once."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    group: str = ""


def curves(
    key: str, title: str, lines: Sequence[Line], form: str = "{:.4g}", note: str = "", **axis: Any
) -> Chart | None:
    """Values over epochs; None where there is nothing to draw. form: how a value is written. axis: of the values."""
    found = [line for line in lines if any(value is not None for _, value in line.points)]
    if len(found) > MOST_LINES:
        note = " ".join(filter(None, [note, f"The first {MOST_LINES} of {len(found)} are shown."]))
        found = found[:MOST_LINES]
    if not found:
        return None
    if len(found) == 1 and found[0].name.lower() not in title.lower():
        title = f"{title}: {found[0].name}"  # there is no legend then
    traces, named = [], set()
    for line in found:
        kept = thinned(line.points)
        few = sum(value is not None for _, value in kept) <= 30
        group = line.group or line.name
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if few else "lines",
                "x": [epoch for epoch, _ in kept],
                "y": [value for _, value in kept],
                "name": _plain(group),
                "legendgroup": _plain(group),
                "showlegend": len(found) > 1 and group not in named,
                "line": {"color": COLOURS[line.colour % len(COLOURS)], "width": 1.75},
                "marker": {"size": 5},
                "hovertemplate": f"{_plain(line.name)}: %{{y:.4~g}}<br>epoch %{{x:.4~g}}<extra></extra>",
            }
        )
        named.add(group)
    layout = {"height": HEIGHT, "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"}, "yaxis": axis}
    said = "; ".join(_told(line, form) for line in found[:6])
    more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
    return Chart(key, title, f"Line chart over epochs. {said}{more}.", traces, layout, _sampled(found, form), note)


def _plain(text: str) -> str:
    """A name as Plotly takes it, which reads tags in any text, and braces in templates."""
    return text.replace("{", "(").replace("}", ")").replace("<", "‹").replace(">", "›")


def _told(line: Line, form: str) -> str:
    known = [(epoch, value) for epoch, value in line.points if value is not None]
    (first, begin), (last, end) = known[0], known[-1]
    lowest, highest = min(value for _, value in known), max(value for _, value in known)
    between = "" if len(known) < 3 else f", between {form.format(lowest)} and {form.format(highest)}"
    if len(known) == 1:
        return f"{line.name}: {form.format(end)} at epoch {last:.3g}"
    return f"{line.name}: {form.format(begin)} at epoch {first:.3g}, {form.format(end)} at {last:.3g}{between}"


def _sampled(lines: Sequence[Line], form: str) -> Table:
    """The values at some epochs, evenly spread, the last among them: those of each line that were the latest then."""
    epochs = sorted({epoch for line in lines for epoch, _ in line.points})
    if len(epochs) > TABLED:
        epochs = [epochs[round(at * (len(epochs) - 1) / (TABLED - 1))] for at in range(TABLED)]
    rows: list[tuple[Cell, ...]] = []
    for epoch in epochs:
        values = []
        for line in lines:
            at = bisect_right(line.points, epoch, key=lambda point: point[0])
            value = line.points[at - 1][1] if at else None
            values.append(None if value is None else form.format(value))
        rows.append((f"{epoch:.4g}", *values))
    return Table(("epoch", *(line.name for line in lines)), tuple(rows))


def bars(
    key: str,
    title: str,
    said: str,
    names: Sequence[str],
    values: Sequence[float | None],
    table: Table,
    reference: tuple[float, str] | None = None,
    dots: Mapping[str, Sequence[float | None]] | None = None,
    reach: tuple[float, float] = (0, 100),
    unit: str = "%",
    note: str = "",
    bar: str = "mean",
) -> Chart:
    """A bar a name, from the top, each a `bar`. reference: a line across, and what it is. dots: by name, one a bar."""
    shown = list(names)
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "y": list(range(len(shown))),
            "x": list(values),
            "marker": {"color": COLOURS[0], "opacity": 0.75},
            "name": bar,
            "showlegend": bool(dots),
            "customdata": [_plain(name) for name in shown],
            "hovertemplate": "%{customdata}: %{x:.4~g}<extra></extra>",
        }
    ]
    for at, (name, found) in enumerate((dots or {}).items()):
        faint = 0.35 + 0.65 * (at + 1) / len(dots or {})
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "y": list(range(len(shown))),
                "x": list(found),
                "name": _plain(name),
                "showlegend": at in (0, len(dots or {}) - 1),  # from pale to dark
                "marker": {"color": COLOURS[1], "size": 7, "opacity": faint},
                "customdata": [_plain(name) for name in shown],
                "hovertemplate": f"%{{customdata}}, {_plain(name)}: %{{x:.4~g}}<extra></extra>",
            }
        )
    axis = {"range": list(reach), "ticksuffix": f" {unit}" if unit else ""}
    layout: dict[str, Any] = {
        "height": 96 + ROW * len(shown),
        "margin": {"r": 30},
        "xaxis": axis,
        "yaxis": _rows(shown),
        "bargap": 0.35,
    }
    if reference is not None:
        value, name = reference
        line = {"color": COLOURS[4], "width": 1.5, "dash": "dot"}
        across: dict[str, Any] = {"x": [value, value], "y": [-0.5, len(shown) - 0.5], "hoverinfo": "skip"}
        traces.append({"type": "scatter", "mode": "lines", "name": _plain(name), "line": line, **across})
    return Chart(key, title, said, traces, layout, table, note)


def _rows(names: Sequence[str]) -> dict[str, Any]:
    """An axis with a row a name, from the top; names may be alike."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [_plain(cut(name, 28)) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }


def confusion(key: str, title: str, classes: Sequence[str], counts: Sequence[Sequence[int]], note: str = "") -> Chart:
    """What was said (columns) of images of each class (rows); shades are shares of the class."""
    totals = [max(1, sum(row)) for row in counts]
    shares = [[value / total for value in row] for row, total in zip(counts, totals, strict=True)]
    few = len(classes) <= 12
    names = [_plain(cut(name, 16)) for name in classes]
    places = list(range(len(classes)))
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": shares,
        "x": places,
        "y": places,
        "customdata": [
            [[_plain(own), _plain(said), value, total] for said, value in zip(classes, row, strict=True)]
            for own, row, total in zip(classes, counts, totals, strict=True)
        ],
        "colorscale": [[0, "rgba(47,127,208,0)"], [1, "rgba(47,127,208,0.9)"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{customdata[0]}, said to be %{customdata[1]}: %{customdata[2]} of %{customdata[3]}"
        "<extra></extra>",
    }
    if few:
        trace |= {"text": [[str(value) if value else "" for value in row] for row in counts], "texttemplate": "%{text}"}
    ticks = {
        "tickvals": places,
        "ticktext": names,
        "ticks": "",
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }
    layout = {
        "height": 480 if len(classes) <= 20 else 620,
        "margin": {"r": 40},  # for the last slanted name
        "xaxis": {**ticks, "title": {"text": "said"}, "side": "top", "tickangle": -45 if len(classes) > 4 else 0},
        "yaxis": {**ticks, "title": {"text": "is"}, "autorange": "reversed"},
    }
    right = sum(row[at] for at, row in enumerate(counts))
    said = f"Confusion matrix of {counted(len(classes), 'class')}: {right:,} of {sum(map(sum, counts)):,} are right."
    table = Table(("is \\ said", *classes), tuple((name, *row) for name, row in zip(classes, counts, strict=True)))
    return Chart(key, title, said, [trace], layout, table, note)


def reliability(key: str, title: str, bins: Sequence[Mapping[str, Any]], table: Table, note: str = "") -> Chart:
    """Accuracy over confidence. bins: {low, high, count, confidence, accuracy} each, the last two None where empty."""
    total = sum(each["count"] for each in bins) or 1
    middles = [(each["low"] + each["high"]) / 2 for each in bins]
    traces = [
        {
            "type": "bar",
            "x": middles,
            "y": [each["accuracy"] for each in bins],
            "width": [0.92 * (each["high"] - each["low"]) for each in bins],
            "name": "accuracy",
            "marker": {"color": COLOURS[0], "opacity": 0.75},
            "customdata": [[each["count"], each["confidence"]] for each in bins],
            "hovertemplate": "confidence %{customdata[1]:.3f}, accuracy %{y:.3f}; %{customdata[0]} images"
            "<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": middles,
            "y": [each["count"] / total for each in bins],
            "name": "share of images",
            "line": {"color": COLOURS[1], "width": 1.5, "shape": "hvh"},
            "marker": {"size": 4},
            "hovertemplate": "%{y:.1%} of images<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "name": "as sure as right",
            "line": {"color": GREY, "width": 1.5, "dash": "dash"},
            "hoverinfo": "skip",
        },
    ]
    layout = {
        "height": 400,
        "xaxis": {"title": {"text": "confidence"}, "range": [0, 1], "tickformat": ".1f"},
        "yaxis": {"title": {"text": "accuracy"}, "range": [0, 1.02], "tickformat": ".1f"},
    }
    known = [each for each in bins if each["count"]]
    told = "; ".join(f"at {each['confidence']:.2f} {each['accuracy']:.2f} of {each['count']:,}" for each in known)
    return Chart(key, title, f"Reliability diagram, accuracy by confidence: {told}.", traces, layout, table, note)


def seeds(
    key: str, title: str, names: Sequence[str], values: Sequence[Sequence[float]], table: Table, unit: str = ""
) -> Chart:
    """A row a recipe: a point a seed, and the mean."""
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [value for each in values for value in each],
            "y": [row for row, each in enumerate(values) for _ in each],
            "name": "a seed",
            "marker": {"color": GREY, "size": 8, "opacity": 0.75},
            "hovertemplate": "%{x:.4~g}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": [sum(each) / len(each) if each else None for each in values],
            "y": list(range(len(values))),
            "name": "mean",
            "marker": {"color": COLOURS[0], "size": 20, "symbol": "line-ns", "line": {"color": COLOURS[0], "width": 3}},
            "hovertemplate": "mean %{x:.4~g}<extra></extra>",
        },
    ]
    layout = {"height": 120 + 44 * len(names), "xaxis": {"ticksuffix": unit}, "yaxis": _rows(names)}
    means = [
        f"{name} {sum(each) / len(each):.4g}" if each else f"{name}: no run with a result"
        for name, each in zip(names, values, strict=True)
    ]
    return Chart(key, title, f"Dot plot of every seed. Means: {'; '.join(means)}.", traces, layout, table)


@dataclass(frozen=True)
class Apart:
    """A mean of paired differences, and intervals of it."""

    mean: float
    bootstrap: tuple[float, float] | None
    t: tuple[float, float] | None


def differences(key: str, title: str, names: Sequence[str], found: Sequence[Apart | None], table: Table) -> Chart:
    """A row a recipe: the mean difference, its bootstrap interval (thick) and t interval (thin); None for none."""
    traces = [
        _intervals("t, 95 %", [None if each is None else each.t for each in found], 1.5, 1.0),
        _intervals("bootstrap, 95 %", [None if each is None else each.bootstrap for each in found], 6, 0.4),
    ]
    means = [None if each is None else each.mean for each in found]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": means,
            "y": list(range(len(names))),
            "name": "mean difference",
            "marker": {"color": COLOURS[0], "size": 9},
            "hovertemplate": "%{x:+.4~g}<extra></extra>",
        }
    )
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": GREY, "width": 1}}
    layout = {"height": 120 + 44 * len(names), "yaxis": _rows(names), "xaxis": {"zeroline": False}, "shapes": [zero]}
    told = []
    for name, each in zip(names, found, strict=True):
        if each is not None:
            interval = "" if each.t is None else f", 95 % t interval {each.t[0]:+.3g} to {each.t[1]:+.3g}"
            told.append(f"{name} {each.mean:+.3g}{interval}")
    return Chart(key, title, f"Paired differences to the first recipe: {'; '.join(told)}.", traces, layout, table)


def _intervals(name: str, found: Sequence[tuple[float, float] | None], width: float, opacity: float) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    for row, ends in enumerate(found):
        if ends is not None:
            x += [*ends, None]
            y += [row, row, None]
    line = {"color": COLOURS[0], "width": width}
    said = f"{name}: %{{x:+.4~g}}<extra></extra>"
    drawn = {"x": x, "y": y, "name": name, "line": line, "opacity": opacity, "hovertemplate": said}
    return {"type": "scatter", "mode": "lines", **drawn}


__all__ = ["COLOURS", "Apart", "Line", "bars", "confusion", "curves", "differences", "reliability", "seeds"]
