"""Words of one's own, from files, modules and installed packages, as one value that was checked whole.

A recipe by itself loads no code: what is loaded is named by who calls, or was installed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from manyview.errors import ManyviewWarning, WordsError, brief, shown
from manyview.foundation.vocabulary import (
    PREFIX,
    TABLES,
    WORD,
    Origin,
    Words,
    digest_of,
    module_of,
    named,
    own_fault,
)
from manyview.words.backbones import registered, registering
from manyview.words.check import check_tables, check_taken, tables_of
from manyview.words.files import read_words

GROUP = "manyview.words"
Use = str | Path | ModuleType | Words


def words_of(use: Use | Sequence[Use] = ()) -> Words:
    """The words of installed packages, and those of files, imported modules, or other words; each once.

    Raises WordsError, in one line, for files that cannot be used and for names that are taken: by manyview, or by
    another of them. Installed packages that cannot be used are left out, with a ManyviewWarning.
    """
    found: dict[str, Origin] = {}
    for origin in _installed():
        found.setdefault(origin.digest, origin)
    installed = {origin.module for origin in found.values()}
    given = [use] if isinstance(use, Use) else use
    if not isinstance(given, Iterable) or not all(isinstance(each, Use) for each in given):
        raise WordsError(f"use: a file, a module, or a list of these is wanted, got {brief(use)}")
    for each in given:
        if isinstance(each, ModuleType) and each.__name__ in installed:
            continue
        for origin in each.origins if isinstance(each, Words) else [_origin(each)]:
            check_taken(origin, [other for other in found.values() if other != origin])
            found.setdefault(origin.digest, origin)
    return Words(tuple(found.values()))


def _origin(given: str | Path | ModuleType) -> Origin:
    if not isinstance(given, ModuleType):
        path, source = read_words(given)
        label = shown(given)
        with registering(source) as taken:
            module = _run(path, source, label)
        return _of(module, label, path.name, digest_of(source), source, taken)
    file = getattr(given, "__file__", None)
    if file is None or given.__name__.startswith(PREFIX):
        raise WordsError(f"use: module {given.__name__} stands in no file of its own; write one, NAME.py")
    path, source = read_words(file)
    return _of(given, f"module {given.__name__}", path.name, digest_of(source), source)


def _run(path: Path, source: bytes, label: str) -> ModuleType:
    """The module of a words file. Raises WordsError for whatever the file raises, naming file and line."""
    try:
        return module_of(str(path), source)
    except SyntaxError as error:
        own = error.filename == str(path) and error.lineno is not None
        where = f"{label}, line {error.lineno}" if own else label
        raise WordsError(f"{where}: {type(error).__name__}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # whatever a file raises
        told = own_fault(error)
        told = f"{label}: {named(error)}" if told is None else told.replace(", in <module>", "", 1)
        alone = isinstance(error, ModuleNotFoundError) and (path.parent / f"{error.name}.py").is_file()
        cure = "; a words file stands alone, so that a run can keep it: what it imports must be installed"
        raise WordsError(told + (cure if alone else "")) from None


def _of(
    module: ModuleType, label: str, name: str, digest: str, source: bytes | None, taken: Sequence[str] = ()
) -> Origin:
    """What a module adds, checked. taken: backbones that timm had before, and the module registered again."""
    if taken:
        raise WordsError(f"{label}: backbone '{taken[0]}' is timm's or manyview's already; give yours another name")
    tables, backbones = tables_of(module, label), registered(module)
    if not tables and not backbones:
        raise WordsError(
            f"{label} has none of the tables {', '.join(TABLES)}, and registers no backbone; "
            "a table names what it holds, as in OPS = {'speckle': Speckle}"
        )
    check_tables(tables, label)
    _stamp(tables)
    return Origin(digest, name, label, module.__name__, source, tables=tables, backbones=backbones)


def _stamp(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Classes keep the names that recipes call them by, see `word_of`."""
    for table in ("OPS", "PROTOCOLS"):
        for word, kind in tables.get(table, {}).items():
            setattr(kind, WORD, word)


# ------------------------------------------------------------------------------------------------- installed packages


def _installed() -> Iterable[Origin]:
    """The words of installed packages, those of one package before the next, in the order of their names."""
    kept: list[Origin] = []
    for point in _points(tuple(sys.path)):
        try:
            origin = _of_package(point)
            check_taken(origin, [other for other in kept if other != origin])
        except WordsError as error:
            warnings.warn(f"left out: {error}", ManyviewWarning, stacklevel=4)
        else:
            kept.append(origin)
    return kept


@lru_cache(maxsize=8)
def _points(path: tuple[str, ...]) -> list[EntryPoint]:
    """The entry points of what is installed on this path, which takes some milliseconds to look through."""
    return sorted(entry_points(group=GROUP), key=lambda point: (point.value, point.name))


def _of_package(point: EntryPoint) -> Origin:
    name = point.dist.name if point.dist is not None else point.module
    version = point.dist.version if point.dist is not None else ""
    label = f"installed package {name} {version}".rstrip()
    try:
        module = point.load()
    except (Exception, SystemExit) as error:  # whatever a package raises
        raise WordsError(f"{label}: {point.value} cannot be loaded: {named(error)}") from None
    if not isinstance(module, ModuleType):
        raise WordsError(f"{label}: the entry point {point.name} = {point.value} is no module")
    file = getattr(module, "__file__", None)
    source = Path(file).read_bytes() if file else b""
    digest = digest_of(f"{name} {version} ".encode() + source)
    made = _of(module, label, name, digest, None)
    return Origin(digest, name, label, made.module, None, version, made.tables, made.backbones)


__all__ = ["GROUP", "Use", "words_of"]
