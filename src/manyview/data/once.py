"""Images in their order, each once, as evaluation sees them: a plan for the same stream that training reads through."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.data.images import Images, Ints, lie_in_memory
from manyview.data.loader import read_images, stream
from manyview.data.reading import PATIENCE

Layout = tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]  # type, shape and strides of an image


@dataclass(frozen=True)
class Unlike:
    """Images of unlike sizes in one piece of memory.

    A worker hands over each tensor by an open file, of which a process may have no more than some thousand.
    """

    levels: Tensor
    layouts: tuple[Layout, ...]

    @classmethod
    def of(cls, images: list[Tensor]) -> Unlike:
        """Of images [C, H, W] whose rows or channels lie last in memory."""
        dense = [image if image.permute(1, 2, 0).is_contiguous() else image.contiguous() for image in images]
        levels = [each.as_strided((each.numel(),), (1,)).view(torch.uint8) for each in dense]
        return cls(
            torch.cat(levels) if levels else torch.empty(0, dtype=torch.uint8),
            tuple((each.dtype, tuple(each.shape), each.stride()) for each in dense),
        )

    def images(self) -> list[Tensor]:
        """The images, laid out as they were, each with memory of its own."""
        sizes = [dtype.itemsize * torch.Size(shape).numel() for dtype, shape, _ in self.layouts]
        return [
            part.clone().view(dtype).as_strided(shape, strides)
            for part, (dtype, shape, strides) in zip(self.levels.split(sizes), self.layouts, strict=True)
        ]


@dataclass(frozen=True)
class Part:
    """Some images, as they were read.

    read: [B, C, H, W], or B of unlike sizes. kept: positions of those that could be read, int64 [B]. skipped: a line on
    each of the others.
    """

    read: Tensor | Unlike
    kept: Ints
    skipped: list[str]

    @property
    def images(self) -> Tensor | list[Tensor]:
        """As `read_images` gave them."""
        return self.read if isinstance(self.read, Tensor) else self.read.images()


@dataclass(frozen=True)
class Once:
    """Part number n: the images at the n-th `batch_size` of `positions`; the last part may be smaller.

    skip: leave out images that cannot be read (and say so) instead of raising. rank, world: of several processes, each
    has the parts rank, rank + world, … of those of one; all have equally many, so that a network whose weights are
    spread over them is asked as often by each: where none is left the last comes again, which nobody counts. patience:
    seconds that a worker may be at an image.
    """

    images: Images
    positions: Ints
    batch_size: int
    skip: bool = False
    rank: int = 0
    world: int = 1
    patience: float = PATIENCE

    @property
    def parts(self) -> int:
        """How many parts there are, over all processes."""
        return -(-len(self.positions) // self.batch_size)

    def __len__(self) -> int:
        return -(-self.parts // self.world)

    def __getitem__(self, number: int) -> Part:
        number = min(number * self.world + self.rank, self.parts - 1)
        asked = self.positions[number * self.batch_size : (number + 1) * self.batch_size]
        images, kept, skipped = read_images(self.images, asked, skip=self.skip)
        return Part(images if isinstance(images, Tensor) else Unlike.of(images), kept, skipped)


def place_for(images: Images, workers: int) -> str:
    """Where images are best read: by "workers" if there are any and something to decode, else ahead in this process."""
    return "workers" if workers and not lie_in_memory(images) else "memory"


def read_once(plan: Once, workers: int = 0) -> Generator[Part, None, None]:
    """All parts in order, read ahead. Closing the generator ends whoever reads. Raises BadImage, unless they skip."""
    return stream(plan, 0, len(plan), place_for(plan.images, workers), workers, patience=plan.patience)
