"""What each kind of word must be, said in one line that names file, table, word, and what is missing."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from manyview.branches.heads import HEADS, TAPS
from manyview.data.sources import GIVEN, SOURCES
from manyview.errors import RecipeError, WordsError, brief
from manyview.evaluate.accuracy import MEASURES
from manyview.evaluate.protocols import PROTOCOLS
from manyview.foundation.grammar import check_name
from manyview.foundation.vocabulary import TABLES, Origin
from manyview.recipe.readouts import FUNCTIONS
from manyview.relations import RELATIONS, TRAITS
from manyview.relations.reading import hints_of, is_port
from manyview.views.ops import OPS
from manyview.views.plan import AGAIN

PACKAGED: Mapping[str, Mapping[str, Any]] = {
    "OPS": OPS,
    "RELATIONS": {**RELATIONS, **dict.fromkeys(FUNCTIONS)},
    "HEADS": {**HEADS, **TAPS},
    "SOURCES": SOURCES,
    "PROTOCOLS": {**PROTOCOLS, **dict.fromkeys(MEASURES)},  # whose measures have their names
}


def tables_of(module: ModuleType, label: str) -> dict[str, Mapping[str, Any]]:
    """The tables of a module. Raises WordsError where one is no table, or nearly has the name of one."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in vars(module).items():
        if name in TABLES:
            if not isinstance(value, Mapping) or not all(isinstance(word, str) for word in value):
                raise WordsError(f"{label}: {name} is a table, as in {name} = {{'name': …}}, got {brief(value)}")
            if value:
                found[name] = dict(value)
        elif isinstance(value, Mapping) and value and not name.startswith("_"):
            near = difflib.get_close_matches(name.upper(), TABLES, n=1, cutoff=0.75)
            if near and near[0] not in vars(module):
                raise WordsError(f"{label}: did you mean {near[0]} by {name}? tables: {', '.join(TABLES)}")
    return found


def check_tables(tables: Mapping[str, Mapping[str, Any]], label: str) -> None:
    """Raises WordsError for the first word that is not what its table holds, or has a name that manyview's has."""
    for table, words in tables.items():
        ours = {id(made): f"manyview's '{word}'" for word, made in PACKAGED[table].items() if made is not None}
        for word, made in words.items():
            where = f"{label}: {table}[{word!r}]"
            _check_free(table, word, where)
            if id(made) in ours:
                raise WordsError(f"{where} is {ours[id(made)]} by another name; give it one name")
            ours[id(made)] = f"{table}[{word!r}]"
            if fault := CHECKS[table](made):
                raise WordsError(f"{where}: {fault}")


def check_taken(origin: Origin, others: Sequence[Origin]) -> None:
    """Raises WordsError where another of them has a word or a backbone of the same name."""
    for other in others:
        for table, words in origin.tables.items():
            if twice := words.keys() & other.tables.get(table, {}).keys():
                word = min(twice)
                raise WordsError(f"{origin.label}: {table}[{word!r}]: {other.label} has {_a(table)} '{word}', too; "
                                 "one needs another name")  # fmt: skip
        if both := {*origin.backbones} & {*other.backbones}:
            raise WordsError(f"{origin.label}: {other.label} registers a backbone '{min(both)}', too; "
                             "one needs another name")  # fmt: skip


def _check_free(table: str, word: str, where: str) -> None:
    try:
        check_name(word, where)
    except RecipeError as error:
        raise WordsError(str(error)) from None
    if AGAIN in word:
        raise WordsError(f"{where}: '{AGAIN}' in a name tells the second op of a view; leave it out")
    if word in PACKAGED[table]:
        raise WordsError(f"{where}: manyview has {_a(table)} '{word}' already; give yours another name")


def _a(table: str) -> str:
    return f"{'an' if TABLES[table][0] in 'aeiou' else 'a'} {TABLES[table]}"


# -------------------------------------------------------------------------------------------------- what a word must be


def _op(made: Any) -> str | None:
    return (
        _frozen(made)
        or _anti(getattr(made, "anti", ()))
        or _methods(
            made,
            {
                "sample": ("draws", "sizes"),
                "render": ("images", "params"),
                "difference": ("a", "b", "frame"),
                "output_size": ("sizes",),
            },
        )
    )


def _anti(names: Any) -> str | None:
    if isinstance(names, tuple) and all(isinstance(name, str) for name in names):
        return None
    return f"anti names draws that have an opposite, as in anti: ClassVar = ('applied',), got {brief(names)}"


def _protocol(made: Any) -> str | None:
    return _frozen(made) or _methods(made, {"check": ("splits",), "measure": ("features", "split")})


def _relation(made: Any) -> str | None:
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        return f"a relation is a class, of torch's nn.Module, got {_shown(made)}"
    if made.forward is nn.Module.forward:
        return f"class {made.__name__} has no forward(…), which takes readings and gives the loss"
    if made.__init__ is nn.Module.__init__:
        return f"class {made.__name__} has no __init__, which takes a Port for each readout, as in (self, a: Port)"
    taken = list(inspect.signature(made).parameters.values())
    if bare := next((p.name for p in taken if p.annotation is p.empty), None):
        return f"__init__ does not say what '{bare}' is: a readout, {bare}: Port, or a value, as in {bare}: float = 1.0"
    try:
        hints = hints_of(made)
    except (NameError, TypeError) as error:
        return f"__init__ has a type hint that cannot be read ({error}); import its name at the top of the file"
    ports = [p for p in taken if is_port(hints.get(p.name))]
    if not ports:
        return "__init__ takes no readout; a relation is between readouts, as in (self, a: Port, b: Port)"
    given = inspect.signature(made.forward).parameters
    starred = any(p.kind is p.VAR_POSITIONAL for p in given.values())
    for port in ports:
        if port.name not in given and not (starred and port.kind is not port.KEYWORD_ONLY):
            return f"forward takes no '{port.name}', which __init__ has as a readout; both take the same readouts"
    if odd := next((trait for trait in TRAITS if not isinstance(getattr(made, trait, False), bool)), None):
        return f"{odd} is True or False, got {getattr(made, odd)!r}"
    return None


def _head(made: Any) -> str | None:
    return _function(made, "head", ("inputs", "classes"), "(…, *, inputs: int, classes: int) -> (module, width)")


def _source(made: Any) -> str | None:
    how = "(root, *, download, stored, …) -> RawSplits"
    fault = _function(made, "source", GIVEN, how)
    options = [] if fault else [p for p in inspect.signature(made).parameters.values() if p.name not in GIVEN]
    bare = next((p.name for p in options if p.annotation is p.empty), None)
    return fault or (f"it does not say what '{bare}' is, as in {bare}: str" if bare else None)


CHECKS: Mapping[str, Callable[[Any], str | None]] = {
    "OPS": _op,
    "RELATIONS": _relation,
    "HEADS": _head,
    "SOURCES": _source,
    "PROTOCOLS": _protocol,
}


def _frozen(made: Any) -> str | None:
    if not isinstance(made, type):
        return f"expected a class, a frozen dataclass whose fields are its arguments, got {_shown(made)}"
    if not dataclasses.is_dataclass(made):
        return f"class {made.__name__} is no dataclass; write @dataclass(frozen=True) above it"
    if not made.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"class {made.__name__} can be changed; write @dataclass(frozen=True)"
    plain = [name for name in vars(made).get("__annotations__", {}) if name not in made.__dataclass_fields__]
    unsaid = [
        name
        for name, value in vars(made).items()
        if name.islower()
        and not name.startswith("_")
        and name != "anti"  # of an op, see `views.ops.op`
        and not (callable(value) or isinstance(value, (property, classmethod, staticmethod)))
        and name not in made.__dataclass_fields__
        and name not in plain
    ]
    return f"'{unsaid[0]}' has no type hint, so it is no argument; write {unsaid[0]}: float" if unsaid else None


def _methods(made: type, wanted: Mapping[str, tuple[str, ...]]) -> str | None:
    for name, arguments in wanted.items():
        method = getattr(made, name, None)
        call = f"{name}({', '.join(arguments)})"
        if not callable(method):
            return f"class {made.__name__} has no {call}"
        try:
            inspect.signature(method).bind(None, *arguments)
        except TypeError:
            return f"{name} of class {made.__name__} is called as {call}"
    return None


def _function(made: Any, what: str, given: Sequence[str], how: str) -> str | None:
    if not callable(made) or isinstance(made, type):
        return f"a {what} is a function {how}, got {_shown(made)}"
    known = inspect.signature(made).parameters
    keywords = any(p.kind is p.VAR_KEYWORD for p in known.values())
    missing = [name for name in given if name not in known and not keywords]
    return f"it takes no '{missing[0]}'; a {what} is a function {how}" if missing else None


def _shown(made: Any) -> str:
    return f"the class {made.__name__}" if isinstance(made, type) else f"{brief(made)}"
