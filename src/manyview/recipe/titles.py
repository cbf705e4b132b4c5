"""A title names a system, a network and data; where overrides change one of these, it stands nowhere any more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TITLED = ("views", "branches", "relations")
ANY_FOLDER = ("folder", "hf")  # sources that say nothing of what the images are


def true_title(name: str, changed: Mapping[str, str], source: str) -> str | None:
    """What stands in place of a recipe's title, or None where the title still holds.

    name: the recipe's. changed: key -> value of the overrides that changed something. source: the data's. Views,
    branches, relations and data are told; how long, how fast and on how much of the data it is trained, no title says.

    >>> true_title("tied_imagenet", {"branches.net.backbone": "resnet18", "data.root": "/home/me/photos"}, "folder")
    'tied_imagenet with branches.net.backbone=resnet18, data.root=photos'
    """
    told = []
    for key, value in changed.items():
        section = key.partition(".")[0]
        if section in TITLED or key == "data.source":
            told.append(f"{key}={value}")
        elif key == "data.root" and source.partition("(")[0].strip() in ANY_FOLDER:
            told.append(f"{key}={Path(value).name or value}")
    return f"{name} with {', '.join(told)}" if told else None


def leaves(key: str, value: Any, text: str) -> dict[str, str]:
    """Key -> value as text, of what an override `key=text` gives, a mapping's keys one by one."""
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for name, inner in value.items():
            found |= leaves(f"{key}.{name}", inner, str(inner))
        return found
    return {key: text}
