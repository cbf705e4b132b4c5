"""Seeds that were chosen by, which may not claim: what was picked for being lucky on them is lucky on test as well.

A comparison on validation writes `choosing.json` into its folder before it trains. One on test looks for such files in
its own folder and those beside it, and in the file of runs that it continues from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from manyview.errors import RunError
from manyview.foundation.files import read_mapping, write_json
from manyview.foundation.words import counted

NAME = "choosing.json"


def note_choosing(folder: Path, data: str, seeds: Iterable[int]) -> None:
    """Writes down by which seeds is chosen, beside those of before. data: see `plan.source_of`."""
    known = {seed for _, _, seed in _noted(folder / NAME)}
    if known >= {*seeds}:
        return
    write_json(folder / NAME, {"data": data, "seeds": sorted(known | {*seeds})})


def check_unchosen(
    folder: Path, data: str, seeds: range, waiting: Collection[int], further: Iterable[tuple[str, int]] = ()
) -> list[str]:
    """Raises RunError where seeds are to claim on test that chose on validation, of the same data.

    Returns a line on those that chose and have claimed; which they did first, no file says.

    waiting: those of the seeds that have runs still to come.
    further: (where, seed) that are known to have chosen elsewhere.
    """
    beside = sorted(each for each in folder.absolute().parent.glob(f"*/{NAME}"))
    found = [(where, seed) for path in beside for where, of, seed in _noted(path) if of == data]
    known = [(where, seed) for where, seed in [*found, *further] if seed in seeds]
    hits = [(where, seed) for where, seed in known if seed in waiting]
    if not hits:
        both, where = sorted({seed for _, seed in known}), sorted({where for where, _ in known})
        told = (
            f"{counted(len(both), 'seed')} ({', '.join(map(str, both))}) chose on validation in {', '.join(where)}, too"
        )
        return [f"{told}: a claim only if that was after it."] if both else []
    used = sorted({seed for _, seed in hits})
    where = sorted({where for where, _ in hits})
    free = max({seed for _, seed in [*found, *further]} | {seeds[-1]}) + 1
    raise RunError(
        f"{'seed' if len(used) == 1 else 'seeds'} {', '.join(map(str, used))} chose on validation in "
        f"{', '.join(where)}, so they cannot claim on test, too: what was picked was lucky on them. Claim with others, "
        f"as in --first-seed {free} ({counted(len(seeds), 'seed')}), or go on choosing with --split val"
    )


def _noted(path: Path) -> list[tuple[str, str, int]]:
    """(where, data, seed) that a file tells; nothing where there is none."""
    if not path.is_file():
        return []
    try:
        held: Any = read_mapping(path)
        return [(str(path.parent), str(held["data"]), int(seed)) for seed in held["seeds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}; it says by which seeds was chosen on validation") from None
