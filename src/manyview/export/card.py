"""The model card of the hub: README.md with its front matter, of what a run's files hold and of nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from manyview.branches.origin import anywhere, without_origin
from manyview.branches.spec import FEATURES
from manyview.data.sources import FROM_PYTHON
from manyview.errors import ManyviewError, shown
from manyview.evaluate.report import Table
from manyview.export.outgoing import AGGREGATED, Outgoing
from manyview.foundation.files import read_json
from manyview.foundation.grammar import parse_call
from manyview.foundation.words import counted
from manyview.recipe.recipe import Recipe
from manyview.show.display import number, protocol_row, table_row

RECIPE = "training.yaml"  # not recipe.yaml, by which a folder is known as a run
NAMES = 20  # of classes that stand in a line


@dataclass(frozen=True)
class Card:
    """What a card says beside what the run's files hold.

    library: what opens the weights, timm or onnx. usage: Python that does, from a folder called FOLDER. licence: of the
    data, where it was told. command: that of the export.
    """

    library: str
    usage: str
    licence: str | None
    command: str
    result: Mapping[str, Any] = field(default_factory=dict)
    comparison: Mapping[str, Any] | None = None


def model_card(leaving: Outgoing, card: Card) -> str:
    """The whole README.md."""
    front = yaml.safe_dump(_front(leaving, card), sort_keys=False, allow_unicode=True)
    title = leaving.recipe.title or _network(leaving)
    parts = [
        f"---\n{front}---",
        f"# {_plain(title)}",
        _what(leaving),
        f"## Use\n\n```python\n{card.usage}\n```",
        _data(leaving, card),
        _measured(leaving, card),
        _again(leaving, card),
    ]
    return "\n\n".join(parts) + "\n"


def shareable(recipe: Recipe) -> Recipe:
    """The recipe without the folders of one machine: of data, and of weights that it began with."""
    where = {"root": _of_hub(recipe), "unlabeled_root": None, "download": False}
    data = recipe.data.model_copy(update=where)
    branches = anywhere(recipe.branches, lambda place: PurePath(place).name)
    return recipe.model_copy(update={"data": data, "branches": branches})


def comparison_of(run: Path) -> Mapping[str, Any] | None:
    """What compare.json says of a run's recipe, where the run is one of a comparison: measure -> its score.

    The recipe's name, and the reference's, are beside them.
    """
    folder = run.resolve()
    try:
        found = read_json(folder.parents[2] / "compare.json")
        name = folder.parent.name
        scores = {measure: of[name] for measure, of in found["table"].items() if name in of}
        return {"name": name, "reference": found["reference"], "scores": scores} if scores else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _front(leaving: Outgoing, card: Card) -> dict[str, Any]:
    task = "image-feature-extraction" if leaving.answer == FEATURES else "image-classification"
    front: dict[str, Any] = {
        "library_name": card.library,
        "pipeline_tag": task,
        "tags": [task, card.library, "manyview"],
    }
    if (source := _of_hub(leaving.recipe)) is not None:
        front["datasets"] = [source]
    main = "aggregated_top1" if leaving.answer == AGGREGATED else "top1"
    value = card.result.get("eval", {}).get(main)
    if leaving.answer != FEATURES and _as_evaluated(leaving) and isinstance(value, int | float):
        name = leaving.recipe.data.source
        dataset = {"name": name, "type": source or name, "split": card.result.get("eval_split")}
        measured = {"type": "accuracy", "value": round(float(value), 4), "name": table_row(main)[0]}
        results = [{"task": {"type": task}, "dataset": dataset, "metrics": [measured]}]
        front["model-index"] = [{"name": leaving.recipe.title or "model", "results": results}]
    return front


def _network(leaving: Outgoing) -> str:
    return str(without_origin(leaving.branch.spec.backbone)).removesuffix("()")


def _of_hub(recipe: Recipe) -> str | None:
    """The name that a data set has on the hub, where the recipe reads it there."""
    root = str(recipe.data.root or "")
    try:
        reads = parse_call(recipe.data.source, "data.source").name == "hf"
    except ManyviewError:
        return None
    named = root.count("/") == 1 and not root.startswith(("/", ".", "~")) and not Path(root).exists()
    return root if reads and named else None


def _as_evaluated(leaving: Outgoing) -> bool:
    """Whether the run's figures are of these weights, on images of this size."""
    return leaving.evaluated and not leaving.asked


def _what(leaving: Outgoing) -> str:
    backbone = f"`{_network(leaving)}`"
    size = f", images of {leaving.size[0]}x{leaving.size[1]} pixels" if leaving.size else ""
    gives = f"{counted(leaving.classes, 'class')}" if leaving.classes else f"{leaving.branch.dims[FEATURES]:,} features"
    what = "A classifier" if leaving.classes else "Features of images"
    trained = "trained with manyview on several augmented views of each image."
    lines = [f"{what}: {backbone}, {gives}{size}, {trained}"]
    if leaving.weights == "averaged":
        lines.append("Its weights are averages over the run (`train.ema`).")
    if leaving.answer == AGGREGATED:
        lines.append(
            "Its scores are averages over the members of an orbit of the image, which are made inside (SLA+AG)."
        )
    return " ".join(lines)


def _data(leaving: Outgoing, card: Card) -> str:
    data, names = leaving.recipe.data, leaving.labels
    hub = _of_hub(leaving.recipe)
    lines = [f"- source: `{_plain(data.source)}`{f', `{_plain(hub)}` on the hub' if hub else ''}"]
    if card.result.get("data"):
        lines.append(f"- images: {_plain(card.result['data'])}")
    if names:
        more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
        lines.append(f"- classes: {', '.join(f'`{_plain(name)}`' for name in names[:NAMES])}{more}")
    for part, start in card.result.get("starts", {}).items():
        place = "/".join(PurePath(str(start.get("source", ""))).parts[-3:])  # not where it lay on one machine
        lines.append(f"- {part} began with weights of `{_plain(place)}`")
    if skipped := card.result.get("skipped_images"):
        lines.append(f"- left out: {counted(len(skipped), 'image')} that could not be read")
    lines.append(
        f"- licence of the data: {_plain(card.licence)}" if card.licence else "- licence of the data: not told here"
    )
    return "## Data\n\n" + "\n".join(lines)


def _measured(leaving: Outgoing, card: Card) -> str:
    result, parts = card.result, ["## Measured"]
    splits = {
        "val": result.get("val"),
        result.get("eval_split"): result.get("eval"),
    }  # where there is no test, the same
    for split, found in reversed(splits.items()):
        if split and found:
            rows = tuple(tuple(table_row(name, value)) for name, value in found.items())
            parts.append(Table(("measure", str(split)), rows).markdown())
    for name, report in result.get("evaluations", {}).items():
        rows = tuple(tuple(protocol_row(name, key, value)) for key, value in report["measures"].items())
        note = f" ({_plain(report['note'])})" if report.get("note") else ""
        parts.append(f"`{_plain(name)}`{note}:\n\n{Table(('measure', 'value'), rows).markdown()}")
    if card.comparison is not None:
        parts.append(_compared(card.comparison))
    if len(parts) == 1:
        return "## Measured\n\nNothing has been measured of it."
    if leaving.asked:
        parts.append("These figures are of images of the recipe's own size, which is not the one here.")
    if not leaving.evaluated:
        parts.append("These figures are of the averaged weights of the same run, which are not those here.")
    if result.get("selected_by"):
        parts.append(f"Weights chosen by: {_plain(result['selected_by'])}. One run, seed {result.get('seed')}.")
    return "\n\n".join(parts)


def _compared(found: Mapping[str, Any]) -> str:
    rows = []
    for measure, score in found["scores"].items():
        sd = "" if score["sd"] is None else f" ± {number(measure, score['sd'])}"
        difference, apart = score.get("difference"), "–"
        if difference and difference.get("t"):
            mean, low, high = (number(measure, each, signed=True) for each in (difference["mean"], *difference["t"]))
            apart = f"{mean} ({low} to {high})"
        rows.append((table_row(measure)[0], f"{number(measure, score['mean'])}{sd}", str(score["n"]), apart))
    columns = (
        "measure",
        "mean ± sd over seeds",
        "seeds",
        f"paired difference to {found['reference']}, 95 % interval of t",
    )
    return f"The recipe, as `{_plain(found['name'])}` of a comparison:\n\n{Table(columns, tuple(rows)).markdown()}"


def _again(leaving: Outgoing, card: Card) -> str:
    recipe, result = leaving.recipe, card.result
    use = [
        f"--use {shlex.quote(Path(origin.called).name)}" for origin in recipe.words.used_in(recipe.to_yaml()).origins
    ]
    roots = {
        "root": recipe.data.root if _of_hub(recipe) is None else None,
        "unlabeled_root": recipe.data.unlabeled_root,
    }
    root = [f"data.{key}=DIR" for key, place in roots.items() if place is not None]
    if recipe.data.source == FROM_PYTHON or leaving.run.networks():
        given = [
            *(["data=…"] if recipe.data.source == FROM_PYTHON else []),
            *(["backbone=…"] if leaving.run.networks() else []),
        ]
        told = f'```python\nmanyview.train(manyview.load_recipe("{RECIPE}"), "OUT", {", ".join(given)})\n```'
    else:
        told = f"```sh\n{' '.join(['manyview train', RECIPE, *root, *use, '--out OUT'])}\n```"
    lines = [f"`{RECIPE}`, which lies here, says all of it:", told, f"and then `{card.command}`."]
    versions = ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items())
    made = {
        "seed": recipe.seed,
        "epochs": result.get("epochs"),
        "seconds of training": result.get("seconds"),
        "device": result.get("device"),
        "commit of manyview": result.get("git"),
        "versions": versions or None,
    }
    lines.append("\n".join(f"- {name}: {_plain(value)}" for name, value in made.items() if value is not None))
    return "## Made by\n\n" + "\n\n".join(lines)


def _plain(text: object) -> str:
    """Text that is no markup, in one line."""
    return shown(text).replace("`", "'").replace("<", "&lt;")


__all__ = ["RECIPE", "Card", "comparison_of", "model_card", "shareable"]
