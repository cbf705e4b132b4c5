"""What would be right instead, written out in full: `epochs=3` belongs to `train.epochs=3`."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ValidationError

from manyview.branches.spec import SETTINGS
from manyview.data.sources import SOURCES
from manyview.errors import ManyviewError, nearest, unknown
from manyview.foundation.grammar import parse_call
from manyview.optimize.optimize import SCHEDULES, Rules
from manyview.optimize.sam import Sharpness
from manyview.recipe.strict_yaml import read_yaml

OPTIMIZER = (
    "lr",
    "weight_decay",
    "momentum",
    "nesterov",
    *(rule.name for rule in fields(Rules)),
    *(each.name for each in fields(Sharpness)[1:]),
)
OURS = ("optimizer", "clock")  # arguments of a schedule that no recipe gives


def places(raw: Mapping[str, Any], sections: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Name -> where a recipe has it, dotted. raw: the recipe as it was read. sections: the keys of each section.

    The sections' own keys; arguments of the optimiser and of schedules; the names of branches, views and relations;
    and what stands in a branch, where there is one alone.
    """
    schedules = {name for each in SCHEDULES.values() for name in inspect.signature(each).parameters if name not in OURS}
    found = {name: f"train.optimizer.{name}" for name in OPTIMIZER}
    found |= {name: f"train.schedule.{name}" for name in schedules}
    for section in ("views", "branches"):
        written = raw.get(section)
        found |= {str(name): f"{section}.{name}" for name in written} if isinstance(written, Mapping) else {}
    branches = raw.get("branches")
    if isinstance(branches, Mapping) and len(branches) == 1:
        ((name, only),) = branches.items()
        inside = [*SETTINGS, *only] if isinstance(only, Mapping) else SETTINGS
        found |= {str(key): f"branches.{name}.{key}" for key in inside}
    relations = raw.get("relations")
    found |= {name: f"relations.{name}" for name in _names(relations if isinstance(relations, list) else [])}
    for section, keys in sections.items():
        found |= {key: f"{section}.{key}" if section else key for key in keys}
    return found


def in_full(key: str, value: Any, known: Mapping[str, str]) -> str:
    """Advice for a key that stands where there is none of its name; "" where none is known.

    known: as `places` gives it.
    """
    if key == "per" and type(value) is int:  # the optimiser's; the schedule's is a word
        return f"write train.optimizer.per={value}"
    key = key.replace("-", "_")
    if key in known:
        return f"write {' '.join(assigned(known[key], value))}"
    ranked = [name for name in nearest(key, known) if name.startswith(key) and len(key) > 2]
    return f"did you mean {' '.join(assigned(known[ranked[0]], value))}?" if ranked else ""


def assigned(place: str, value: Any) -> list[str]:
    """`key=value` as words of a command line, one for each leaf of a mapping."""
    if isinstance(value, Mapping) and value:
        return [word for key, inner in value.items() for word in assigned(f"{place}.{key}", inner)]
    words = {"True": "true", "False": "false", "None": "null"}
    return [shlex.quote(f"{place}={words.get(str(value), value)}")]


# pydantic's words are Python's and change with its version; a recipe's author writes YAML
EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping, key: value",
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "greater_than": "expected a number above {gt:g}",
    "greater_than_equal": "expected at least {ge:g}",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than": "expected a number below {lt:g}",
    "less_than_equal": "expected at most {le:g}",
    "literal_error": "expected {expected}",
    "model_type": "expected a mapping, key: value",
    "string_type": "expected text",
    "tuple_type": "expected a list, [one, two]",
}


def first_line(
    error: ValidationError,
    raw: Mapping[str, Any],
    models: Mapping[str, type[BaseModel]],
    sources: Collection[str] = tuple(SOURCES),
) -> str:
    """What is wrong with a recipe first, where, and what would be right.

    raw: the recipe as it was read. models: of each section, and of the whole recipe under "".
    sources: of data, by name.
    """
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    place, got = ".".join(path), first.get("input")
    if first["type"] == "extra_forbidden":
        if path[-1].count("(") != path[-1].count(")"):
            return f"{place.removesuffix('.' + path[-1])}: inside {{ }} YAML cuts a call at its commas; quote the call"
        model = models.get(path[0] if len(path) > 1 else "", models[""])
        keys = [field.alias or key for key, field in model.model_fields.items()]
        known = places(raw, {name: each.model_fields for name, each in models.items() if name != "views"})
        if len(path) > 1:  # inside a section the nearest of its own keys is meant, unless the key is another's
            known = {key: where for key, where in known.items() if key == path[-1]}
        cure = in_full(path[-1], got, known) if len(path) < 3 else ""
        return f"{place}: " + (f"unknown key '{path[-1]}'; {cure}" if cure else unknown("key", path[-1], keys))
    if first["type"] == "missing":
        return f"{place}: missing; a recipe has views, branches and relations"
    wanted = EXPECTED.get(first["type"], "expected another kind of value").format(**first.get("ctx", {}))
    return f"{place}: {wanted}, got {got!r}{_meant(place, got, first['type'], sources)}"


def _meant(place: str, got: Any, wrong: str, sources: Collection[str]) -> str:
    """How a value that is refused would be right, where that can be told."""
    if place == "data" and isinstance(got, str):
        given = {"source": got} if got.partition("(")[0] in sources else {"source": "folder", "root": got}
        return f"; write {' '.join(assigned('data', given))}"
    if wrong == "tuple_type" and isinstance(got, str):
        return f"; write {shlex.quote(f'{place}=[{got}]')}"
    if wrong == "string_type" and isinstance(got, dict) and got:
        return f"; write {' '.join(assigned(place, got))}"
    if wrong in ("int_type", "float_type") and isinstance(got, str) and isinstance(read_yaml(got), int | float):
        return f"; drop the quotes: {place}={got}"
    return ""


def _names(lines: list[Any]) -> list[str]:
    names = []
    for line in lines:
        try:
            names.append(parse_call(line, "").name)
        except ManyviewError:
            continue
    return names
