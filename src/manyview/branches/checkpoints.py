"""Checkpoints of other trainers, read by the tables of `layouts`: the backbone and classifier in them, and the rest.

Tensors and plain values are all that is ever loaded; a file that holds code is refused.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from manyview.branches.layouts import AROUND, COUNTED, LAYOUTS, SPELLINGS, USUAL, WRAPPERS, Layout, Spelling
from manyview.errors import RunError, unknown
from manyview.foundation.files import read_state
from manyview.foundation.words import few

PLAIN = LAYOUTS[-1]  # of files that are of no other layout
OTHERS = "others"  # what is of no part that a layout names


def read_checkpoint(path: Path) -> Any:
    """What a .safetensors file, or one that torch.save wrote, holds. Raises RunError."""
    if not path.is_file():
        raise RunError(f"no checkpoint {path}")
    if path.suffix != ".safetensors":
        return read_state(path)
    try:
        return load(path.read_bytes())  # its own reader takes no path that is not UTF-8
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def tensors(found: Any) -> dict[str, Tensor]:
    """The tensors of a mapping, by name."""
    items = found.items() if isinstance(found, Mapping) else ()
    return {str(name): value for name, value in items if isinstance(value, Tensor)}


def stripped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what DDP and torch.compile put before every name, and without the count of averages."""
    found = {name: value for name, value in state.items() if name not in COUNTED}
    while prefix := next((p for p in AROUND if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def spelled(state: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the names that timm or manyview have for them, wherever they stand, and what was renamed so.

    source: where they lie. Raises RunError for what is cut short.
    """
    found, told = dict(state), []
    for spelling in SPELLINGS:
        for prefix in _prefixes(spelling, found):
            inner = {name.removeprefix(prefix): name for name in found if name.startswith(prefix)}
            renamed = {name: _renamed(name, spelling) for name in inner}
            back = {inner[name]: f"{prefix}{new}" for name, new in renamed.items()}
            if len({back.get(name, name) for name in found}) < len(found):
                raise RunError(f"{source} has the weights of {spelling.network} under two names each")
            found = {back.get(name, name): value for name, value in found.items()}
            if spelling.biased:
                found = unbiased(found, prefix, source)
            into = ", whose biases go into the means behind them" if spelling.biased else ""
            told.append(f"{spelling.network}{into}{f' (under {prefix}*)' if prefix else ''}")
    return found, told


def _prefixes(spelling: Spelling, state: Mapping[str, Tensor]) -> list[str]:
    """What stands before networks that are spelt so."""
    first, *rest = spelling.marks
    before = [name[: -len(first)] for name in state if name.endswith(first)]
    return [
        each
        for each in before
        if (not each or each.endswith(".")) and all(f"{each}{mark}" in state for mark in rest)
    ]  # fmt: skip


def _renamed(name: str, spelling: Spelling) -> str:
    return next((re.sub(old, new, name) for old, new in spelling.renames if re.search(old, name)), name)


def unbiased(state: Mapping[str, Tensor], prefix: str, source: Path) -> dict[str, Tensor]:
    """A Wide ResNet whose convolutions have biases as one without, which gives the same.

    All that reads a convolution is a BatchNorm, once what blocks add up has been counted, so a bias is as much less of
    its running mean.
    """
    found = dict(state)

    def taken(name: str) -> Tensor:
        if (value := found.pop(f"{prefix}{name}", None)) is None or value.ndim != 1:
            raise RunError(f"{source} has a Wide ResNet with biases, which lacks {prefix}{name}; was it cut short?")
        return value.detach()

    def bias(name: str) -> Tensor:
        return taken(f"{name}.bias").double()

    def less(name: str, by: Tensor) -> None:
        mean = taken(f"{name}.running_mean")
        if mean.shape != by.shape:
            raise RunError(f"{source} has a Wide ResNet with biases, whose shapes differ at {prefix}{name}")
        found[f"{prefix}{name}.running_mean"] = (mean.double() - by).to(mean.dtype)

    added = bias("conv1")
    block_of = re.compile(rf"{re.escape(prefix)}layer(\d+)\.(\d+)\.bn1\.weight")
    blocks = sorted((int(each[1]), int(each[2])) for name in state if (each := block_of.fullmatch(name)))
    for block in (f"layer{stage}.{number}" for stage, number in blocks):
        less(f"{block}.bn1", added)
        less(f"{block}.bn2", bias(f"{block}.conv1"))
        begins = f"{prefix}{block}.shortcut.weight" in state
        added = bias(f"{block}.conv2") + (bias(f"{block}.shortcut") if begins else added)
    less("bn", added)
    return found


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by section (a wrapper, or "" where there is none) and name, and what else stands in it."""

    path: Path
    sections: Mapping[str, Mapping[str, Tensor]]
    unread: tuple[str, ...]
    plain: Mapping[str, Any]

    @property
    def addresses(self) -> list[str]:
        """`section/name` of every tensor, and `key/` of whatever else the file has under a name."""
        named = [f"{section}/{name}" for section, state in self.sections.items() for name in state]
        return [*named, *(f"{key}/" for key in (*self.sections, *self.unread) if key)]


def open_checkpoint(path: Path) -> Checkpoint:
    """A file's sections. Raises RunError for what is not there, damaged, holds code, or holds no weights by name."""
    found = read_checkpoint(path)
    if not isinstance(found, Mapping):
        raise RunError(f"{path} holds no weights by name")
    sections = {"": tensors(found)} if tensors(found) else {}
    sections |= {str(key): state for key, value in found.items() if (state := _flat(value))}
    if not sections:
        raise RunError(f"{path} holds no weights by name")
    if any(name.startswith("branches.") for name in sections.get("step", {})):
        raise RunError(f"{path} is of a run of manyview, which is taken as it is, by its folder")
    unread = [str(key) for key, value in found.items() if str(key) not in sections and not isinstance(value, Tensor)]
    unread += [f"{key}.{name}".lstrip(".") for key, state in sections.items() for name in COUNTED if name in state]
    unread += [f"{key}.{name}" for key in sections if key for name, value in found[key].items() if _odd(value)]
    plain = {key: value for key, value in found.items() if isinstance(key, str) and not isinstance(value, Tensor)}
    return Checkpoint(path, {key: stripped(state) for key, state in sections.items()}, tuple(unread), plain)


def _flat(found: Any) -> dict[str, Tensor]:
    """Tensors of a mapping of names, or of a mapping of such mappings, as AugSelf's predictors are."""
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        return {}
    inner = {f"{name}.{key}": each for name, value in found.items() for key, each in tensors(value).items()}
    return {**tensors(found), **inner}


def _odd(value: Any) -> bool:
    """Whether it is collections that hold no tensors of their own, and may hold some deeper."""
    return isinstance(value, Mapping | list | tuple) and bool(value) and not tensors(value)


def layout_of(file: Checkpoint, name: str | None) -> Layout:
    """The layout of that name, or the one that a file's names tell. Raises RunError where two do."""
    known = {layout.name: layout for layout in LAYOUTS}
    if name is not None:
        if name not in known:
            raise RunError(f"--as: {unknown('layout', name, known)}")
        return known[name]
    addresses = file.addresses
    fitting = [layout for layout in LAYOUTS if layout.marks and _fits(layout, addresses)]
    if len(fitting) > 1:
        candidates = " or ".join(f"--as {layout.name} ({layout.code})" for layout in fitting)
        raise RunError(f"{file.path} may be of several layouts; say which: {candidates}")
    return fitting[0] if fitting else PLAIN


def _fits(layout: Layout, addresses: Iterable[str]) -> bool:
    def there(mark: str) -> bool:
        return any(re.search(mark, address) for address in addresses)

    return all(map(there, layout.marks)) and not any(map(there, layout.without))


@dataclass(frozen=True)
class Taken:
    """What of a checkpoint comes along, and what does not.

    state: the backbone's weights, by their plain names; classifier: `weight` and `bias` of one on h, if it has one
    apart, and head: what stood before them. section: where the backbone was; under: what stood before its names. told:
    what was renamed. left: the names of all other tensors, by what they are of.
    """

    state: Mapping[str, Tensor]
    classifier: Mapping[str, Tensor]
    head: str
    section: str
    under: str
    told: tuple[str, ...]
    left: Mapping[str, list[str]] = field(default_factory=dict)


def take(file: Checkpoint, layout: Layout) -> Taken:
    """The backbone and classifier of a file of this layout. Raises RunError where they are not where it has them."""
    if layout.refused:
        raise RunError(f"{file.path} is a checkpoint of {layout.code}, which cannot be imported: {layout.refused}")
    places = layout.sections if layout.sections is not WRAPPERS else (*WRAPPERS, "")
    section = next((key for key in places if key in file.sections), None)
    if section is None:
        usual = " or ".join(layout.sections if layout.sections is not WRAPPERS else ("state_dict", "model"))
        has = few([key or "weights alone" for key in file.sections])
        raise RunError(f"{file.path} has no {usual}, as files of {layout.code} have; it has {has}")
    state, told = spelled(file.sections[section], file.path)
    trunks = layout.trunk if layout.marks else [*_networks(state), *layout.trunk]
    under = next((prefix for prefix in trunks if any(name.startswith(prefix) for name in state)), None)
    if under is None:
        wanted = " or ".join(f"{prefix}*" for prefix in layout.trunk)
        raise RunError(f"{file.path} has no weights {wanted}, as files of {layout.code} have")
    head = next((prefix for prefix in layout.classifier if f"{prefix}weight" in state), "")
    own = {f"{head}{part}": part for part in ("weight", "bias") if head and f"{head}{part}" in state}
    trunk: dict[str, Tensor] = {}
    left: dict[str, list[str]] = {}
    for name, value in state.items():
        part = next((what for what, mark in layout.parts.items() if re.search(mark, name)), None)
        if part is None and name.startswith(under) and name not in own:
            trunk[name.removeprefix(under)] = value
        elif name not in own:
            left.setdefault(part or OTHERS, []).append(name)
    for key, each in file.sections.items():
        if key != section:
            left.setdefault(key or OTHERS, []).extend(each)
    classifier = {part: state[name] for name, part in own.items()}
    return Taken(trunk, classifier, head, section, under, tuple(told), left)


def _networks(state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the one network whose usual names are there; nothing where there are several."""
    ends = [end for end in USUAL if any(name.endswith(end) for name in state)]
    found = {name.removesuffix(end) for end in ends for name in state if name.endswith(end)}
    return [*found] if len(found) == 1 else []


def plain_value(file: Checkpoint, *names: str) -> str | None:
    """A text that the file, or the command line kept in it as `args`, has under one of these names."""
    args = file.plain.get("args")
    beside = vars(args) if isinstance(args, Namespace) else args
    places = [file.plain, *([beside] if isinstance(beside, Mapping) else [])]
    return next((each[name] for each in places for name in names if isinstance(each.get(name), str)), None)


__all__ = ["Checkpoint", "Taken", "layout_of", "open_checkpoint", "plain_value", "read_checkpoint", "spelled", "take"]
