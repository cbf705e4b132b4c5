"""Recipes: frozen, typed, strict. Loading one checks all that can be checked before an image is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from manyview.augment import OPS
from manyview.branches import BranchSpec, parse_branches
from manyview.data.decode import MOST_CHANNELS, Stored
from manyview.data.sources import bind_source
from manyview.ema import Ema
from manyview.errors import ManyviewError, RecipeError, unknown
from manyview.evaluate.protocols import PROTOCOLS, parse_protocols
from manyview.grammar import Call, Name, parse_call, parse_pipeline, parse_value, with_argument
from manyview.heads import HEADS
from manyview.lr_of_batch import TRIAL, drop_replaced_per, tell_of_smaller_batches
from manyview.optimize import SCHEDULES, check_training
from manyview.readouts import RelationPlan, plan_relations, unique_name
from manyview.relations import LEARN_FROM_LABELS, RELATIONS
from manyview.views import TEST, PlannedView, ViewSpec, plan_views, with_sources


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Data(_Frozen, strict=True):
    """Where images come from and which of them are used; every choice is a function of the recipe's seed.

    source: digits, folder, hf, torchvision, or a data set by name (cifar10, …); images may be without labels, as of
    folder(labels=None) or stl10(split='train+unlabeled'). root: its folder. val_fraction: the share of training images,
    of the labelled where there are any, held out to choose by, where the source has no validation set.
    labels_per_class, imbalance (largest class / smallest, exponential; both leave images without labels alone), limit:
    which training images remain. on_bad_image: raise, or skip and list; in training another image takes its place.
    channels: images are taken as they are stored, 8-bit or deeper, and must have this many channels; null makes them
    8-bit RGB. reduced: JPEGs are decoded at each reading, no larger than their crops need, faster but not to the same
    grey levels (see `data.decode`). memory: GiB that the decoded images of a split may take; where they fit, they stay
    in memory. render: where views are made (see `data.render`): by the loader's "workers"; by threads from images in
    "memory", ahead of the step; or on the "device"; "auto" chooses, and the run says why.
    """

    source: str = "folder"
    root: str | None = None
    download: bool = False
    val_fraction: float = Field(0.1, ge=0, lt=1)
    labels_per_class: int | None = Field(None, ge=1)
    imbalance: float | None = Field(None, ge=1)
    limit: int | None = Field(None, ge=1)
    on_bad_image: Literal["raise", "skip"] = "raise"
    channels: int | None = Field(None, ge=1, le=MOST_CHANNELS)
    reduced: bool = False
    memory: float = Field(1.0, ge=0)
    workers: int = Field(0, ge=0)
    render: Literal["auto", "workers", "memory", "device"] = "auto"

    @property
    def call(self) -> Call:
        """The source, parsed."""
        return parse_call(self.source, "data.source")

    @property
    def stored(self) -> Stored | None:
        """How images are taken, see `data.decode`."""
        return None if self.channels is None else Stored(self.channels)


class Train(_Frozen, strict=True):
    """How long, how fast, with what. epochs or steps, not both. batch_size: images an update, over all processes;
    an epoch is as many whole batches as the images fill.

    accumulate: parts a batch is cut into to save memory. clip: largest gradient norm. ema: decay of the averaged
    weights that are evaluated. sync_batchnorm: BatchNorm's moments are those of all processes' images together, on
    GPUs. on_collapse: what happens when the embeddings of a recipe without a classifier collapse, or a classifier gives
    all images one answer: warn, stop or ignore.
    keep: which weights are measured and taken out in the end, the best on validation images or the last. By default the
    best; of a recipe that learns nothing from labels the last, for to choose by them is to learn from them.
    evaluate_every: epochs. checkpoint_every: "1 epochs" or "500 steps". log_every: steps.
    """

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(128, ge=1)
    optimizer: str = "sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)"
    schedule: str = "cosine()"
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = Field(1, ge=1)
    clip: float | None = Field(None, gt=0)
    compile: bool = False
    ema: float | None = Field(None, gt=0, lt=1)
    sync_batchnorm: bool = False
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"
    keep: Literal["best", "last"] | None = None
    evaluate_every: int = Field(1, ge=1)
    checkpoint_every: str = "1 epochs"
    log_every: int = Field(10, ge=1)

    @field_validator("optimizer", "schedule")
    @classmethod
    def _is_call(cls, text: str, field: ValidationInfo) -> str:
        parse_call(text, f"train.{field.field_name}")
        return text


class Recipe(_Frozen):
    """A whole recipe. `views`, `branches` and `relations` are kept as written; their plans are properties."""

    title: str = ""
    seed: int = Field(0, ge=0, strict=True)
    data: Data = Data()
    views: dict[str, ViewSpec]
    branches: dict[str, Any]
    relations: tuple[str, ...]
    train: Train = Train()
    evaluate: tuple[str, ...] = ()

    @cached_property
    def view_plan(self) -> dict[str, PlannedView]:
        """Views in order, with their ops built."""
        return plan_views(self.views)

    @cached_property
    def train_views(self) -> dict[str, PlannedView]:
        """The views of training: all but that of evaluation."""
        return {name: view for name, view in self.view_plan.items() if name != TEST}

    @cached_property
    def seen_views(self) -> dict[str, PlannedView]:
        """The training views that some relation reads, and those they derive from: what is rendered."""
        read = {view for relation in self.relation_plan for read in relation.all_reads for view in read.views}
        return {name: self.train_views[name] for name in with_sources(self.train_views, read)}

    @cached_property
    def branch_plan(self) -> dict[str, BranchSpec]:
        """Branches, parsed."""
        return parse_branches(self.branches, self.data.channels or 3)

    @cached_property
    def relation_plan(self) -> list[RelationPlan]:
        """Relations, parsed and checked against views and branches."""
        return plan_relations(self.relations, self.branch_plan, self.view_plan)

    @property
    def learns_from_labels(self) -> list[str]:
        """The relations that need a label for every training image, as they are written."""
        return [plan.text for plan in self.relation_plan if plan.factory in LEARN_FROM_LABELS]

    @property
    def keeps_best(self) -> bool:
        """Whether validation images choose the weights, see `Train.keep`."""
        return self.train.keep == "best" or (self.train.keep is None and bool(self.learns_from_labels))

    def to_yaml(self) -> str:
        """The recipe with every default written out; loading it gives an equal recipe."""
        raw = self.model_dump(mode="json", by_alias=True)
        raw["views"] = {
            name: spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for name, spec in self.views.items()
        }
        return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)


class _DataAlone(_Frozen):
    data: Data
    seed: int = Field(0, ge=0)


def load_recipe(name: str | Path, *overrides: str) -> Recipe:
    """A packaged recipe by name, or a YAML file by path, with `key=value` overrides.

    Keys are dotted and reach into calls: `train.epochs=10`, `train.optimizer.lr=0.05`, `relations.similarity.weight=2`,
    `views.a.make.randaugment.m=9`. Raises RecipeError, with one line, for all that is wrong.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe file {path} cannot be read: {error}") from None
    else:
        known = packaged_recipes()
        if str(name) not in known:
            raise RecipeError(unknown("recipe", str(name), known))
        text = known[str(name)]
    try:
        return parse_recipe(text, *overrides)
    except ManyviewError as error:
        raise type(error)(f"recipe {name}: {error}") from None


def packaged_recipes() -> dict[str, str]:
    """Name -> text of the recipes that come with manyview, in alphabetical order."""
    folder = resources.files("manyview") / "recipes"
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): (folder / name).read_text(encoding="utf-8") for name in files}


def parse_recipe(text: str, *overrides: str) -> Recipe:
    """A recipe from its YAML text. Raises RecipeError."""
    raw = read_yaml(text)
    if not isinstance(raw, dict):
        raise RecipeError("expected a mapping with views, branches, relations and train")
    _drop_replaced_length(raw, overrides)
    drop_replaced_per(raw, overrides)
    size = raw["train"].get("batch_size", Train().batch_size) if isinstance(raw.get("train"), dict) else None
    for override in overrides:
        apply_override(raw, override)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(_first_line(error)) from None
    _check(recipe)
    if recipe.train.steps is None or recipe.train.steps >= TRIAL:
        tell_of_smaller_batches(size, recipe.train.batch_size, recipe.train.optimizer, overrides)
    return recipe


def data_of(overrides: Sequence[str]) -> tuple[Data, int]:
    """Data, and the seed, from `data.…=` and `seed=` alone, where there is no recipe. Raises RecipeError."""
    raw: dict[str, Any] = {"data": {}}
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] not in ("data", "seed"):
            raise RecipeError(f"override {override!r}: what may be said here begins with data., or is seed")
        apply_override(raw, override)
    try:
        found = _DataAlone.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(_first_line(error)) from None
    bind_source(found.data.call)
    return found.data, found.seed


def _drop_replaced_length(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """An override of `train.epochs` takes the place of the recipe's own `steps`, and the other way round."""
    keys = [override.partition("=")[0].strip() for override in overrides]
    for given, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"train.{given}" in keys and f"train.{other}" not in keys and isinstance(raw.get("train"), dict):
            raw["train"].pop(other, None)


def _check(recipe: Recipe) -> None:
    _ = recipe.view_plan, recipe.branch_plan, recipe.relation_plan
    bind_source(recipe.data.call)
    check_training(recipe.train)
    parse_protocols(recipe.evaluate)


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    place = ".".join(path)
    if first["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"data": Data, "train": Train, "views": ViewSpec}
        model = models.get(path[0], Recipe) if len(path) > 1 else Recipe
        keys = [field.alias or key for key, field in model.model_fields.items()]
        if path[-1].count("(") != path[-1].count(")"):
            return f"{place.removesuffix('.' + path[-1])}: inside {{ }} YAML cuts a call at its commas; quote the call"
        return f"{place}: {unknown('key', path[-1], keys)}"
    if first["type"] == "missing":
        return f"{place}: missing; a recipe has views, branches and relations"
    wanted = EXPECTED.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:]
    return f"{place}: {wanted}, got {first.get('input')!r}"


# pydantic's words for types are Python's, a recipe's author writes YAML
EXPECTED = {
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping, key: value",
    "float_type": "expected a number",
    "int_type": "expected a whole number",
    "model_type": "expected a mapping, key: value",
    "string_type": "expected text",
    "tuple_type": "expected a list, [one, two]",
}


# ---------------------------------------------------------------------------------------------------------------- YAML


class _Strict(yaml.SafeLoader):
    """PyYAML with 1e-5 a number and duplicate keys refused; there is no other way to extend its loader."""


_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key, str):
            raise RecipeError(f"{line}: key {key!r} is not text; quote it if it was meant as a name")
        if key in mapping:
            raise RecipeError(f"{line}: key {key!r} stands twice; keep one")
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(text: str) -> Any:
    """Strict YAML: duplicate keys refused, `1e-5` a number. Raises RecipeError with the line."""
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise RecipeError(f"{line}not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: a date such as 2020-13-01
        raise RecipeError(f"not YAML: {str(error).splitlines()[0]}") from None


# ----------------------------------------------------------------------------------------------------------- overrides


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets one `key=value` in a recipe as read from YAML, in place. Raises RecipeError naming the override."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RecipeError(f"override {override!r}: write key=value, as in train.epochs=10")
    try:
        _write_out_default(raw, path)
        _set(raw, path, read_yaml(text) if text.strip() else None)
    except RecipeError as error:
        raise RecipeError(f"override {override!r}: {error}") from None


def _write_out_default(raw: dict[str, Any], path: list[str]) -> None:
    """Lets `train.optimizer.lr=0.05` reach into a call that the recipe leaves to its default."""
    defaults = {"data": vars(Data()), "train": vars(Train())}.get(path[0], {})
    if len(path) > 2 and isinstance(defaults.get(path[1]), str):
        section = raw.setdefault(path[0], {})
        if isinstance(section, dict):
            section.setdefault(path[1], defaults[path[1]])


def _set(container: Any, path: list[str], value: Any) -> None:
    head, rest = path[0], path[1:]
    position: Any = head
    if isinstance(container, list):
        position = int(head) if head.isdecimal() else _position(container, head)
        if position >= len(container):
            raise RecipeError(f"there is no line {position}; lines: 0 to {len(container) - 1}")
    elif not isinstance(container, dict):
        raise RecipeError(f"there is no '{head}' in {container!r}")
    if not rest:
        container[position] = value
        return
    if isinstance(container, dict) and position not in container:
        if len(rest) > 1:
            raise RecipeError(unknown("key", head, map(str, container)))
        container[position] = {}
    inner = container[position]
    if isinstance(inner, str):
        container[position] = _set_in_call(inner, rest, value, head)
    else:
        _set(inner, rest, value)


def _position(lines: list[Any], name: str) -> int:
    """The line of a list of calls that has this name; `name_2` is the second."""
    seen: list[str] = []
    for number, line in enumerate(lines):
        seen.append(unique_name(parse_call(line, f"line {number}").name, seen))
        if seen[-1] == name:
            return number
    raise RecipeError(unknown("line", name, seen))


def _set_in_call(text: str, path: list[str], value: Any, where: str) -> str:
    calls = parse_pipeline(text, where)
    if len(path) == 1 and len(calls) == 1:
        at = 0
    elif len(path) == 2:
        names = [call.name for call in calls]
        if path[0] not in names:
            raise RecipeError(unknown("call", path[0], names))
        at = names.index(path[0])
    else:
        raise RecipeError(f"'{text}' holds calls; write {where}.<call>.<argument>=value")
    call, key = calls[at], path[-1]
    if isinstance(value, str) and isinstance(call.kwargs.get(key), Name):
        value = Name(value)
    elif isinstance(value, str) and "(" in value:
        value = parse_value(value, where)
    if isinstance(value, list):
        value = tuple(value)
    if call.name in HEADS and call.args:  # the readout stands before the arguments of its builder
        inner = with_argument(Call(call.name, call.args[1:], call.kwargs), key, value, HEADS[call.name])
        calls[at] = Call(call.name, (call.args[0], *inner.args), inner.kwargs)
    else:
        calls[at] = with_argument(call, key, value, _factory(call.name))
    return " | ".join(map(str, calls))


def _factory(name: str) -> Any:
    """What a call builds, for the names of its positions; None where all arguments have names."""
    known: dict[str, Any] = {"ema": Ema, **RELATIONS, **OPS, **SCHEDULES, **PROTOCOLS}
    return known.get(name)


def difference(ours: Recipe, theirs: Recipe, ignore: Mapping[str, Any] | None = None) -> list[str]:
    """Lines `key: ours -> theirs` for all that differs between two recipes, but for keys in `ignore`."""
    left, right = _flat(ours.model_dump(mode="json")), _flat(theirs.model_dump(mode="json"))
    keys = [key for key in {**left, **right} if key not in (ignore or {})]
    return [f"{key}: {left.get(key)!r} -> {right.get(key)!r}" for key in keys if left.get(key) != right.get(key)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        flat: dict[str, Any] = {}
        for key, inner in items:
            flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}


__all__ = ["Data", "Recipe", "Train", "load_recipe", "packaged_recipes", "parse_recipe"]
