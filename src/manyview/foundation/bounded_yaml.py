"""How much a YAML text may be: a stranger's aliases can unfold without end, and brackets need not close."""

from __future__ import annotations

import re

import yaml

from manyview.errors import RecipeError

LONGEST = 2**20  # characters
DEEPEST = 50  # collections within one another
MOST = 100_000  # values and keys, those of aliases counted wherever they stand


def check_yaml(text: str) -> None:
    """Raises RecipeError for more than is read, and yaml.YAMLError for what is none; nothing is made of it."""
    if len(text) > LONGEST:
        raise RecipeError(f"{len(text):,} characters of YAML; at most {LONGEST:,} are read")
    if "&" in text or _depth(text) > DEEPEST:  # else it is no more than it looks like
        _check_events(text)


def _depth(text: str) -> int:
    """How deep brackets stand within one another at most, those in quotes too."""
    depth = deepest = 0
    for found in re.finditer(r"[\[{]|[\]}]", text):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_events(text: str) -> None:
    sizes: dict[str, int] = {}  # of what has an anchor
    above: list[list[int]] = [[0]]
    anchors: list[str | None] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            above.append([1])
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            (size,), anchor = above.pop(), anchors.pop()
            sizes |= {anchor: size} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 1)
        above[-1][0] += size
        line = f"line {event.start_mark.line + 1}" if event.start_mark else "YAML"
        if above[-1][0] > MOST:
            raise RecipeError(f"{line}: with its aliases unfolded it is more than {MOST:,} values")
        if len(anchors) > DEEPEST:
            raise RecipeError(f"{line}: nested more than {DEEPEST} deep")
