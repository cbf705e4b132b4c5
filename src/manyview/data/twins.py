"""Images that train and what judges have in common, by their contents and whatever they are called.

What that costs: of pixels in memory a digest of all; of files and rows their sizes, and a reading of those whose size
occurs in both, where there are at most `MOST`; of other items from Python, which are read and perhaps made for it, a
few of what judges and at most `READ` of train. Beyond that nothing is looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import TensorDataset

from manyview.data.contents import content_of, has_contents
from manyview.data.decode import BadImage
from manyview.data.huggingface import TableImages
from manyview.data.images import FolderImages, Images, Ints, Subset
from manyview.data.item_images import GivenImages, spread
from manyview.data.items import Pairs
from manyview.data.mark import pixels_of
from manyview.data.shards import ShardImages
from manyview.data.splits import Splits
from manyview.errors import shown, warn
from manyview.foundation.words import counted
from manyview.views.streams import UNLABELED

MOST = 100_000  # files or rows of train and of what judges whose sizes are asked for
READ = 2_000  # items of train that are read for this alone


def tell_twins(splits: Splits) -> None:
    """Warns of images of val and test that train has too, or a stream of another source, in a line each."""
    for split in ("val", "test"):
        held = getattr(splits, split)
        if held is None:
            continue
        _tell(split, held, "train", splits.train, "measures what was learnt by heart")
        if splits.unlabeled is not None and splits.withheld is None:  # of another source; the same was split
            _tell(split, held, UNLABELED, splits.unlabeled, "was trained on, if without its labels")


def _tell(split: str, held: Images, name: str, seen: Images, why: str) -> None:
    pairs, looked = twins(seen, held)
    if pairs:
        mine, its = pairs[0]
        some = "" if looked == len(held) else " that were looked at"
        warn(
            f"data: of {counted(looked, f'{split} image')}{some}, {len(pairs):,} "
            f"{'is' if len(pairs) == 1 else 'are'} in {name} too, byte for byte ({shown(held.name(its))} is "
            f"{shown(seen.name(mine))}), so {split} {why}; leave copies out"
        )


def twins(train: Images, held: Images) -> tuple[list[tuple[int, int]], int]:
    """Images of held that train has too: (position in train, position in held); and how many of held were looked at.

    Where train has several of equal contents, one of them stands for all.
    """
    (mine, at), (its, there) = _within(train), _within(held)
    if type(mine) is not type(its) or (has_contents(mine) and len(at) + len(there) > MOST):
        return [], 0
    asked = np.array(spread(len(there))) if _is_made(its) else np.arange(len(there))
    first, second = _kinds(mine, at), _kinds(its, there[asked])
    in_both = {*first} & {*second}
    candidates = [place for place, kind in enumerate(first) if kind in in_both]
    if _is_made(mine) and len(candidates) > READ:
        return [], 0
    known = {digest: place for place in candidates if (digest := _digest(mine, int(at[place]))) is not None}
    pairs = []
    for place, kind in zip(asked.tolist(), second, strict=True):
        if kind in in_both and (digest := _digest(its, int(there[place]))) in known:
            pairs.append((known[digest], place))
    return pairs, len(asked)


def _within(images: Images) -> tuple[Images, Ints]:
    """What subsets are subsets of, and the positions there."""
    if not isinstance(images, Subset):
        return images, np.arange(len(images))
    whole, positions = _within(images.images)
    return whole, positions[images.positions]


def _is_made(images: Images) -> bool:
    """Whether an image is what a user's own code makes of its number, which may take long."""
    ready = Pairs | np.ndarray | Tensor | TensorDataset
    return isinstance(images, GivenImages) and not isinstance(images.dataset, ready)


def _kinds(images: Images, positions: Ints) -> Sequence[Hashable]:
    """Of each image what is the same for equal contents and known without reading them; None where nothing is."""
    if isinstance(images, FolderImages):
        return [_size(images.name(int(position))) for position in positions]
    if isinstance(images, TableImages):
        sizes = images.sizes()
        return [sizes[position] for position in positions.tolist()]
    if isinstance(images, ShardImages):
        return images.table.check[positions].tolist()
    if isinstance(images, GivenImages):
        return images.labels[positions].tolist()
    return [None] * len(positions)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(images: Images, position: int) -> bytes | None:
    """Of a file's or row's bytes, else of the pixels; None for what cannot be read."""
    try:
        data = content_of(images, position) if has_contents(images) else pixels_of(images, position)
    except BadImage:
        return None
    return hashlib.blake2b(data, digest_size=16).digest()
