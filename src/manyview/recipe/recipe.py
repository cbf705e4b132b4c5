"""Recipes: frozen, typed, strict. Loading one checks all that can be checked before an image is read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from manyview.branches.branch import LOGITS, BranchSpec, parse_branches
from manyview.branches.ema import Ema
from manyview.branches.heads import HEADS
from manyview.branches.initial import INITS
from manyview.data.decode import MOST_CHANNELS, Stored
from manyview.data.sources import SOURCES, bind_source
from manyview.errors import ManyviewError, RecipeError, reason, unknown
from manyview.evaluate.protocols import PROTOCOLS, parse_protocols
from manyview.foundation.grammar import Call, Name, parse_call, parse_pipeline, parse_value, with_argument
from manyview.optimize.optimize import SCHEDULES, check_training, parts
from manyview.recipe.cures import first_line, in_full, places
from manyview.recipe.lr_of_batch import TRIAL, drop_replaced_per, tell_of_smaller_batches
from manyview.recipe.readouts import RelationPlan, plan_relations, unique_name
from manyview.recipe.rehearse import rehearse
from manyview.recipe.strict_yaml import read_yaml
from manyview.recipe.texts import argument_kind, keep_texts, text_kind, text_value
from manyview.recipe.titles import leaves, true_title
from manyview.relations import LEARN_FROM_LABELS, RELATIONS
from manyview.views.ops import OPS
from manyview.views.ops.op import COUNTABLE
from manyview.views.view import TEST, PlannedView, ViewSpec, plan_views, with_sources


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
    8-bit RGB. Either way they stand upright, and colour profiles are not applied. reduced: JPEGs are decoded at each
    reading, no larger than their crops need, faster but not to the same grey levels (see `data.decode`). memory: GiB
    that the decoded images of a split may take; where they fit, they stay in memory. render: where views are made (see
    `data.render`): by the loader's "workers"; by threads from images in "memory", ahead of the step; or on the
    "device"; "auto" chooses, and the run says why.
    """

    source: str = "folder"
    root: str | None = None
    download: bool = False
    val_fraction: float = Field(0.1, ge=0, lt=1)
    labels_per_class: int | None = Field(None, ge=1, le=COUNTABLE)
    imbalance: float | None = Field(None, ge=1)
    limit: int | None = Field(None, ge=1, le=COUNTABLE)
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
    evaluate_every: epochs. checkpoint_every: "1 epoch" or "500 steps". log_every: steps.
    """

    epochs: int | None = Field(None, ge=1, le=COUNTABLE)
    steps: int | None = Field(None, ge=1, le=COUNTABLE)
    batch_size: int = Field(128, ge=1, le=COUNTABLE)
    optimizer: str = "sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)"
    schedule: str = "cosine()"
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = Field(1, ge=1, le=COUNTABLE)
    clip: float | None = Field(None, gt=0)
    compile: bool = False
    ema: float | None = Field(None, gt=0, lt=1)
    sync_batchnorm: bool = False
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"
    keep: Literal["best", "last"] | None = None
    evaluate_every: int = Field(1, ge=1, le=COUNTABLE)
    checkpoint_every: str = "1 epoch"
    log_every: int = Field(10, ge=1, le=COUNTABLE)

    @field_validator("optimizer", "schedule")
    @classmethod
    def _is_call(cls, text: str, field: ValidationInfo) -> str:
        parse_call(text, f"train.{field.field_name}")
        return text


class Recipe(_Frozen):
    """A whole recipe. `views`, `branches` and `relations` are kept as written; their plans are properties."""

    title: str = ""
    seed: int = Field(0, ge=0, le=2**63 - 1, strict=True)
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
        text = _read_file(path)
    else:
        known = _packaged()
        if str(name) not in known:
            raise RecipeError(unknown("recipe", str(name), known) + _beside(path))
        text = known[str(name)].read_text(encoding="utf-8")
    try:
        return parse_recipe(text, *overrides, name=path.stem)
    except ManyviewError as error:
        raise type(error)(f"recipe {name}: {error}") from None


def _read_file(path: Path) -> str:
    if not path.is_file():
        packaged = path.stem in packaged_recipes()
        meant = f"; the packaged recipe is called {path.stem}, without ending and folder" if packaged else _beside(path)
        raise RecipeError(f"no recipe file {path}{meant}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe file {path} cannot be read: byte {error.start} is not UTF-8 text") from None
    except OSError as error:
        raise RecipeError(f"recipe file {path} cannot be read: {reason(error)}") from None


def _beside(path: Path) -> str:
    """What lies where a recipe was looked for, and how it would be one."""
    if (path / "recipe.yaml").is_file():
        return f"; {path} is a run, and its recipe is {path / 'recipe.yaml'}"
    if path.is_dir():
        return f"; {path} is a folder, and a recipe is a file, NAME.yaml"
    return f"; the file {path} would be one if it were called {path}.yaml" if path.is_file() else ""


def packaged_recipes() -> dict[str, str]:
    """Name -> text of the recipes that come with manyview, in alphabetical order."""
    return {name: file.read_text(encoding="utf-8") for name, file in _packaged().items()}


def _packaged() -> dict[str, Any]:
    files = sorted((resources.files("manyview") / "recipes").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def parse_recipe(text: str, *overrides: str, name: str | None = None) -> Recipe:
    """A recipe from its YAML text. Raises RecipeError.

    name: how it is called where overrides make its title untrue, see `titles`; without one the title stands.
    """
    raw = read_yaml(text)
    if not isinstance(raw, dict):
        raise RecipeError("expected a mapping with views, branches, relations and train")
    keep_texts(raw, text, Recipe)
    keys = [key for override in overrides for key in _given(override)]
    _drop_replaced_length(raw, keys)
    drop_replaced_per(raw, keys)
    size = raw["train"].get("batch_size", Train().batch_size) if isinstance(raw.get("train"), dict) else None
    changed: dict[str, str] = {}
    for override in overrides:
        before = copy.deepcopy(raw)
        apply_override(raw, override)
        if raw != before:
            changed |= _given(override)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(first_line(error, raw, _models())) from None
    _check(recipe)
    if recipe.train.steps is None or recipe.train.steps >= TRIAL:
        tell_of_smaller_batches(size, recipe.train.batch_size, recipe.train.optimizer, keys)
    title = None if name is None or "title" in keys else true_title(name, changed, recipe.data.source)
    return recipe if title is None else recipe.model_copy(update={"title": title})


def _given(override: str) -> dict[str, str]:
    """Key -> value of all that one override gives; nothing where it cannot be read, which `apply_override` tells."""
    key, _, text = override.partition("=")
    try:
        return leaves(key.strip(), read_yaml(text), text.strip())
    except RecipeError:
        return {key.strip(): text.strip()}


def data_of(overrides: Sequence[str]) -> tuple[Data, int]:
    """Data, and the seed, from `data.…=` and `seed=` alone, where there is no recipe. Raises RecipeError."""
    raw: dict[str, Any] = {"data": {}}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.partition(".")[0] not in ("data", "seed"):
            cure = in_full(key.strip(), value, places({}, {"data": Data.model_fields}))
            meant = f"; {cure}" if "data." in cure else ""
            raise RecipeError(f"override {override!r}: what may be said here begins with data., or is seed{meant}")
        apply_override(raw, override)
    try:
        found = _DataAlone.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(first_line(error, raw, _models())) from None
    bind_source(found.data.call)
    return found.data, found.seed


def _models() -> dict[str, type[BaseModel]]:
    return {"data": Data, "train": Train, "views": ViewSpec, "": Recipe}


def _drop_replaced_length(raw: dict[str, Any], keys: Sequence[str]) -> None:
    """An override of `train.epochs` takes the place of the recipe's own `steps`, and the other way round."""
    for given, other in (("epochs", "steps"), ("steps", "epochs")):
        if f"train.{given}" in keys and f"train.{other}" not in keys and isinstance(raw.get("train"), dict):
            raw["train"].pop(other, None)


def _check(recipe: Recipe) -> None:
    rehearse(recipe.branch_plan, recipe.relation_plan, recipe.view_plan)
    bind_source(recipe.data.call)
    heads = {name: [*spec.heads, LOGITS] for name, spec in recipe.branch_plan.items() if spec.ema is None}
    check_training(recipe.train, parts(heads, [plan.name for plan in recipe.relation_plan]))
    parse_protocols(recipe.evaluate)


# ----------------------------------------------------------------------------------------------------------- overrides


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets one `key=value` in a recipe as read from YAML, in place; a mapping is merged into what is there.

    Raises RecipeError naming the override.
    """
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise RecipeError(f"override {override!r}: write key=value, as in train.epochs=10")
    try:
        _write_out_default(raw, path)
        kind = text_kind(Recipe, path)
        value = text_value(text, kind) if kind else read_yaml(text) if text.strip() else None
        keep_texts(value, text, Recipe, path)
        _set(raw, path, value, text)
    except RecipeError as error:
        raise RecipeError(f"override {override!r}: {error}") from None


def _write_out_default(raw: dict[str, Any], path: list[str]) -> None:
    """Lets `train.optimizer.lr=0.05` reach into a call that the recipe leaves to its default."""
    defaults = {"data": vars(Data()), "train": vars(Train())}.get(path[0], {})
    if len(path) > 2 and isinstance(defaults.get(path[1]), str):
        section = raw.setdefault(path[0], {})
        if isinstance(section, dict):
            section.setdefault(path[1], defaults[path[1]])


def _set(container: Any, path: list[str], value: Any, text: str) -> None:
    head, rest = path[0], path[1:]
    position: Any = head
    if isinstance(container, list):
        position = int(head) if head.isdecimal() else _position(container, head)
        if position >= len(container):
            raise RecipeError(f"there is no line {position}; lines: 0 to {len(container) - 1}")
    elif not isinstance(container, dict):
        raise RecipeError(f"there is no '{head}' in {container!r}")
    if not rest:
        _put(container, position, value)
        return
    if isinstance(container, dict) and position not in container:
        if len(rest) > 1:
            raise RecipeError(unknown("key", head, map(str, container)))
        container[position] = {}
    inner = container[position]
    if isinstance(inner, str):
        container[position] = _set_in_call(inner, rest, value, head, text)
    else:
        _set(inner, rest, value, text)


INSTEAD = {
    "epochs": ("steps",),
    "steps": ("epochs",),
    "from": ("like", "same"),
    "like": ("from", "make", "orbit", "count"),
}


def _put(container: Any, position: Any, value: Any) -> None:
    """Sets a value; of a mapping it is given, those keys alone, and takes away what cannot stand beside them."""
    present = container.get(position) if isinstance(container, dict) else container[position]
    if not (value and isinstance(value, dict) and isinstance(present, dict)):
        container[position] = value
        return
    for gone in {other for key in value for other in INSTEAD.get(key, ())} - set(value):
        present.pop(gone, None)
    for key, inner in value.items():
        _put(present, key, inner)


def _position(lines: list[Any], name: str) -> int:
    """The line of a list of calls that has this name; `name_2` is the second."""
    seen: list[str] = []
    for number, line in enumerate(lines):
        seen.append(unique_name(parse_call(line, f"line {number}").name, seen))
        if seen[-1] == name:
            return number
    raise RecipeError(unknown("line", name, seen))


def _set_in_call(written: str, path: list[str], value: Any, where: str, text: str) -> str:
    calls = parse_pipeline(written, where)
    if len(path) == 1 and len(calls) == 1:
        at = 0
    elif len(path) == 2:
        names = [call.name for call in calls]
        if path[0] not in names:
            raise RecipeError(unknown("call", path[0], names))
        at = names.index(path[0])
    else:
        raise RecipeError(f"'{written}' holds calls; write {where}.<call>.<argument>=value")
    call, key = calls[at], path[-1]
    if kind := argument_kind(_factory(call.name), key):
        value = text_value(text, kind)
    elif isinstance(value, str) and isinstance(call.kwargs.get(key), Name):
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
    sources = {name: partial(source, None) for name, source in SOURCES.items()}  # the folder is no argument there
    known: dict[str, Any] = {"ema": Ema, **RELATIONS, **OPS, **INITS, **SCHEDULES, **PROTOCOLS, **sources}
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
