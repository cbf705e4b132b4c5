"""All runs below a folder, and how two of them differ: read from their files alone, without what trains them.

What was read of a run is kept, so that a list of thousands is there at once the next time: see `Registry`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from manyview.errors import ManyviewError, RunError, reason
from manyview.foundation.files import cache_folder, read_json, read_mapping, write_json
from manyview.recipe.find import text_of_run
from manyview.recipe.flat import changed, flat
from manyview.recipe.strict_yaml import read_yaml

FILES = ("recipe.yaml", "metrics.jsonl", "result.json", "failure/failure.json")
"""What a run's line is made from, and what must be unchanged for a line that was kept to hold."""
BESIDE = frozenset({"splits.json", *FILES[1:]})
"""What a recipe.yaml has beside it in a run's folder, from the beginning or later."""
NOT_TOLD = ("title", "seed", "data.root", "data.unlabeled_root", "data.download", "data.workers")
"""Settings with a column of their own, or that say where things lie."""
MAIN = ("top1", "aggregated_top1", "knn", "linear")
SORTS = ("folder", "recipe", "state", "best", "seconds", "when")


@dataclass(frozen=True)
class Known:
    """What the files of a run say of it.

    folder: its path, below the one that was searched. changed: key -> value, of settings that are not the recipe's own.
    state: `finished`, `failed`, or `unfinished`, which says nothing of whether it is going on. epochs: done so far.
    best: the main measure's value in percent, on `split`; of a run that is not finished the best of validation so far.
    seconds: of training, of a finished run. when: seconds since 1970 of its last sign.
    """

    folder: str
    recipe: str
    seed: int
    changed: Mapping[str, Any]
    state: str
    epochs: float | None
    measure: str | None
    best: float | None
    split: str | None
    seconds: float | None
    when: float
    settings: Mapping[str, Any] = field(repr=False)


def run_folders(top: Path) -> Iterator[Path]:
    """Every run at or below `top`, sorted; links are not followed, nor is it looked inside runs.

    A recipe.yaml alone is a recipe that somebody wrote, and runs may lie beside it. Raises RunError where `top` is no
    folder.
    """
    if not top.is_dir():
        raise RunError(f"{top} is {'a file' if top.exists() else 'not there'}; give a folder with runs in it")
    for folder, below, files in os.walk(top):
        if "recipe.yaml" in files and not BESIDE.isdisjoint(files):
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def known_of(folder: Path, name: str) -> Known:
    """What is known of one run. name: how the folder is called. Raises ManyviewError where its files are damaged."""
    settings = settings_of(folder)
    result, failure = _result(folder), folder / "failure" / "failure.json"
    state = "finished" if result else "failed" if failure.is_file() else "unfinished"
    epochs, watched = _progress(folder / "metrics.jsonl")
    measured = numbers(result.get("eval")) if result else watched
    measure = next((one for one in MAIN if one in measured), next(iter(measured), None))
    return Known(
        folder=name,
        recipe=str(settings.get("title") or ""),
        seed=int(settings.get("seed", 0)),
        changed={},
        state=state,
        epochs=number(result.get("epochs", epochs)),
        measure=measure,
        best=None if measure is None else measured[measure],
        split=None if measure is None else str(result.get("eval_split", "val")),
        seconds=number(result.get("seconds")),
        when=max(stamp[0] for stamp in _stamps(folder) if stamp) / 1e9,
        settings=settings,
    )


def settings_of(folder: Path) -> dict[str, Any]:
    """A run's settings by their dotted places. Raises ManyviewError, naming the folder."""
    text = text_of_run(folder)
    try:
        raw = read_yaml(text)
    except ManyviewError as error:
        raise RunError(f"{folder / 'recipe.yaml'}: {error}") from None
    if not isinstance(raw, dict):
        raise RunError(f"{folder / 'recipe.yaml'} is damaged: it holds no settings")
    return flat(raw)


def _progress(metrics: Path) -> tuple[float | None, dict[str, float]]:
    """Epochs done, and the best value so far of each main measure of validation."""
    epochs: float | None = None
    best: dict[str, float] = {}
    with contextlib.suppress(OSError), metrics.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(
                ValueError, TypeError, KeyError, AttributeError, RecursionError
            ):  # half written, or none
                said = json.loads(line)
                now = number(said["epoch"])
                epochs = epochs if now is None else now
                for name, value in numbers(said.get("val")).items():
                    if name in MAIN:
                        best[name] = max(best.get(name, value), value)
    return epochs, best


def number(value: object) -> float | None:
    """A finite number, or None for all else that a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return found if math.isfinite(found) else None


def numbers(value: object) -> dict[str, float]:
    """The finite numbers of a mapping, none of what is no mapping."""
    found = {name: number(each) for name, each in value.items()} if isinstance(value, dict) else {}
    return {name: each for name, each in found.items() if each is not None}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stamps(folder: Path) -> list[list[int] | None]:
    """(time of the last change, size) of each file that counts; None where there is none."""
    found: list[list[int] | None] = []
    for name in FILES:
        try:
            state = os.stat(os.path.join(folder, name))
            found.append([state.st_mtime_ns, state.st_size])
        except OSError:
            found.append(None)
    return found


@dataclass(frozen=True)
class Registry:
    """The runs below a folder, with what was read before kept in a file of the user's cache.

    packaged: title or name of a packaged recipe -> its settings, or None for another; called for runs that are new.
    """

    top: Path
    packaged: Callable[[str], Mapping[str, Any] | None] = lambda _: None

    @property
    def kept(self) -> Path:
        """Where what was read is kept: below $MANYVIEW_CACHE, by default ~/.cache/manyview."""
        said = f"{version('manyview')} {self.top.resolve()}"
        digest = hashlib.blake2b(said.encode(errors="replace"), digest_size=12)
        return cache_folder("runs") / f"{digest.hexdigest()}.json"

    def runs(self) -> tuple[list[Known], list[str]]:
        """All of them in the order of their folders, and a line for each that is damaged."""
        before, now = _json(self.kept), {}
        damaged = []
        for folder in run_folders(self.top):
            name = folder.relative_to(self.top).as_posix()
            stamps = _stamps(folder)
            kept = before.get(name)
            if not isinstance(kept, dict) or kept.get("stamps") != stamps:
                try:
                    kept = {"stamps": stamps, "known": asdict(known_of(folder, name))}
                except (ManyviewError, ValueError, TypeError) as error:
                    damaged.append(f"left out: {error if isinstance(error, ManyviewError) else f'{folder}: {error}'}")
                    continue
                kept["own"] = self._own(kept["known"])
            now[name] = kept
        if now != before:
            with contextlib.suppress(RunError):  # a cache: where it cannot be kept, all is read again
                write_json(self.kept, now)
        found = [Known(**entry["known"]) for entry in now.values()]
        return _told(found, [entry["own"] for entry in now.values()]), damaged

    def _own(self, known: Mapping[str, Any]) -> dict[str, Any] | None:
        """What of a run's settings is not its packaged recipe's; None where it was made from another recipe."""
        base = self.packaged(known["recipe"])
        return None if base is None else _differing(base, known["settings"])


def _differing(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: now for key, (_, now) in changed(base, settings).items() if key not in NOT_TOLD}


def _told(found: list[Known], own: list[dict[str, Any] | None]) -> list[Known]:
    """With what differs: from the packaged recipe, or else from the first run with that title."""
    first: dict[str, Mapping[str, Any]] = {}
    told = []
    for known, different in zip(found, own, strict=True):
        base = first.setdefault(known.recipe, known.settings)
        different = _differing(base, known.settings) if different is None else different
        told.append(Known(**{**vars(known), "changed": different}))
    return told


def ordered(found: list[Known], by: str) -> list[Known]:
    """Sorted by one of `SORTS`: `best` from the highest, `when` from the latest, with what has none last."""
    if by in ("best", "seconds", "when"):
        there = [known for known in found if getattr(known, by) is not None]
        left = [known for known in found if getattr(known, by) is None]
        return sorted(there, key=lambda known: getattr(known, by), reverse=by != "seconds") + left
    return sorted(found, key=lambda known: (str(getattr(known, by)), known.folder))


@dataclass(frozen=True)
class Unlike:
    """How two runs differ. Each table: place -> (first, second); None where one has no such place."""

    settings: dict[str, tuple[Any, Any]]
    surroundings: dict[str, tuple[Any, Any]]
    results: dict[str, tuple[Any, Any]]


def unlike(one: Path, other: Path) -> Unlike:
    """What differs between two runs: settings; data, versions and words; and all that was measured, also where equal.

    Raises ManyviewError for a folder that is no run.
    """
    settings = changed(settings_of(one), settings_of(other))
    first, second = (_result(folder) for folder in (one, other))
    both = bool(first and second)  # what a run was made with stands in its result
    apart = changed(
        *(_surroundings(folder, found if both else {}) for folder, found in ((one, first), (other, second)))
    )
    left, right = (flat(found.get("eval") or {}) for found in (first, second))
    results = {key: (left.get(key), right.get(key)) for key in {**left, **right}}
    return Unlike(settings, apart, results)


def _result(folder: Path) -> dict[str, Any]:
    """What was measured, empty while it goes on. Raises RunError where that is damaged."""
    path = folder / "result.json"
    try:
        return read_mapping(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {reason(error)}") from None


def _digest(value: Any) -> str:
    """Of what is too much to be shown."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _surroundings(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    try:
        splits = read_mapping(folder / "splits.json")
        marks = {
            name: {key: value for key, value in mark.items() if key != "index"} if isinstance(mark, dict) else mark
            for name, mark in splits.items()
            if name not in ("continued", "processes", "looks")
        }
        marks["looks"] = {split: _digest(images) for split, images in splits.get("looks", {}).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{folder}/splits.json is missing or damaged: {reason(error)}") from None
    told = ("versions", "words", "device", "git", "steps", "seconds", "selected_by", "eval_split", "skipped_images")
    return flat({"data": marks, **{name: result[name] for name in told if name in result}})


__all__ = [
    "SORTS",
    "Known",
    "Registry",
    "Unlike",
    "known_of",
    "number",
    "numbers",
    "ordered",
    "run_folders",
    "settings_of",
    "unlike",
]
