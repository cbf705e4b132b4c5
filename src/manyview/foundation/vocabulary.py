"""Words of one's own, beside those that are packaged: one frozen value that a recipe carries and hands to its parsers.

Nothing is registered anywhere: who parses asks `words.beside("OPS", OPS)`. The classes stand in modules that were made
of files (see `manyview.words`), which pickle finds by name; with `modules_before` in another process, too.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from types import CodeType, ModuleType
from typing import Any, TypeVar

from manyview.errors import reason

T = TypeVar("T")
TABLES = {"OPS": "op", "RELATIONS": "relation", "HEADS": "head", "SOURCES": "source", "PROTOCOLS": "protocol"}
"""Name of a table in a words file -> what it holds."""
PREFIX = "manyview_words_"  # of the modules that were made of files; the rest is their digest
WORD = "__manyview_word__"  # the attribute in which a class of one's own keeps the name that its table gives it


@dataclass(frozen=True)
class Origin:
    """Where words come from: a file, or an installed package. Of equal digests, they say the same.

    name: the file's, or the package's. version: the package's. label: how messages call it. module: that holds the
    tables. source: the file's bytes, which a run keeps; None of a package. tables: table -> word -> what it builds.
    backbones: that it registered with timm.
    """

    digest: str
    name: str = field(compare=False)
    label: str = field(compare=False, repr=False)
    module: str = field(compare=False, repr=False)
    source: bytes | None = field(compare=False, repr=False, default=None)
    version: str = field(compare=False, repr=False, default="")
    tables: Mapping[str, Mapping[str, Any]] = field(compare=False, repr=False, default_factory=dict)
    backbones: tuple[str, ...] = field(compare=False, repr=False, default=())

    @property
    def called(self) -> str:
        """Its name, and a package's version."""
        return f"{self.name} {self.version}".rstrip()

    @property
    def said(self) -> list[str]:
        """What it adds, a phrase each: `op speckle`, `backbone tiny_net`."""
        words = [f"{TABLES[table]} {word}" for table, words in self.tables.items() for word in words]
        return [*words, *(f"backbone {name}" for name in self.backbones)]


@dataclass(frozen=True)
class Words:
    """Words of one's own, in the order in which they were given; of equal origins, they are equal."""

    origins: tuple[Origin, ...] = ()

    def own(self, table: str) -> dict[str, Any]:
        """The words of a table, such as "OPS", and what they build."""
        return {word: kind for origin in self.origins for word, kind in origin.tables.get(table, {}).items()}

    def beside(self, table: str, packaged: Mapping[str, T]) -> Mapping[str, T]:
        """A packaged table with one's own words of that kind."""
        own = self.own(table)
        return {**packaged, **own} if own else packaged

    def used_in(self, text: str) -> Words:
        """Those of whose origins a recipe's text names a word or a backbone."""
        named = set(re.findall(r"\w+", text))
        return Words(
            tuple(
                origin
                for origin in self.origins
                if named & {*origin.backbones, *(word for words in origin.tables.values() for word in words)}
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return modules_before(self)

    def __deepcopy__(self, memo: object) -> Words:
        return self  # nothing of it changes, and each part of each recipe gets its default by a copy


NONE = Words()


def with_words(factory: Callable[..., Any], words: Words) -> dict[str, Words]:
    """`words` as an argument, for what itself names words, as `one_of` names ops; nothing for all else."""
    return {"words": words} if "words" in inspect.signature(factory).parameters else {}


def word_of(kind: type, packaged: Mapping[str, Any]) -> str:
    """The name by which a recipe calls a class."""
    found = next((name for name, each in packaged.items() if each is kind), None)
    return found or str(vars(kind).get(WORD, kind.__name__))


# ------------------------------------------------------------------------------------------------------------- modules


class _Loader(InspectLoader):
    """A module from the bytes of its file: never from what Python kept of it, and the same in another process."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source = path, source

    def get_source(self, fullname: str) -> str:
        return self.source.decode(errors="replace")

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source, self.path)


def digest_of(source: bytes) -> str:
    """The digest of a file's bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(source, digest_size=16).hexdigest()


def module_of(path: str, source: bytes) -> ModuleType:
    """The module that a file's bytes make: one for one digest. Raises whatever the file raises, and keeps nothing."""
    name = f"{PREFIX}{digest_of(source)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_loader(name, _Loader(path, source), origin=path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    module.__file__ = path
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def modules_before(value: Any) -> tuple[Any, ...]:
    """What `__reduce__` gives for an object that holds words of one's own, however deep: their files come with it.

    In another process the modules are made again before the object is filled, so that its classes are found by name.
    """
    own = [module.__loader__ for name, module in [*sys.modules.items()] if name.startswith(PREFIX)]
    files = tuple((each.path, each.source) for each in own if isinstance(each, _Loader))
    return _made_again, (type(value), files), vars(value)


def _made_again(kind: type[T], files: tuple[tuple[str, bytes], ...]) -> T:
    for path, source in files:
        module_of(path, source)
    return object.__new__(kind)


def own_fault(error: BaseException) -> str | None:
    """Where in a words file an error arose, and what it says, in a line; None for all that arose elsewhere."""
    places = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(PREFIX)
    ]
    if not places:
        return None
    code, line = places[-1]
    return f"{code.co_filename}, line {line}, in {code.co_name}: {named(error)}"


def named(error: BaseException) -> str:
    """An exception by its kind and what it says."""
    said, kind = reason(error), type(error).__name__
    return kind if said == kind else f"{kind}: {said}"
