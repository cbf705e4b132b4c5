"""A run as sections of a page: what it came to, how it went, what it costs, and how it is made again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from manyview.data.sources import FROM_PYTHON
from manyview.foundation.words import counted, duration
from manyview.report.blocks import Block, Chart, Code, Facts, Figures, Section, Text
from manyview.report.charts import Line, curves
from manyview.report.curves import Curves
from manyview.report.protocols import evaluations, measures, of_training
from manyview.report.told import Told, mapping, number
from manyview.show.display import LABELS, table_row

SPREAD = {
    "z_std_sqrt_d": "z_std·√d",
    "effective_rank": "effective rank",
    "lidar": "LiDAR",
    "alignment": "alignment",
    "uniformity": "uniformity",
}
PLACES = {
    "memory": "by threads, from images in memory",
    "device": "on the device, by the step",
    "workers": "by the loader's workers",
}
STATES = {"unfinished": "not finished"}


def overview(run: Told) -> list[Block]:
    """The main figures, and what else one asks first."""
    result, known = run.result, run.known
    figures = []
    if known.best is not None and known.measure is not None:
        value = table_row(known.measure, known.best)[1]
        when = "" if result else ", best so far"
        figures.append((value, f"{LABELS.get(known.measure, known.measure)} on {known.split}{when}"))
    figures += [(f"{known.epochs:.4g}", "epochs")] if known.epochs is not None else []
    figures += [(_took(known.seconds), "training")] if known.seconds is not None else []
    speed = number(result.get("images_per_second"))
    figures += [(f"{speed:,.0f}", "images/s")] if speed is not None else []
    facts = [
        ("run", run.name),
        ("recipe", run.title),
        ("state", STATES.get(known.state, known.state)),
        ("seed", str(known.seed)),
        ("data", str(result.get("data") or run.splits.get("note") or "not noted")),
        ("weights", str(result.get("selected_by") or "").replace("validation ", "chosen by validation ", 1)),
        ("last sign", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(known.when))),
    ]
    skipped = result.get("skipped_images")
    if isinstance(skipped, list) and skipped:
        facts.append(("skipped", f"{counted(len(skipped), 'image')} that could not be read"))
    return [Figures(figures), Facts([(name, said) for name, said in facts if said])]


def training(run: Told, key: str) -> list[Block]:
    """Curves of all that was logged."""
    found = run.curves
    if not found.points:
        return [Text("No curves: nothing was logged yet.", told=True)]
    blocks: list[Block] = [each for each in _curves(found, key) if each is not None]
    if found.cut:
        blocks.append(Text("metrics.jsonl is long: curves show its end, and not all of its names.", told=True))
    return blocks


def _curves(found: Curves, key: str) -> list[Chart | None]:
    val, own = found.named("val/"), found.named("measures/")
    terms = {"loss": found.points.get("loss", ()), **found.named("terms/")}
    if len(terms) == 2:
        terms.pop("loss")  # which is its one term
    percent = [name for name in val if table_row(name, 0.0)[1].endswith("%")]
    spread = {label: found.points[name] for name, label in SPREAD.items() if name in found.points}
    ranks: dict[str, Any] = {label: spread[label] for label in ("effective rank", "LiDAR") if label in spread}
    even: dict[str, Any] = {label: spread[label] for label in ("alignment", "uniformity") if label in spread}
    told = {
        "alignment": "Alignment: 0 where two views of an image are one.",
        "uniformity": "Uniformity: 0 at collapse, the lower the more even.",
    }
    even_note = " ".join(told[label] for label in even)
    labels = {name: LABELS.get(name, name) for name in val}
    return [
        _chart(f"{key}-loss", "Loss, term by term", terms),
        _chart(f"{key}-val", "On validation images", {
            labels[name]: val[name] for name in percent
        }, "{:.2f} %", ticksuffix=" %"),
        _chart(f"{key}-val-loss", "On validation images, other measures", {
            labels[name]: points for name, points in val.items() if name not in percent
        }),
        _chart(f"{key}-lr", "Learning rate", {"learning rate": found.points.get("lr", ())}, "{:.3g}"),
        _chart(f"{key}-std", "Spread of the embeddings, z_std·√d", {
            label: points for label, points in spread.items() if label == "z_std·√d"
        }, "{:.3f}", "0: all embeddings are one; 1: they lie evenly on the sphere.", rangemode="tozero"),
        _chart(f"{key}-rank", "Directions that the embeddings take", ranks, "{:.1f}", rangemode="tozero"),
        _chart(f"{key}-even", " and ".join(even).capitalize(), even, "{:.3f}", even_note),
        _chart(f"{key}-own", "What relations measure of themselves", own),
        _chart(f"{key}-speed", "Images a second", {
            "images a second": found.points.get("images_per_second", ())
        }, "{:,.0f}", rangemode="tozero"),
    ]  # fmt: skip


def _chart(
    key: str, title: str, lines: Mapping[str, Any], form: str = "{:.4g}", note: str = "", **axis: Any
) -> Chart | None:
    drawn = [Line(name, points, at) for at, (name, points) in enumerate(lines.items())]
    return curves(key, title, drawn, form, note, **axis)


def results(run: Told, key: str) -> list[Block]:
    """What was measured in the end."""
    if not run.result:
        return [Text("Not finished: results come at the end.", told=True)]
    blocks = measures(run.result) + of_training(key, run.result)
    blocks += [Text(f"{call}: {note}", small=True) for call, note in mapping(run.result.get("notes")).items()]
    return blocks + [
        Text(f"Not measured, {call}: {why}", told=True) for call, why in mapping(run.result.get("not_measured")).items()
    ]


def kept_protocols(run: Told, key: str) -> list[Section]:
    """Sections of what was evaluated afterwards."""
    return evaluations(key, run.result)


def cost(run: Told, measured: bool) -> list[Block]:
    """What it took. measured: whether memory and FLOPs are told behind it."""
    result = run.result
    waiting, seconds = number(result.get("waiting")), number(result.get("seconds"))
    speed, steps = number(result.get("images_per_second")), number(result.get("steps"))
    speeds = [value for _, value in run.curves.points.get("images_per_second", ()) if value is not None]
    facts = [
        ("training", None if seconds is None else _took(seconds)),
        ("updates", None if steps is None else f"{steps:,.0f}"),
        ("images a second", None if speed is None else f"{speed:,.0f}, measuring and saving left out"),
        ("images a second, last", f"{speeds[-1]:,.0f}" if speeds and speed is None else None),
        ("waiting for data", None if waiting is None else f"{waiting:.1f} % of the time"),
        ("views", PLACES.get(str(result.get("rendering")))),
        ("rows through the networks", _rows(result)),
        ("device", None if not result.get("device") else str(result["device"])),
    ]
    shown = [(name, said) for name, said in facts if said]
    blocks: list[Block] = [Facts(shown)] if shown else []
    blocks += [] if result else [Text("Not finished: times come at the end.", told=True)]
    told = "Memory and FLOPs were not measured; manyview report … --measure trains two steps for it."
    return blocks if measured else [*blocks, Text(told, True)]


def _rows(result: Mapping[str, Any]) -> str | None:
    rows = number(result.get("views_per_image"))
    return None if rows is None else f"{rows:.3g} an image"


def _took(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def again(run: Told) -> list[Block]:
    """The recipe, the command that trains it anew, and what it was made with."""
    settings, result = run.known.settings, run.result
    processes = number(run.splits.get("processes")) or 1
    words = list(mapping(result.get("words")))
    parts = ["manyview", "train", "recipe.yaml", "--out", "OUT"]
    parts += ["--processes", f"{processes:.0f}"] if processes > 1 else []
    parts += ["--use", "words.py"] if words else []
    blocks: list[Block] = []
    if settings.get("data.source") == FROM_PYTHON:
        blocks.append(Text("Its data were given in Python: manyview.train('recipe.yaml', 'OUT', data={…})."))
    elif (run.folder / "networks.json").is_file():
        blocks.append(Text("Its network was given in Python: manyview.train('recipe.yaml', 'OUT', backbone=…)."))
    else:
        blocks.append(Code("The command, with the recipe below as recipe.yaml", shlex.join(parts)))
    if words:
        blocks.append(Text(f"With words of its own: {', '.join(words)}; a copy is in the run's folder words/."))
    versions = [(name, str(value)) for name, value in mapping(result.get("versions")).items()]
    made = [("seed", str(run.known.seed))]
    made += [("commit of manyview", str(result["git"]))] if result.get("git") else []
    starts = mapping(result.get("starts"))
    made += [(f"start of {part}", str(mapping(start).get("source"))) for part, start in starts.items()]
    blocks.append(Facts([*made, *versions]))
    if not versions:
        blocks.append(Text("Not finished: versions are noted at the end.", told=True))
    return [*blocks, Code("recipe.yaml", run.text, folded=True)]


__all__ = ["again", "cost", "kept_protocols", "overview", "results", "training"]
