"""Rows of views: put together for one pass, taken apart again, and those of a family's members among its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from manyview.views.ops.op import as_float
from manyview.views.view import View


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """All rows in one tensor; one tensor is not copied, and grey levels of all stay grey levels."""
    if len(tensors) == 1:
        return tensors[0]
    alike = len({tensor.dtype for tensor in tensors}) == 1
    return torch.cat(list(tensors) if alike else [as_float(tensor) for tensor in tensors])


def parted(rows: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
    """The rows of each part again."""
    return rows.split(counts) if len(counts) > 1 else [rows]


def in_pieces(look: Callable[[Tensor], dict[str, Tensor]], images: Tensor, most: int | None) -> dict[str, Tensor]:
    """What a network says of images, so many of them at a time, each piece computed again in the backward pass.

    Values and gradients are those of all at once, where an image's do not hang on others. In memory are the activations
    of one piece alone (gradient caching: Gao et al., RepL4NLP 2021); what is drawn inside is drawn again alike.
    """
    if most is None or len(images) <= most:
        return look(images)
    again = torch.is_grad_enabled()
    found = [checkpoint(look, piece, use_reentrant=False) if again else look(piece) for piece in images.split(most)]
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def in_order(views: Mapping[str, View]) -> list[str]:
    """Names of views and of their members."""
    return [name for view, made in views.items() for name in (view, *(f"{view}.{t}" for t in range(made.members)))]


def family_read(view: str, read: Collection[str]) -> str:
    """The view whose forward pass holds this one: its family's, where that is read as a whole."""
    family = view.partition(".")[0]
    return family if family in read else view


def images_of(views: Mapping[str, View], name: str) -> Tensor:
    """The images of a view, or of a member of a family."""
    base, _, member = name.partition(".")
    return of_member(views[base].images, name, views) if member else views[base].images


def of_member(rows: Tensor, name: str, views: Mapping[str, View]) -> Tensor:
    """The rows of a member such as `r.0` among its family's."""
    base, _, member = name.partition(".")
    return rows[int(member) :: views[base].members]


def by_shape(images: Mapping[str, Tensor]) -> Sequence[list[str]]:
    """Names of views whose images are of one shape."""
    groups: dict[torch.Size, list[str]] = {}
    for name, value in images.items():
        groups.setdefault(value.shape[1:], []).append(name)
    return list(groups.values())
