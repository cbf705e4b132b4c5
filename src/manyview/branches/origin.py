"""How a recipe says where weights come from: `init='runs/simsiam'` in the call of a backbone or of a head.

`checkpoint_path=`, timm's word, says the same of a backbone. (`init:` of a branch says how what has no such place is
drawn, see `initial`.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from manyview.errors import RecipeError
from manyview.foundation.files import at_home
from manyview.foundation.grammar import Call, parse_call

INIT = "init"
PLACES = (INIT, "checkpoint_path")


def origin_of(call: Call, where: str) -> str | None:
    """The run, export or file that a call names, None where it names none. Raises RecipeError."""
    given = {key: call.kwargs[key] for key in PLACES if call.kwargs.get(key) is not None}
    if len(given) > 1:
        raise RecipeError(f"{where}: {' and '.join(given)} say the same; keep {INIT}")
    for key, path in given.items():
        if not isinstance(path, str) or not path:
            raise RecipeError(f"{where}: {key} is the name of a run, an export or a file, in quotes, got {path!r}")
        return path
    return None


def without_origin(call: Call) -> Call:
    """The call without the place of its weights."""
    return Call(call.name, call.args, {key: value for key, value in call.kwargs.items() if key not in PLACES})


def absolute(place: str) -> str:
    """A place as it is called from any folder."""
    return place if os.path.isabs(place) else os.path.abspath(at_home(place))


def anywhere(branches: Mapping[str, Any], called: Callable[[str], str] = absolute) -> dict[str, Any]:
    """Branches as a recipe writes them, with the places of weights made absolute, or called otherwise."""
    return {
        name: {key: _anywhere(value, called) for key, value in branch.items()}
        if isinstance(branch, Mapping)
        else _anywhere(branch, called)
        for name, branch in branches.items()
    }


def _anywhere(text: Any, called: Callable[[str], str]) -> Any:
    plain = text.replace(" ", "") if isinstance(text, str) else ""
    if not plain.startswith("frozen(") and not any(f"{word}=" in plain for word in PLACES):
        return text
    call = parse_call(text, "branches")
    origin_of(call, "branches")
    moved = _moved(call, called)
    return text if moved == call else str(moved)


def _moved(call: Call, called: Callable[[str], str]) -> Call:
    """A call with the places that it names called otherwise: `init=…` here or in a call inside, and what is frozen."""

    def moved(key: str, value: Any) -> Any:
        if isinstance(value, Call):
            return _moved(value, called)
        places = ("network",) if call.name == "frozen" else PLACES
        return called(value) if key in places and isinstance(value, str) and value else value

    args = [moved("network" if number == 0 else "", value) for number, value in enumerate(call.args)]
    return Call(call.name, tuple(args), {key: moved(key, value) for key, value in call.kwargs.items()})
