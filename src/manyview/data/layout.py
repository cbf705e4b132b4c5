"""What the folders right under a root are: splits, or classes. Decided by names and by what lies in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from manyview.data.search import folders_in, has_images
from manyview.errors import DataError, shown, unknown

ROLES: tuple[str, ...] = ("train", "val", "test")
CHOICES = ("auto", "folders", "none")
_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}
_WORD = rf"(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
_NAME = rf"({_WORD})([ _-]?(set|split|data|images?|imgs?))?([ _-]?\d+)?"


@final
@dataclass(frozen=True)
class Layout:
    """splits: train, val, test -> the folder's name; none where the folders are classes. remark: for the note."""

    splits: dict[str, str] = field(default_factory=dict)
    remark: str = ""


def role_of(name: str) -> str | None:
    """train, val or test, where a folder's name is a usual one of that split, in any case; else None."""
    known = re.fullmatch(_NAME, name, re.IGNORECASE)
    return _WORDS[known[1].lower()] if known else None


def layout_of(root: Path, choice: str = "auto", arrays: bool = False, ignore: Sequence[str] = ()) -> Layout:
    """Whether the folders in a root are splits or classes.

    choice: "none": all are classes. "folders": those with a split's usual name are splits, as they are named. "auto"
    looks, too, at what lies in them: a folder called `train` that holds images directly, beside others with images, is
    a class; splits hold folders of classes, or images and nothing beside them. Where only one of val and test is beside
    train, it is the test split. Raises `DataError` where splits are there without train, where two folders would be the
    same split, and where both readings are as good.
    """
    if choice not in CHOICES:
        raise DataError(f"data.source: {unknown('value of split', choice, CHOICES, 'values')}")
    if choice == "none":
        return Layout()
    names, repeated = folders_in(root, ignore)
    place = shown(root)
    roles = {name: role for name in names if (role := role_of(name))} or _prefixed(root, names, arrays, ignore)
    if not roles and choice == "auto":
        like = [name for name in names if re.search(rf"(^|[ _-]){_WORD}|{_WORD}$", name, re.IGNORECASE)]
        return Layout(remark=f"{listed(like)} taken for classes, whatever their names" if len(like) > 1 else "")
    others = [name for name in names if name not in roles and has_images(root / name, arrays, ignore)]
    nested = [name for name in roles if _has_class_folders(root / name, arrays, ignore)]
    if choice == "auto" and others and not nested:
        return Layout(
            remark=f"{listed(roles)} taken for classes, not splits, beside {listed(others)} {_else('folders')}"
        )
    if "train" not in roles.values():
        here = f"{place} has {listed(roles)}, but" if roles else f"{place} has"
        raise DataError(
            f"{here} no folder for train; add one, let data.root name one of them, or say "
            f"{_say('none')} if all folders there are classes"
        )
    for role in ROLES:
        same = [name for name in roles if roles[name] == role]
        if len(same) > 1:
            other = min(same, key=role.__eq__)
            raise DataError(
                f"{place}: {listed(same)} are names of one split, {role}; leave one out, as in "
                f'data.source="folder(ignore={other!r})", or say {_say("none")} if all folders there are classes'
            )
    splits = {role: name for role in ROLES for name in roles if roles[name] == role}
    if choice == "auto" and others and (len(splits) == 1 or splits["train"] not in nested):
        raise DataError(
            f"{place}: {listed(roles)} may be splits, or classes beside {listed(others)}; say which, "
            f"{_say('folders')} or {_say('none')}"
        )
    return _as_splits(splits, nested, others, repeated, choice)


def _as_splits(
    splits: dict[str, str], nested: Sequence[str], others: Sequence[str], repeated: Sequence[str], choice: str
) -> Layout:
    """The layout, and what about it is worth a word."""
    remarks = []
    if choice == "auto" and "val" in splits and "test" not in splits:
        splits = {"train": splits["train"], "test": splits["val"]}
        remarks.append(f"{listed([splits['test']])} taken for the test split {_else('folders')}")
    if choice == "auto" and any(role_of(name) is None for name in splits.values()):
        remarks.append(f"{listed(splits.values())} taken for splits {_else('none')}")
    elif choice == "auto" and len(splits) > 1 and not nested:
        remarks.append(f"{listed(splits.values())} taken for splits without labels {_else('none')}")
    if others:
        remarks.append(f"{listed(others)} beside the splits left out {_else('none')}")
    if repeated:
        remarks.append(f"{listed(repeated)} left out, being links to what is read already")
    return Layout(splits, "; ".join(remarks))


def _prefixed(root: Path, names: Sequence[str], arrays: bool, ignore: Sequence[str]) -> dict[str, str]:
    """Roles of folders such as `seg_train` and `seg_test`, which hold folders of classes.

    Only where they alone have images, or all have the same prefix.
    """
    known = {name: re.fullmatch(rf"(.*[ _-]){_NAME}", name, re.IGNORECASE) for name in names}
    roles = {name: _WORDS[found[2].lower()] for name, found in known.items() if found}
    if "train" not in roles.values() or not len({*roles.values()}) == len(roles) > 1:
        return {}
    alike = len({found[1] for found in known.values() if found}) == 1
    if not alike and any(has_images(root / name, arrays, ignore) for name in names if name not in roles):
        return {}
    return roles if all(_has_class_folders(root / name, arrays, ignore) for name in roles) else {}


def _has_class_folders(folder: Path, arrays: bool, ignore: Sequence[str]) -> bool:
    return any(has_images(folder / name, arrays, ignore) for name in folders_in(folder, ignore)[0])


def listed(names: Iterable[str]) -> str:
    """Some names in quotes, for a message: 'a', 'b' and 3 more."""
    quoted = [f"'{shown(name)}'" for name in names]
    few = quoted if len(quoted) <= 4 else [*quoted[:3], f"{len(quoted) - 3} more"]
    return few[0] if len(few) == 1 else f"{', '.join(few[:-1])} and {few[-1]}"


def _say(choice: str) -> str:
    return f"data.source=\"folder(split='{choice}')\""


def _else(choice: str) -> str:
    return f"(else say {_say(choice)})"
