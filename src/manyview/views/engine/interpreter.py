"""Runs a program over a batch: image after image through all its instructions, on the threads of this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.views.engine.kernels import run
from manyview.views.engine.program import Program

LEAST = 8  # images that are worth a thread


def execute(program: Program, images: Tensor | Sequence[Tensor], repeat: int = 1) -> Tensor:
    """Pixels that a program makes, uint8 [B*repeat, C, h, w]. images: uint8 on the CPU, not written to.

    repeat: rows of the program for each image.
    """
    count = len(program.codes)
    channels = images[0].shape[0] if len(images) else 3
    out = torch.empty(count, channels, *program.sizes[-1].tolist(), dtype=torch.uint8)
    if not count:
        return out
    addresses, source_sizes, interleaved, kept = _layout(images)
    if repeat > 1:
        addresses, source_sizes = addresses.repeat(repeat), source_sizes.repeat(repeat, axis=0)
    source = (addresses, source_sizes, interleaved)
    pixels = out.numpy()

    def work(start: int, stop: int) -> None:
        run(*source, program.codes, program.args, program.sizes, pixels, start, stop)

    threads = min(torch.get_num_threads(), max(1, count // LEAST))
    if threads == 1:
        work(0, count)
    else:
        cuts = [count * n // threads for n in range(threads + 1)]
        for part in [_pool(os.getpid(), threads).submit(work, *ends) for ends in pairwise(cuts)]:
            part.result()
    del kept  # the addresses are of its pixels
    return out


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="manyview")


def _layout(images: Tensor | Sequence[Tensor]) -> tuple[NDArray[np.uint64], NDArray[np.int64], bool, object]:
    """Addresses [B], sizes [B, 2], whether pixels are interleaved, and what must stay alive meanwhile."""
    kept: list[Tensor] | Tensor
    if isinstance(images, Tensor):
        one = images[0]
        interleaved = _is_interleaved(one)
        kept = images if interleaved or one.is_contiguous() else images.contiguous()
        addresses = np.arange(len(kept), dtype=np.uint64) * np.uint64(kept.stride(0)) + np.uint64(kept.data_ptr())
        source_sizes = np.empty((len(kept), 2), np.int64)
        source_sizes[:] = one.shape[1:]
        return addresses, source_sizes, interleaved, kept
    interleaved = all(_is_interleaved(image) for image in images)
    kept = list(images) if interleaved else [image.contiguous() for image in images]
    addresses = np.array([image.data_ptr() for image in kept], np.uint64)
    return addresses, np.array([image.shape[1:] for image in kept], np.int64), interleaved, kept


def _is_interleaved(image: Tensor) -> bool:
    """Whether the channels of each pixel lie together, as decoders leave them."""
    return image.shape[0] > 1 and image.permute(1, 2, 0).is_contiguous()
