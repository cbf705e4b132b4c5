"""`key=value`, set in a recipe as it was read, however deep: in sections, lists, and inside calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from manyview.branches.ema import Ema
from manyview.branches.frozen import Frozen
from manyview.branches.heads import HEADS
from manyview.branches.initial import INITS
from manyview.branches.origin import PLACES
from manyview.data.sources import SOURCES
from manyview.errors import RecipeError, unknown
from manyview.foundation.grammar import Call, Name, parse_call, parse_pipeline, parse_value, with_argument
from manyview.foundation.vocabulary import NONE, Words
from manyview.optimize.optimize import SCHEDULES
from manyview.optimize.wrapping import WRAPPERS, around, inner
from manyview.recipe.readouts import unique_name
from manyview.recipe.recipe import Recipe
from manyview.recipe.settings import Data, Train
from manyview.recipe.strict_yaml import read_yaml
from manyview.recipe.texts import argument_kind, keep_texts, text_kind, text_value
from manyview.relations import RELATIONS
from manyview.views.ops import OPS

Factory = Callable[..., Any]


def factories(section: str, words: Words, protocols: Mapping[str, Factory]) -> Mapping[str, Factory]:
    """What the calls of a section build, for the names of their positions; none where all arguments have names."""
    if section == "data":  # the folder is no argument there
        return {name: partial(source, None) for name, source in words.beside("SOURCES", SOURCES).items()}
    known: Mapping[str, Mapping[str, Factory]] = {
        "views": words.beside("OPS", OPS),
        "branches": {"ema": Ema, "frozen": Frozen, **INITS},
        "relations": words.beside("RELATIONS", RELATIONS),
        "train": {**SCHEDULES, **WRAPPERS},
        "evaluate": words.beside("PROTOCOLS", protocols),
    }
    return known.get(section, {})


@dataclass(frozen=True)
class _Given:
    """What an override gives: its value, the text of it, what calls build, and heads, which first name a readout."""

    value: Any
    text: str
    calls: Mapping[str, Factory]
    heads: Mapping[str, Factory]


def apply_override(
    raw: dict[str, Any], override: str, words: Words = NONE, protocols: Mapping[str, Factory] = MappingProxyType({})
) -> None:
    """Sets one `key=value` in a recipe as read from YAML, in place; a mapping is merged into what is there.

    words: of one's own. protocols: the packaged ones, which a recipe does not know. Raises RecipeError naming the
    override.
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
        heads = words.beside("HEADS", HEADS) if path[0] == "branches" else {}
        _set(raw, path, _Given(value, text, factories(path[0], words, protocols), heads))
    except RecipeError as error:
        raise RecipeError(f"override {override!r}: {error}") from None


def _write_out_default(raw: dict[str, Any], path: list[str]) -> None:
    """Lets `train.optimizer.lr=0.05` reach into a call that the recipe leaves to its default."""
    defaults = {"data": vars(Data()), "train": vars(Train())}.get(path[0], {})
    if len(path) > 2 and isinstance(defaults.get(path[1]), str):
        section = raw.setdefault(path[0], {})
        if isinstance(section, dict):
            section.setdefault(path[1], defaults[path[1]])


def _set(container: Any, path: list[str], given: _Given) -> None:
    head, rest = path[0], path[1:]
    position: Any = head
    if isinstance(container, list):
        position = int(head) if head.isdecimal() else _position(container, head)
        if position >= len(container):
            raise RecipeError(f"there is no line {position}; lines: 0 to {len(container) - 1}")
    elif not isinstance(container, dict):
        raise RecipeError(f"there is no '{head}' in {container!r}")
    if not rest:
        _put(container, position, given.value)
        return
    if isinstance(container, dict) and position not in container:
        if len(rest) > 1:
            raise RecipeError(unknown("key", head, map(str, container)))
        container[position] = {}
    inner = container[position]
    if isinstance(inner, str):
        container[position] = _set_in_call(inner, rest, given, head)
    else:
        _set(inner, rest, given)


INSTEAD = {
    "epochs": ("steps",),
    "steps": ("epochs",),
    "from": ("like", "same", "anti"),
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
    for key, each in value.items():
        _put(present, key, each)


def _position(lines: list[Any], name: str) -> int:
    """The line of a list of calls that has this name; `name_2` is the second."""
    seen: list[str] = []
    for number, line in enumerate(lines):
        seen.append(unique_name(parse_call(line, f"line {number}").name, seen))
        if seen[-1] == name:
            return number
    raise RecipeError(unknown("line", name, seen))


def _set_in_call(written: str, path: list[str], given: _Given, where: str) -> str:
    calls = parse_pipeline(written, where)
    within = [inner(call) for call in calls]  # of most calls themselves
    if len(path) == 1 and len(calls) == 1:
        at, call = 0, within[0] if path[0] not in _own(calls[0]) else calls[0]
    elif len(path) == 2:
        places = {call.name: (at, call) for both in (within, calls) for at, call in reversed([*enumerate(both)])}
        if path[0] not in places:
            raise RecipeError(unknown("call", path[0], places))
        at, call = places[path[0]]
    else:
        raise RecipeError(f"'{written}' holds calls; write {where}.<call>.<argument>=value")
    changed = _with_value(call, path[-1], given, where)
    calls[at] = changed if call is calls[at] else around(calls[at], changed)
    return " | ".join(map(str, calls))


def _own(call: Call) -> Collection[str]:
    """The arguments that belong to a call which stands around another; all others are that other's."""
    factory = WRAPPERS.get(call.name)
    return () if factory is None else inspect.signature(factory).parameters


def _with_value(call: Call, key: str, given: _Given, where: str) -> Call:
    value = given.value
    place = "optional" if key in PLACES and call.name not in given.calls else None
    if kind := place or argument_kind(given.calls.get(call.name), key):
        value = text_value(given.text, kind)
    elif isinstance(value, str) and isinstance(call.kwargs.get(key), Name):
        value = Name(value)
    elif isinstance(value, str) and "(" in value:
        value = parse_value(value, where)
    if isinstance(value, list):
        value = tuple(value)
    if call.name in given.heads and call.args:  # the readout stands before the arguments of its builder
        built = with_argument(Call(call.name, call.args[1:], call.kwargs), key, value, given.heads[call.name])
        return Call(call.name, (call.args[0], *built.args), built.kwargs)
    return with_argument(call, key, value, given.calls.get(call.name))
