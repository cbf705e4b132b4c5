"""How a recipe says where weights come from: `init='runs/simsiam'` in the call of a backbone or of a head.

`checkpoint_path=`, timm's word, says the same of a backbone. (`init:` of a branch says how what has no such place is
drawn, see `initial`.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def anywhere(branches: Mapping[str, Any]) -> dict[str, Any]:
    """Branches as a recipe writes them, with the places of weights made absolute."""
    return {
        name: {key: _absolute(value) for key, value in branch.items()} if isinstance(branch, Mapping) else branch
        for name, branch in branches.items()
    }


def _absolute(text: Any) -> Any:
    if not isinstance(text, str) or not any(f"{word}=" in text.replace(" ", "") for word in PLACES):
        return text
    call = parse_call(text, "branches")
    path = origin_of(call, "branches")
    if path is None or os.path.isabs(path):
        return text
    return str(
        Call(
            call.name,
            call.args,
            {key: os.path.abspath(at_home(path)) if key in PLACES else value for key, value in call.kwargs.items()},
        )
    )
