"""Runs a program over a batch: image after image through all its instructions, on the threads of this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from manyview.engine import kernels as k
from manyview.engine.kernels import Floats, Levels, compiled
from manyview.engine.program import Code, Program

NOTHING, LOAD, RESAMPLE, WINDOW, FLIP, TURN, PERMUTE, WARP, PROJECT, SHUFFLE = range(10)
FILL, BLUR, SHARPEN, JITTER, GRAY, LEVELS, CONTRAST, SATURATE, POSTERIZE, SOLARIZE = range(10, 20)
SOLARIZE_ADD, INVERT, AUTOCONTRAST, EQUALIZE, ADD, NOISE, BEGIN_MIX, MIX_IN, END_MIX = range(20, 29)
assert all(
    globals()[code.name] == code for code in Code
)  # the compiler takes plain numbers, not members, for constants


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen


@compiled
def run(
    addresses: NDArray[np.uint64],
    source_sizes: NDArray[np.int64],
    interleaved: bool,
    whole: bool,
    codes: NDArray[np.int8],
    args: Floats,
    sizes: NDArray[np.int64],
    out: Levels,
    start: int,
    stop: int,
) -> None:
    """Images `start` to `stop` of a batch.

    addresses: of the source images, uint8 [C, H, W] or interleaved [H, W, C]; source_sizes: their H and W [B, 2].
    whole: boxes lie on whole pixels. out: [B, C, h, w].
    """
    channels = out.shape[1]
    largest, widest = 0, 0
    for t in range(len(sizes)):
        largest = max(largest, sizes[t, 0] * sizes[t, 1])
        widest = max(widest, max(sizes[t, 0], sizes[t, 1]))
    most_taps = 8
    for i in range(start, stop):
        widest = max(widest, max(source_sizes[i, 0], source_sizes[i, 1]))
        for t in range(len(sizes)):
            for side in range(2 if codes[i, t] == RESAMPLE else 0):
                most_taps = max(most_taps, int(2 * args[i, t, 2 + side] / sizes[t, side]) + 4)
    rows_a, rows_b = np.empty(channels * largest, np.uint8), np.empty(channels * largest, np.uint8)
    rows_k = np.empty(channels * largest, np.uint8)
    floats = np.empty((3, largest), np.float32)
    total = floats.reshape(3 * largest)
    wide = np.empty(channels * (largest + 4 * widest), np.float32)
    places, index = np.empty(2 * largest, np.float32), np.empty(largest, np.int32)
    lines = np.empty(4 * widest, np.float32)
    column = np.empty(3 * widest, np.float32)
    tap_weights = np.empty(widest + 1, np.float32)
    first_y, count_y = np.empty(widest, np.int32), np.empty(widest, np.int32)
    first_x, count_x = np.empty(widest, np.int32), np.empty(widest, np.int32)
    weight_y, weight_x = np.empty((most_taps, widest), np.float32), np.empty((most_taps, widest), np.float32)
    share = np.empty(widest, np.float32)
    counts = np.empty(256, np.int32)
    taps = (first_y, count_y, weight_y, first_x, count_x, weight_x)

    for i in range(start, stop):
        height, width = source_sizes[i, 0], source_sizes[i, 1]
        source = carray(_pointer(addresses[i]), channels * height * width, np.uint8)  # type: ignore[call-arg]
        packed = interleaved
        for t in range(codes.shape[1]):
            code = codes[i, t]
            if code == 0:
                continue
            arg = args[i, t]
            if code <= WINDOW:
                out_h, out_w = sizes[t, 0], sizes[t, 1]
                b = rows_b[: channels * out_h * out_w].reshape(channels, out_h, out_w)
                if code == LOAD:
                    k.copy(source, packed, b)
                elif code == WINDOW:
                    k.window(source, packed, height, width, int(arg[0]), int(arg[1]), arg[2] > 0, arg[3:5], b)
                elif not packed and whole and arg[2] <= out_h and arg[3] <= out_w:
                    k.enlarge(source, height, width, arg[:4], arg[4:6], b, first_x, share, wide, lines)
                else:
                    k.resample(source, packed, height, width, arg[:4], arg[4:6], b, taps, wide)
                height, width = out_h, out_w
                rows_a, rows_b = rows_b, rows_a
                source, packed = rows_a, False
                continue
            size = height * width
            a = rows_a[: channels * size]
            image, planes = a.reshape(channels, height, width), a.reshape(channels, size)
            if code <= SHUFFLE or code in (BLUR, SHARPEN):
                if code == PERMUTE:
                    k.permute(planes, arg)
                    continue
                b = rows_b[: channels * size].reshape(channels, height, width)
                if code == FLIP:
                    k.flip(image, b, arg[0] > 0, arg[1] > 0)
                elif code == TURN:
                    quarters = int(arg[0])
                    if quarters == 0:
                        continue
                    if quarters == 2:
                        k.flip(image, b, True, True)
                    else:
                        k.turn(image, b, quarters)
                elif code == WARP:
                    k.warp(image, b, arg[:6], int(arg[6]), arg[7:], places, index)
                elif code == PROJECT:
                    k.project(image, b, arg[:8], int(arg[8]), arg[9:], places, index)
                elif code == SHUFFLE:
                    k.shuffle_cells(image, b, int(arg[0]), arg[1:])
                elif code == BLUR:
                    k.blur(image, b, arg[0], int(arg[1]), tap_weights, column, wide)
                else:
                    k.sharpen(image, b, arg[0], wide)
                rows_a, rows_b = rows_b, rows_a
                source = rows_a
            elif code == FILL:
                k.fill_box(image, int(arg[0]), int(arg[1]), int(arg[2]), int(arg[3]), arg[4:])
            elif code == JITTER:
                k.jitter(planes, arg[:4], arg[4:8], floats)
            elif code == GRAY:
                k.gray(planes)
            elif code == LEVELS:
                k.scale_levels(a, arg[0], k.ZERO)
            elif code == CONTRAST:
                mean = k.mean_whole_luma(planes[0], planes[1], planes[2])
                k.scale_levels(a, arg[0], (k.ONE - arg[0]) * mean)
            elif code == SATURATE:
                k.saturate(planes, arg[0])
            elif code == POSTERIZE:
                k.posterize(a, int(arg[0]))
            elif code == SOLARIZE:
                k.solarize(a, arg[0])
            elif code == SOLARIZE_ADD:
                k.solarize_add(a, arg[0], arg[1])
            elif code == INVERT:
                k.invert(a)
            elif code == AUTOCONTRAST:
                for c in range(channels):
                    k.autocontrast(planes[c])
            elif code == EQUALIZE:
                for c in range(channels):
                    k.equalize(planes[c], counts)
            elif code == ADD:
                k.add_colors(planes, arg)
            elif code == NOISE:
                seed = np.uint64(arg[4]) * np.uint64(65536) + np.uint64(arg[5])
                k.fill_noise(image, int(arg[0]), int(arg[1]), int(arg[2]), int(arg[3]), seed)
            elif code == BEGIN_MIX:
                rows_k[: a.size] = a
                k.add_share(a, arg[0], total[: a.size], True)
            elif code == MIX_IN:
                k.add_share(a, arg[0], total[: a.size], False)
                a[:] = rows_k[: a.size]
            elif code == END_MIX:
                k.lower(total[: a.size], a)
        flat = out[i].reshape(channels * height * width)
        for n in range(flat.size):
            flat[n] = rows_a[n]


def execute(program: Program, images: Tensor | Sequence[Tensor], repeat: int = 1, whole: bool = True) -> Tensor:
    """Pixels that a program makes, uint8 [B*repeat, C, h, w]. images: uint8 on the CPU, not written to.

    repeat: rows of the program for each image. whole: boxes lie on whole pixels, as they do but for images decoded at
    a part of their size.
    """
    count = len(program.codes)
    sources = list(images) if not isinstance(images, Tensor) else images
    channels = sources[0].shape[0] if len(sources) else 3
    out = torch.empty(count, channels, *program.sizes[-1].tolist(), dtype=torch.uint8)
    if not count:
        return out
    addresses, source_sizes, interleaved, kept = _layout(sources)
    if repeat > 1:
        addresses, source_sizes = addresses.repeat(repeat), source_sizes.repeat(repeat, axis=0)
    pixels = out.numpy()

    def work(start: int, stop: int) -> None:
        run(
            addresses, source_sizes, interleaved, whole, program.codes, program.args, program.sizes, pixels, start, stop
        )

    threads = min(torch.get_num_threads(), max(1, count // 8))
    if threads == 1:
        work(0, count)
    else:
        cuts = [count * n // threads for n in range(threads + 1)]
        for done in [_pool(os.getpid(), threads).submit(work, a, b) for a, b in pairwise(cuts)]:
            done.result()
    del kept
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
        steps = np.arange(len(kept), dtype=np.uint64) * np.uint64(kept.stride(0))
        return np.uint64(kept.data_ptr()) + steps, np.tile(np.array(one.shape[1:]), (len(kept), 1)), interleaved, kept
    interleaved = all(_is_interleaved(image) for image in images)
    kept = list(images) if interleaved else [image.contiguous() for image in images]
    addresses = np.array([image.data_ptr() for image in kept], np.uint64)
    return addresses, np.array([image.shape[1:] for image in kept], np.int64), interleaved, kept


def _is_interleaved(image: Tensor) -> bool:
    """Whether the channels of each pixel lie together, as decoders leave them."""
    return image.shape[0] > 1 and image.permute(1, 2, 0).is_contiguous()
