"""Compiled kernels: one image at a time, grey levels in, grey levels out, in the cache of one core.

An image is uint8 [C, H, W], contiguous, here often seen as [C, H*W]. Kernels that move pixels read `a` and write `b`;
the others work in place. Between the steps of one kernel values are float32 on the scale 0…255, rounded once at its
end. The equations are those of the reference in `manyview.views.ops`, which tests hold them to. Nothing is kept.

A kernel gives the same bits on every processor: each sum has its order, products are fused with sums where `fused`
stands and nowhere else, and what a library computes otherwise from machine to machine (`exp`) is written out.

Loops run over whole slices from 0: only then does the compiler turn them into vector instructions. All kernels stand in
this one file, since the compiler's cache notices changes of the file alone that `run` stands in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyview.views.engine.compiler import array_at, compiled, intrinsic
from manyview.views.engine.program import Code

Levels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Whole = NDArray[np.int32]

F, U = np.float32, np.uint64
ZERO, ONE, TWO, SIX, HALF, TOP = F(0), F(1), F(2), F(6), F(0.5), F(255)
RED, GREEN, BLUE = F(0.2989), F(0.587), F(0.114)
ROUND = F(3 << 22)  # added and taken away again, rounds to whole numbers, ties to even
FINE = F(4096)  # parts of a level that lumas are added up in: 2048 pixels of them fill no more than 31 bits
BLOCK = 2048  # pixels that a chain of colour steps takes at a time; their floats stay in the nearest cache

finite = compiled(finite=True)
exact = compiled()  # where a number may be none
carray = array_at(globals())


@intrinsic
def _fused(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of float32 numbers, rounded once, on processors without such an instruction too, if slowly."""
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen


fused: Any = _fused


# ------------------------------------------------------------------------------------------------------- geometry


@finite
def copy(source: Levels, interleaved: bool, b: Levels) -> None:
    """A source image as [C, H, W]. source: flat, [C, H, W] or interleaved [H, W, C]."""
    channels, height, width = b.shape
    size = height * width
    flat = b.reshape(channels, size)
    for c in range(channels):
        plane = flat[c]
        if interleaved:
            from_c = source[c:]
            for i in range(size):
                plane[i] = from_c[U(i) * U(channels)]
        else:
            from_p = source[c * size : (c + 1) * size]
            for i in range(size):
                plane[i] = from_p[i]


@finite
def triangle(
    start: float, scale: float, source: int, begins: int, target: int, first: Whole, count: Whole, weights: Floats
) -> Any:
    """Taps of an antialiased resize of `source` pixels from `start` on, `scale` of them for one of the output.

    Of the output, `target` from `begins` on are made. first, count: [target]; weights: [taps, target], zero beyond
    `count` up to four. Returns the largest count.
    """
    reach = max(scale, 1.0)
    most = 0
    for out in range(target):
        centre = start + scale * (begins + out + 0.5)
        begin = max(math.floor(centre - reach + 0.5), 0)
        end = min(math.floor(centre + reach + 0.5), source)
        total = 0.0
        for tap in range(begin, end):
            weight = max(0.0, 1.0 - abs(tap + 0.5 - centre) / reach)
            weights[tap - begin, out] = weight
            total += weight
        share = F(1.0 / total)
        for tap in range(end - begin):
            weights[tap, out] *= share
        for tap in range(end - begin, 4):
            weights[tap, out] = ZERO
        first[out] = begin
        count[out] = end - begin
        most = max(most, end - begin)
    return most


@finite
def mix_rows(rows: Levels, count: int, weights: Floats, at: int, out: Floats) -> None:
    """A sum of the first `count` rows, weighted by column `at` of the weights. rows: [count, n]; out: [n]."""
    size = out.size
    r0, w0 = rows[0], weights[0, at]
    if count == 1:
        for i in range(size):
            out[i] = F(r0[i])
        return
    r1, w1 = rows[1], weights[1, at]
    if count == 2:
        for i in range(size):
            out[i] = fused(w1, F(r1[i]), w0 * F(r0[i]))
        return
    r2, w2 = rows[2], weights[2, at]
    if count == 3:
        for i in range(size):
            out[i] = fused(w2, F(r2[i]), fused(w1, F(r1[i]), w0 * F(r0[i])))
        return
    r3, w3 = rows[3], weights[3, at]
    for i in range(size):
        out[i] = fused(w3, F(r3[i]), fused(w2, F(r2[i]), fused(w1, F(r1[i]), w0 * F(r0[i]))))
    for tap in range(4, count):
        row, weight = rows[tap], weights[tap, at]
        for i in range(size):
            out[i] = fused(weight, F(row[i]), out[i])


@finite
def mix_columns(row: Floats, first: Whole, count: Whole, most: int, weights: Floats, out: Levels) -> None:
    """A row of pixels [W*C] resized to columns, rounded. out: [C, target]; first: in numbers, not pixels.

    The row must be followed by 4*C finite numbers, since up to four taps all are read and most weights are zero.
    """
    channels, target = out.shape
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    if channels == 3:
        red, green, blue = out[0], out[1], out[2]
        if most <= 3:
            for x in range(target):
                at = U(first[x])
                r = fused(w2[x], row[at + U(6)], fused(w1[x], row[at + U(3)], fused(w0[x], row[at], HALF)))
                g = fused(w2[x], row[at + U(7)], fused(w1[x], row[at + U(4)], fused(w0[x], row[at + U(1)], HALF)))
                b = fused(w2[x], row[at + U(8)], fused(w1[x], row[at + U(5)], fused(w0[x], row[at + U(2)], HALF)))
                red[x], green[x], blue[x] = np.uint8(np.int32(r)), np.uint8(np.int32(g)), np.uint8(np.int32(b))
            return
        for x in range(target):
            at = U(first[x])
            v0, v1, v2, v3 = w0[x], w1[x], w2[x], w3[x]
            r = fused(v1, row[at + U(3)], fused(v0, row[at], HALF))
            r = fused(v3, row[at + U(9)], fused(v2, row[at + U(6)], r))
            g = fused(v1, row[at + U(4)], fused(v0, row[at + U(1)], HALF))
            g = fused(v3, row[at + U(10)], fused(v2, row[at + U(7)], g))
            b = fused(v1, row[at + U(5)], fused(v0, row[at + U(2)], HALF))
            b = fused(v3, row[at + U(11)], fused(v2, row[at + U(8)], b))
            for tap in range(4, count[x]):
                beyond, w_tap = at + U(3) * U(tap), weights[tap, x]
                r = fused(w_tap, row[beyond], r)
                g = fused(w_tap, row[beyond + U(1)], g)
                b = fused(w_tap, row[beyond + U(2)], b)
            red[x], green[x], blue[x] = np.uint8(np.int32(r)), np.uint8(np.int32(g)), np.uint8(np.int32(b))
        return
    step = U(channels)
    for c in range(channels):
        plane = out[c]
        for x in range(target):
            at = U(first[x]) + U(c)
            value = fused(w1[x], row[at + step], fused(w0[x], row[at], HALF))
            value = fused(w3[x], row[at + U(3) * step], fused(w2[x], row[at + U(2) * step], value))
            for tap in range(4, count[x]):
                value = fused(weights[tap, x], row[at + U(tap) * step], value)
            plane[x] = np.uint8(np.int32(value))


@finite
def resample(
    source: Levels,
    interleaved: bool,
    height: int,
    width: int,
    box: Floats,
    flips: Floats,
    b: Levels,
    taps: tuple[Whole, Whole, Floats, Whole, Whole, Floats],
    rows: Floats,
) -> None:
    """A box (top, left, height, width in pixels) resized with an antialiased triangle filter, then flipped.

    source: flat uint8. box: need not lie on whole pixels; it ends with the numbers of a part, see `Code.RESAMPLE`.
    flips: along x, along y. taps, rows: scratch.
    """
    channels, out_h, out_w = b.shape
    top, left = math.floor(box[0]), math.floor(box[1])
    box_h, box_w = min(math.ceil(box[0] + box[2]), height) - top, min(math.ceil(box[1] + box[3]), width) - left
    first_y, count_y, flat_y, first_x, count_x, flat_x = taps
    most_y, most_x = len(flat_y) // out_h, len(flat_x) // out_w
    weight_y, weight_x = (
        flat_y[: most_y * out_h].reshape(most_y, out_h),
        flat_x[: most_x * out_w].reshape(most_x, out_w),
    )
    whole_h, whole_w, from_y, from_x = out_h, out_w, 0, 0
    if box[8] > ZERO:
        whole_h, whole_w, from_y, from_x = int(box[8]), int(box[9]), int(box[6]), int(box[7])
    scale_y, scale_x = float(box[2]) / whole_h, float(box[3]) / whole_w
    triangle(box[0] - float(top), scale_y, box_h, from_y, out_h, first_y, count_y, weight_y)
    most = triangle(box[1] - float(left), scale_x, box_w, from_x, out_w, first_x, count_x, weight_x)
    if flips[0] > ZERO:
        for x in range(out_w // 2):
            o = out_w - 1 - x
            first_x[x], first_x[o] = first_x[o], first_x[x]
            count_x[x], count_x[o] = count_x[o], count_x[x]
            for tap in range(max(most, 4)):
                weight_x[tap, x], weight_x[tap, o] = weight_x[tap, o], weight_x[tap, x]
    if interleaved:
        for x in range(out_w):
            first_x[x] *= channels
        image = source[: height * width * channels].reshape(height, width * channels)
        image = image[top : top + box_h, left * channels : (left + box_w) * channels]
        mixed = rows[: box_w * channels]
        rows[box_w * channels :][: 4 * channels] = ZERO
        for y in range(out_h):
            to = out_h - 1 - y if flips[1] > ZERO else y
            mix_rows(image[first_y[y] :], count_y[y], weight_y, y, mixed)
            mix_columns(rows, first_x, count_x, most, weight_x, b[:, to])
    else:
        mixed = rows[:box_w]
        rows[box_w:][:4] = ZERO
        for c in range(channels):
            size = height * width
            plane = source[c * size : (c + 1) * size].reshape(height, width)[top : top + box_h, left : left + box_w]
            for y in range(out_h):
                to = out_h - 1 - y if flips[1] > ZERO else y
                mix_rows(plane[first_y[y] :], count_y[y], weight_y, y, mixed)
                mix_columns(rows, first_x, count_x, most, weight_x, b[c : c + 1, to])


@finite
def enlarge(
    source: Levels,
    interleaved: bool,
    height: int,
    width: int,
    box: Floats,
    flips: Floats,
    b: Levels,
    index: Whole,
    share: Floats,
    rows: Floats,
    lines: Floats,
) -> None:
    """`resample` of a box on whole pixels that is no larger than what it is resized to: two taps each way.

    Both layouts go this way, so that an image is the same from a file and from memory; and so do parts, each pixel of
    which is that of the whole.

    Columns first, four rows at a time, so that the second pass works on whole rows, of which no more are made than the
    part needs. index, share: scratch [W]; rows: scratch [C * (H + 2) * W]; lines: scratch [4 * box width].
    """
    channels, out_h, out_w = b.shape
    top, left, box_h, box_w = int(box[0]), int(box[1]), int(box[2]), int(box[3])
    whole_h, whole_w, from_y, from_x = F(out_h), F(out_w), 0, 0
    if box[8] > ZERO:
        whole_h, whole_w, from_y, from_x = box[8], box[9], int(box[6]), int(box[7])
    scale, last, most = F(box_w) / whole_w, F(box_w - 1), F(max(box_w - 2, 0))
    for x in range(out_w):
        at = min(max(scale * (F(from_x + x) + HALF) - HALF, ZERO), last)
        base = min(np.floor(at), most)
        to = out_w - 1 - x if flips[0] > ZERO else x
        index[to], share[to] = np.int32(base), at - base
    step = U(min(1, box_w - 1))
    scale, last, most = F(box_h) / whole_h, F(box_h - 1), F(max(box_h - 2, 0))
    begin_y = int(min(np.floor(min(max(scale * (F(from_y) + HALF) - HALF, ZERO), last)), most))
    end_y = int(min(np.floor(min(max(scale * (F(from_y + out_h - 1) + HALF) - HALF, ZERO), last)), most))
    made = end_y - begin_y + 1 + min(1, box_h - 1)
    top += begin_y
    count = channels * made
    for first in range(0, count, 4):
        for k in range(4):
            c, y = divmod(min(first + k, count - 1), made)
            to_line = lines[k * box_w : (k + 1) * box_w]
            if interleaved:
                line = source[((top + y) * width + left) * channels + c :]
                for x in range(box_w):
                    to_line[x] = F(line[U(x) * U(channels)])
            else:
                line = source[(c * height + top + y) * width + left :]
                for x in range(box_w):
                    to_line[x] = F(line[x])
        l0, l1, l2, l3 = lines[:box_w], lines[box_w : 2 * box_w], lines[2 * box_w : 3 * box_w], lines[3 * box_w :]
        r0, r1 = rows[first * out_w :][:out_w], rows[(first + 1) * out_w :][:out_w]
        r2, r3 = rows[(first + 2) * out_w :][:out_w], rows[(first + 3) * out_w :][:out_w]
        for x in range(out_w):
            here = U(index[x])
            after, part = here + step, share[x]
            r0[x] = fused(part, l0[after] - l0[here], l0[here])
            r1[x] = fused(part, l1[after] - l1[here], l1[here])
            r2[x] = fused(part, l2[after] - l2[here], l2[here])
            r3[x] = fused(part, l3[after] - l3[here], l3[here])
    below = min(1, box_h - 1) * out_w
    for y in range(out_h):
        at = min(max(scale * (F(from_y + y) + HALF) - HALF, ZERO), last)
        base = min(np.floor(at), most)
        part = at - base
        to = out_h - 1 - y if flips[1] > ZERO else y
        for c in range(channels):
            begin = (c * made + int(base) - begin_y) * out_w
            upper, lower_, out = rows[begin : begin + out_w], rows[begin + below :][:out_w], b[c, to]
            for x in range(out_w):
                out[x] = np.uint8(np.int32(fused(part, lower_[x] - upper[x], upper[x]) + HALF))


@finite
def on_pixels(box: Floats) -> bool:
    """Whether a box lies on whole pixels, as it does but for images decoded at a part of their size."""
    beside = ZERO
    for number in box:
        beside += number - np.floor(number)
    return beside == ZERO


@finite
def window(
    source: Levels,
    interleaved: bool,
    height: int,
    width: int,
    top: int,
    left: int,
    reflect: bool,
    flips: Floats,
    b: Levels,
) -> None:
    """A window at (top, left) of b's size cut out, which may reach over the edges, then flipped."""
    channels, out_h, out_w = b.shape
    step_c = 1 if interleaved else height * width
    step_x = channels if interleaved else 1
    for c in range(channels):
        for y in range(out_h):
            row = b[c, out_h - 1 - y if flips[1] > ZERO else y]
            at = top + y
            if reflect:
                at = mirrored(at, height)
            if at < 0 or at >= height:
                for x in range(out_w):
                    row[x] = 0
                continue
            begin = c * step_c + at * width * step_x
            first = min(max(0, -left), out_w)  # from here to `last` the window lies inside
            last = max(first, min(out_w, width - left))
            if flips[0] > ZERO:
                for x in range(out_w):
                    inside = left + x
                    if reflect:
                        inside = mirrored(inside, width)
                    seen = inside >= 0 and inside < width
                    row[out_w - 1 - x] = source[begin + inside * step_x] if seen else np.uint8(0)
                continue
            for x in range(first):
                row[x] = source[begin + mirrored(left + x, width) * step_x] if reflect else np.uint8(0)
            for x in range(last, out_w):
                row[x] = source[begin + mirrored(left + x, width) * step_x] if reflect else np.uint8(0)
            if last > first:
                line, inner = source[begin + (left + first) * step_x :], row[first:last]
                if step_x == 1:
                    for x in range(last - first):
                        inner[x] = line[x]
                else:
                    for x in range(last - first):
                        inner[x] = line[x * step_x]


@finite
def mirrored(at: int, size: int) -> Any:
    """A position reflected into [0, size) at the outermost pixels."""
    if at < 0:
        at = -at
    if at >= size:
        at = 2 * (size - 1) - at
    return at


@finite
def flip(a: Levels, b: Levels, along_x: bool, along_y: bool) -> None:
    """Mirrors. a, b: [C, H, W]."""
    channels, height, width = a.shape
    last = U(width - 1)
    for c in range(channels):
        for y in range(height):
            row, out = a[c, height - 1 - y if along_y else y], b[c, y]
            if along_x:
                for x in range(U(width)):
                    out[x] = row[last - x]
            else:
                for x in range(width):
                    out[x] = row[x]


@finite
def turn(a: Levels, b: Levels, quarters: int) -> None:
    """Turns by 90 or 270 degrees anticlockwise. a: [C, H, W]; b: [C, W, H]."""
    channels, height, width = a.shape
    for c in range(channels):
        for y in range(width):
            for x in range(height):
                b[c, y, x] = a[c, x, width - 1 - y] if quarters == 1 else a[c, height - 1 - x, y]


@finite
def warp(a: Levels, b: Levels, matrix: Floats, mode: int, fill: Floats, places: Floats, index: Whole) -> None:
    """Resamples by an affine map from output to source, in pixels from the centre (x, y); outside is `fill` [3].

    The steps are those of `augment.sampling.affine_places`, so that ties fall as there; a double holds the product of
    two floats exactly. mode: as for `gather`. places: scratch [2 * H * W]; index: scratch [H * W].
    """
    height, width = a.shape[1:]
    half_w, half_h = F(width) / TWO, F(height) / TWO
    m00, m01, m02 = matrix[0] / half_w, matrix[1] / half_w, matrix[2] / half_w
    m10, m11, m12 = matrix[3] / half_h, matrix[4] / half_h, matrix[5] / half_h
    w, h = F(width), F(height)
    for y in range(height):
        from_y = np.float64(F(y) + (ONE - h) / TWO)
        row_x, row_y = from_y * np.float64(m01), from_y * np.float64(m11)
        at_y, at_x = places[2 * y * width :][:width], places[(2 * y + 1) * width :][:width]
        for x in range(width):
            from_x = F(x) + (ONE - w) / TWO
            at_x[x] = ((F(row_x + np.float64(from_x * m00)) + m02 + ONE) * w - ONE) / TWO
            at_y[x] = ((F(row_y + np.float64(from_x * m10)) + m12 + ONE) * h - ONE) / TWO
    gather(a, b, places, mode, fill, index)


@exact
def warp_cubic(a: Levels, b: Levels, matrix: Floats, fill: Floats) -> None:
    """Resamples by an affine map as Pillow's bicubic `transform`, in the steps of `augment.cubic`; outside: `fill`."""
    channels, height, width = a.shape
    m00, m01, m02 = np.float64(matrix[0]), np.float64(matrix[1]), np.float64(matrix[2])
    m10, m11, m12 = np.float64(matrix[3]), np.float64(matrix[4]), np.float64(matrix[5])
    for y in range(height):
        from_y = np.float64(y) + (0.5 - height / 2)
        for x in range(width):
            from_x = np.float64(x) + (0.5 - width / 2)
            at_x = m00 * from_x + m01 * from_y + m02 + width / 2
            at_y = m10 * from_x + m11 * from_y + m12 + height / 2
            if not (at_x >= 0 and at_x < width and at_y >= 0 and at_y < height):
                for c in range(channels):
                    b[c, y, x] = np.uint8(fill[min(c, 2)])
                continue
            at_x -= 0.5
            at_y -= 0.5
            x1, y1 = math.floor(at_x), math.floor(at_y)
            part_x, part_y = at_x - x1, at_y - y1
            x0, x2, x3 = max(x1 - 1, 0), min(x1 + 1, width - 1), min(x1 + 2, width - 1)
            y0, y2, y3 = max(y1 - 1, 0), min(y1 + 1, height - 1), min(y1 + 2, height - 1)
            x1, y1 = max(x1, 0), max(y1, 0)
            for c in range(channels):
                plane = a[c]
                r0 = cubic(plane[y0, x0], plane[y0, x1], plane[y0, x2], plane[y0, x3], part_x)
                r1 = cubic(plane[y1, x0], plane[y1, x1], plane[y1, x2], plane[y1, x3], part_x)
                r2 = cubic(plane[y2, x0], plane[y2, x1], plane[y2, x2], plane[y2, x3], part_x)
                r3 = cubic(plane[y3, x0], plane[y3, x1], plane[y3, x2], plane[y3, x3], part_x)
                b[c, y, x] = np.uint8(min(max(cubic(r0, r1, r2, r3, part_y), 0.0), 255.0))


@exact
def cubic(a0: Any, a1: Any, a2: Any, a3: Any, part: float) -> Any:
    """Keys' cubic with a = -1 through four neighbours, at `part` of the way from the second to the third."""
    v0, v1, v2, v3 = np.float64(a0), np.float64(a1), np.float64(a2), np.float64(a3)
    return v1 + part * (v2 - v0 + part * (2.0 * (v0 - v1) + v2 - v3 + part * (v1 - v0 - v2 + v3)))


@exact
def project(a: Levels, b: Levels, terms: Floats, mode: int, fill: Floats, places: Floats, index: Whole) -> None:
    """Resamples by a projective map from output pixel centres to the source: (ax+by+c, dx+ey+f) / (gx+hy+1).

    By way of a grid in [-1, 1], step by step as `augment.sampling.projective_places`, so that ties fall alike.
    """
    height, width = a.shape[1:]
    w, h = F(width), F(height)
    for y in range(height):
        v = F(y) + HALF
        at_y, at_x = places[2 * y * width :][:width], places[(2 * y + 1) * width :][:width]
        for x in range(width):
            u = F(x) + HALF
            scale = terms[6] * u + terms[7] * v + ONE
            grid_x = (terms[0] * u + terms[1] * v + terms[2]) / (HALF * w) / scale - ONE
            grid_y = (terms[3] * u + terms[4] * v + terms[5]) / (HALF * h) / scale - ONE
            at_x[x] = ((grid_x + ONE) * w - ONE) / TWO
            at_y[x] = ((grid_y + ONE) * h - ONE) / TWO
    gather(a, b, places, mode, fill, index)


@exact
def gather(a: Levels, b: Levels, places: Floats, mode: int, fill: Floats, index: Whole) -> None:
    """Pixels of b from places of a; outside is `fill` [3]. places: [H, 2, W], y and x of each row.

    mode: 0 nearest; 1 bilinear as torchvision's, where the fill's share at the edge counts twice; 2 once.
    """
    channels, height, width = a.shape
    size = height * width
    last_y, last_x, w, h = F(height - 1), F(width - 1), F(width), F(height)
    if mode == 0:
        for y in range(height):
            at_y, at_x, row = places[2 * y * width :][:width], places[(2 * y + 1) * width :][:width], index[y * width :]
            for x in range(width):
                # ties to even; what is not a number counts as outside
                near_y = (min(max(at_y[x], -ONE), h) + ROUND) - ROUND
                near_x = (min(max(at_x[x], -ONE), w) + ROUND) - ROUND
                inside = (near_y >= ZERO) & (near_y <= last_y) & (near_x >= ZERO) & (near_x <= last_x)
                row[x] = np.int32(near_y * w + near_x) if inside else np.int32(-1)
        for c in range(channels):
            plane, out, around = a[c].reshape(size), b[c].reshape(size), np.uint8(fill[min(c, 2)])
            for i in range(size):
                at = index[i]
                out[i] = plane[U(at)] if at >= 0 else around
        return
    flat_a, flat_b = a.reshape(channels * size), b.reshape(channels * size)
    for y in range(height):
        at_y, at_x = places[2 * y * width :][:width], places[(2 * y + 1) * width :][:width]
        for x in range(width):
            place_y, place_x = at_y[x], at_x[x]
            if not (place_y > -ONE and place_y < h and place_x > -ONE and place_x < w):  # nor if it is no number
                place_y = place_x = -ONE
            y0, x0 = int(place_y + ONE) - 1, int(place_x + ONE) - 1
            part_y, part_x = place_y - F(y0), place_x - F(x0)
            # shares of the four pixels around, without those that lie outside
            upper = ONE - part_y if 0 <= y0 < height else ZERO
            lower_ = part_y if y0 < height - 1 else ZERO
            left = ONE - part_x if 0 <= x0 < width else ZERO
            right = part_x if x0 < width - 1 else ZERO
            inside = (upper + lower_) * (left + right)
            above_at, below_at = U(min(max(y0, 0), height - 1) * width), U(min(max(y0 + 1, 0), height - 1) * width)
            left_at, right_at = U(min(max(x0, 0), width - 1)), U(min(max(x0 + 1, 0), width - 1))
            i00, i01, i10, i11 = above_at + left_at, above_at + right_at, below_at + left_at, below_at + right_at
            to = U(y * width + x)
            for c in range(channels):
                plane = U(c * size)
                above = left * F(flat_a[plane + i00]) + right * F(flat_a[plane + i01])
                below = left * F(flat_a[plane + i10]) + right * F(flat_a[plane + i11])
                value, around_c = upper * above + lower_ * below, fill[min(c, 2)]
                if mode == 1:
                    value = (value - around_c) * inside + around_c
                else:
                    value += (ONE - inside) * around_c
                flat_b[plane + to] = np.uint8((min(max(value, ZERO), TOP) + ROUND) - ROUND)


@finite
def shuffle_cells(a: Levels, b: Levels, cells: int, order: Floats) -> None:
    """Cell number k of b, row by row, is cell order[k] of a; pixels beyond the last whole cell stay."""
    channels, height, width = a.shape
    cell_h, cell_w = height // cells, width // cells
    b[:] = a
    for c in range(channels):
        for k in range(cells * cells):
            source = int(order[k])
            to_y, to_x = (k // cells) * cell_h, (k % cells) * cell_w
            from_y, from_x = (source // cells) * cell_h, (source % cells) * cell_w
            for y in range(cell_h):
                row, out = a[c, from_y + y, from_x : from_x + cell_w], b[c, to_y + y, to_x : to_x + cell_w]
                for x in range(cell_w):
                    out[x] = row[x]


@finite
def fill_box(a: Levels, y0: int, x0: int, y1: int, x1: int, fill: Floats) -> None:
    """Rows y0…y1 and columns x0…x1 (without the last) become `fill` [3]; parts beyond the edges are nothing."""
    channels, height, width = a.shape
    for c in range(channels):
        value = np.uint8(fill[min(c, 2)])
        for y in range(max(y0, 0), min(y1, height)):
            for x in range(max(x0, 0), min(x1, width)):
                a[c, y, x] = value


@finite
def fill_noise(a: Levels, y0: int, x0: int, y1: int, x1: int, seed: Any) -> None:
    """The box becomes uniform noise, the level of flat position n being the highest byte of mix(mix(n) + seed)."""
    channels, height, width = a.shape
    for c in range(channels):
        for y in range(max(y0, 0), min(y1, height)):
            for x in range(max(x0, 0), min(x1, width)):
                position = U((c * height + y) * width + x)
                a[c, y, x] = np.uint8(mix(mix(position) + seed) >> U(24))


@finite
def mix(word: Any) -> Any:
    """The bijection of 32-bit words, held in 64 bits, that `augment.erase.mix` defines."""
    word = word & U(0xFFFFFFFF)
    word = ((word ^ (word >> U(16))) * U(0x7FEB352D)) & U(0xFFFFFFFF)
    word = ((word ^ (word >> U(15))) * U(0x846CA68B)) & U(0xFFFFFFFF)
    return word ^ (word >> U(16))


# ----------------------------------------------------------------------------------------------------------- blur


@finite
def blur(a: Levels, b: Levels, sigma: Any, reach: int, taps: Floats, column: Floats, row: Floats) -> None:
    """Gaussian blur with reflected edges, rows first. taps, column, row: scratch."""
    channels, height, width = a.shape
    # beyond three and a half sigmas a tap adds less than a tenth of a level
    reach = min(reach, math.ceil(3.5 * sigma))
    total = 0.0
    value, ratio = 1.0, decay(0.5 / float(sigma) ** 2)
    step = ratio * ratio
    for tap in range(reach + 1):  # exp(-(n + 1)² a) is exp(-n² a) times exp(-(2n + 1) a)
        taps[tap] = value
        total += value if tap == 0 else 2 * value
        value, ratio = value * ratio, ratio * step
    for tap in range(reach + 1):
        taps[tap] /= F(total)
    centre = taps[0]
    mixed = column[reach : reach + width]
    for c in range(channels):
        for y in range(height):
            here = a[c, y]
            for x in range(width):
                mixed[x] = centre * F(here[x])
            for tap in range(1, reach + 1, 2):  # two at a time, the last beside itself with no weight
                second = min(tap + 1, reach)
                w1, w2 = taps[tap], taps[second] if second > tap else ZERO
                up1, down1 = a[c, mirrored(y - tap, height)], a[c, mirrored(y + tap, height)]
                up2, down2 = a[c, mirrored(y - second, height)], a[c, mirrored(y + second, height)]
                for x in range(width):
                    near = fused(w1, F(up1[x]) + F(down1[x]), mixed[x])
                    mixed[x] = fused(w2, F(up2[x]) + F(down2[x]), near)
            for tap in range(1, reach + 1):
                column[reach - tap] = column[reach + mirrored(tap, width)]
                column[reach + width - 1 + tap] = column[reach + mirrored(width - 1 - tap, width)]
            out = row[:width]
            for x in range(width):
                out[x] = fused(centre, mixed[x], HALF)
            for tap in range(1, reach + 1, 2):
                second = min(tap + 1, reach)
                w1, w2 = taps[tap], taps[second] if second > tap else ZERO
                left1, right1 = column[reach - tap :][:width], column[reach + tap :][:width]
                left2, right2 = column[reach - second :][:width], column[reach + second :][:width]
                for x in range(width):
                    out[x] = fused(w2, left2[x] + right2[x], fused(w1, left1[x] + right1[x], out[x]))
            levels = b[c, y]
            for x in range(width):
                levels[x] = np.uint8(np.int32(out[x]))


@finite
def decay(rate: float) -> float:
    """exp(-rate) of a rate that is not negative: a series for a small part of it, squared up."""
    if rate > 80:
        return 0.0
    part, total = rate / 256, 1.0
    for term in range(14, 0, -1):
        total = 1 - total * part / term
    for _ in range(8):
        total *= total
    return total


@finite
def sharpen(a: Levels, b: Levels, factor: Any, columns: Floats) -> None:
    """Blends with the 3x3 smoothed image (rounded): 0 smooths, 1 keeps, 2 sharpens; the outermost pixels stay.

    columns: scratch [W].
    """
    channels, height, width = a.shape
    b[:] = a
    if width < 3 or height < 3:
        return
    rest = ONE - factor
    inner = width - 2
    left, middle, right = columns[:inner], columns[1 : 1 + inner], columns[2 : 2 + inner]
    for c in range(channels):
        for y in range(1, height - 1):
            above, here, below, out = a[c, y - 1], a[c, y], a[c, y + 1], b[c, y, 1 : 1 + inner]
            centre = here[1 : 1 + inner]
            for x in range(width):
                columns[x] = F(above[x]) + F(here[x]) + F(below[x])
            for x in range(inner):
                value = F(centre[x])
                around = left[x] + middle[x] + right[x]
                smooth = np.floor(fused(fused(F(4), value, around), F(1 / 13), HALF))
                out[x] = np.uint8(np.int32(min(max(value + rest * (smooth - value), ZERO), TOP)))


# --------------------------------------------------------------------------------------------------------- colour


@finite
def scale_levels(a: Levels, factor: Any, add: Any) -> None:
    """factor * level + add, clamped and cut off to whole levels. a: flat."""
    for i in range(a.size):
        a[i] = np.uint8(np.int32(min(max(factor * F(a[i]) + add, ZERO), TOP)))


@finite
def mean_luma(red: Levels, green: Levels, blue: Levels) -> Any:
    """Mean luma of an image. Arguments: flat planes."""
    r, g, b = np.int64(0), np.int64(0), np.int64(0)
    for start in range(0, red.size, BLOCK):
        r += level_sum(red[start : start + BLOCK])
        g += level_sum(green[start : start + BLOCK])
        b += level_sum(blue[start : start + BLOCK])
    return F((float(RED) * r + float(GREEN) * g + float(BLUE) * b) / red.size)


@finite
def level_sum(levels: Levels) -> Any:
    """Sum of the levels of a block."""
    total = np.int32(0)
    for i in range(levels.size):
        total += np.int32(levels[i])
    return total


@finite
def mean_whole_luma(red: Levels, green: Levels, blue: Levels) -> Any:
    """Mean of the lumas cut off to whole levels. Arguments: flat planes."""
    total = np.int64(0)
    for i in range(red.size):
        total += np.int32(RED * F(red[i]) + GREEN * F(green[i]) + BLUE * F(blue[i]))
    return F(total / red.size)


@finite
def saturate(a: Levels, factor: Any) -> None:
    """Blends with the luma of each pixel, in whole levels, and cuts off to such. a: [3, N]."""
    red, green, blue = a[0], a[1], a[2]
    for i in range(red.size):
        r, g, b = F(red[i]), F(green[i]), F(blue[i])
        rest = (ONE - factor) * F(np.int32(RED * r + GREEN * g + BLUE * b))
        red[i] = np.uint8(np.int32(min(max(factor * r + rest, ZERO), TOP)))
        green[i] = np.uint8(np.int32(min(max(factor * g + rest, ZERO), TOP)))
        blue[i] = np.uint8(np.int32(min(max(factor * b + rest, ZERO), TOP)))


@finite
def gray(a: Levels) -> None:
    """All channels become the luma. a: [3, N]."""
    red, green, blue = a[0], a[1], a[2]
    for i in range(red.size):
        luma = fused(BLUE, F(blue[i]), fused(GREEN, F(green[i]), fused(RED, F(red[i]), HALF)))
        level = np.uint8(np.int32(luma))
        red[i], green[i], blue[i] = level, level, level


@finite
def permute(a: Levels, order: Floats) -> None:
    """Channel j becomes channel order[j]. a: [3, N]."""
    red, green, blue = a[0], a[1], a[2]
    first, second, third = int(order[0]), int(order[1]), int(order[2])
    for i in range(red.size):
        r, g, b = red[i], green[i], blue[i]
        red[i] = r if first == 0 else g if first == 1 else b
        green[i] = r if second == 0 else g if second == 1 else b
        blue[i] = r if third == 0 else g if third == 1 else b


@finite
def jitter(a: Levels, factors: Floats, order: Floats, floats: Floats) -> None:
    """Brightness, contrast, saturation and hue in any order, rounded once. a: [3, N]; floats: scratch [3, N].

    order: numbers of factors: 0 to 3, with 8 in the place of 2 for the saturation of HSV.

    What precedes contrast is done in a first pass, since contrast needs the mean of its result.
    """
    size = a.shape[1]
    turn_of_contrast = -1
    if factors[1] != ONE:
        for turn in range(4):
            if int(order[turn]) == 1:
                turn_of_contrast = turn
    mean = ZERO
    begin = 0
    if turn_of_contrast >= 0:
        before = 0
        for turn in range(turn_of_contrast):
            kind = int(order[turn])
            if factors[kind] != (ZERO if kind == 3 else ONE):
                before += 1
        if before == 0:
            mean = mean_luma(a[0], a[1], a[2])
        else:
            sums = np.int64(0)
            for start in range(0, size, BLOCK):
                stop = min(size, start + BLOCK)
                r, g, b = floats[0, start:stop], floats[1, start:stop], floats[2, start:stop]
                lift(a[:, start:stop], r, g, b)
                for turn in range(turn_of_contrast):
                    color_step(int(order[turn]), factors, r, g, b, ZERO)
                sums += luma_sum(r, g, b)
            mean = F(sums / (float(FINE) * size))
            begin = turn_of_contrast
    for start in range(0, size, BLOCK):
        stop = min(size, start + BLOCK)
        r, g, b = floats[0, start:stop], floats[1, start:stop], floats[2, start:stop]
        if begin == 0:
            lift(a[:, start:stop], r, g, b)
        for turn in range(begin, 4):
            color_step(int(order[turn]), factors, r, g, b, mean)
        lower(r, a[0, start:stop])
        lower(g, a[1, start:stop])
        lower(b, a[2, start:stop])


@finite
def lift(a: Levels, r: Floats, g: Floats, b: Floats) -> None:
    """Levels [3, n] as floats, a plane each."""
    red, green, blue = a[0], a[1], a[2]
    for i in range(r.size):
        r[i] = F(red[i])
    for i in range(r.size):
        g[i] = F(green[i])
    for i in range(r.size):
        b[i] = F(blue[i])


@finite
def lower(values: Floats, out: Levels) -> None:
    """Floats within 0…255 as the nearest levels."""
    for i in range(out.size):
        out[i] = np.uint8(np.int32(values[i] + HALF))


@finite
def luma_sum(r: Floats, g: Floats, b: Floats) -> Any:
    """Sum of the lumas of a block, in parts of `FINE`: whole numbers add up to the same in any order."""
    total = np.int32(0)
    for i in range(r.size):
        total += np.int32(fused(BLUE * FINE, b[i], fused(GREEN * FINE, g[i], fused(RED * FINE, r[i], HALF))))
    return total


@finite
def color_step(kind: int, factors: Floats, r: Floats, g: Floats, b: Floats, mean: Any) -> None:
    """One of the four steps of jitter on a block of floats, each clamped to 0…255; number 8 saturates in HSV."""
    factor = factors[kind]
    if factor == (ZERO if kind == 3 else ONE):
        return
    rest = ONE - factor
    if kind == 0:
        for i in range(r.size):
            r[i] = min(factor * r[i], TOP)
        for i in range(r.size):
            g[i] = min(factor * g[i], TOP)
        for i in range(r.size):
            b[i] = min(factor * b[i], TOP)
    elif kind == 1:
        add = rest * mean
        for i in range(r.size):
            r[i] = min(max(fused(factor, r[i], add), ZERO), TOP)
        for i in range(r.size):
            g[i] = min(max(fused(factor, g[i], add), ZERO), TOP)
        for i in range(r.size):
            b[i] = min(max(fused(factor, b[i], add), ZERO), TOP)
    elif kind == 2:
        for i in range(r.size):
            red, green, blue = r[i], g[i], b[i]
            add = rest * fused(BLUE, blue, fused(GREEN, green, RED * red))
            r[i] = min(max(fused(factor, red, add), ZERO), TOP)
            g[i] = min(max(fused(factor, green, add), ZERO), TOP)
            b[i] = min(max(fused(factor, blue, add), ZERO), TOP)
    elif kind == 8:
        saturate_hsv(r, g, b, factor)
    else:
        turn_hue(r, g, b, factor)


@finite
def saturate_hsv(r: Floats, g: Floats, b: Floats, factor: Any) -> None:
    """Multiplies S of HSV by a factor, up to 1: the distance of each channel from the largest grows with it."""
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(red, max(green, blue))
        chroma = value - min(red, min(green, blue))
        growth = min(factor, value / max(chroma, F(1e-6)))
        r[i] = max(value - growth * (value - red), ZERO)
        g[i] = max(value - growth * (value - green), ZERO)
        b[i] = max(value - growth * (value - blue), ZERO)


@finite
def turn_hue(r: Floats, g: Floats, b: Floats, shift: Any) -> None:
    """Turns the hue by `shift` turns, at constant saturation and value, without branches.

    With a hue of t turns a channel is value - chroma * clip(2 - 6 d), d being how far t is, around the circle, from
    the hue where this channel is least: a half for red, five sixths for green, a sixth for blue.
    """
    for i in range(r.size):
        red, green, blue = r[i], g[i], b[i]
        value = max(red, max(green, blue))
        chroma = value - min(red, min(green, blue))
        inverse = F(1 / 6) / max(chroma, F(1e-6))
        hue = fused(red - green, inverse, F(4 / 6))
        hue = fused(blue - red, inverse, F(2 / 6)) if value == green else hue
        hue = (green - blue) * inverse if value == red else hue
        hue += shift
        # hue - 1/2 and its like, less the nearest whole number
        from_red = hue - F(3 / 6) - np.floor(hue)
        from_green = hue - F(5 / 6) - np.floor(hue - F(2 / 6))
        from_blue = hue - F(1 / 6) - np.floor(hue + F(2 / 6))
        r[i] = fused(-chroma, min(max(fused(-SIX, abs(from_red), TWO), ZERO), ONE), value)
        g[i] = fused(-chroma, min(max(fused(-SIX, abs(from_green), TWO), ZERO), ONE), value)
        b[i] = fused(-chroma, min(max(fused(-SIX, abs(from_blue), TWO), ZERO), ONE), value)


@finite
def add_share(a: Levels, share: Any, total: Floats, begin: bool) -> None:
    """Adds a share of an image to a mixture. a, total: flat; begin: the mixture is empty."""
    if begin:
        for i in range(a.size):
            total[i] = share * F(a[i])
    else:
        for i in range(a.size):
            total[i] += share * F(a[i])


# --------------------------------------------------------------------------------------------------------- levels


@finite
def posterize(a: Levels, bits: int) -> None:
    """Keeps the highest bits. a: flat."""
    mask = np.uint8((256 - (1 << (8 - bits))) & 255)
    for i in range(a.size):
        a[i] &= mask


@finite
def solarize(a: Levels, threshold: Any) -> None:
    """Inverts levels of at least `threshold`. a: flat."""
    for i in range(a.size):
        a[i] = np.uint8(255) - a[i] if F(a[i]) >= threshold else a[i]


@finite
def solarize_add(a: Levels, amount: Any, threshold: Any) -> None:
    """Adds `amount` to levels below `threshold`, clamped. a: flat."""
    for i in range(a.size):
        raised = np.uint8(np.int32(min(max(F(a[i]) + amount, ZERO), TOP)))
        a[i] = raised if F(a[i]) < threshold else a[i]


@finite
def add_solarize(a: Levels, amount: Any) -> None:
    """Adds `amount` to all levels, clamped, then inverts those of at least 128. a: flat."""
    for i in range(a.size):
        raised = np.uint8(np.int32(min(max(F(a[i]) + amount, ZERO), TOP)))
        a[i] = np.uint8(255) - raised if raised >= np.uint8(128) else raised


@finite
def invert(a: Levels) -> None:
    """255 - level. a: flat."""
    for i in range(a.size):
        a[i] = np.uint8(255) - a[i]


@finite
def autocontrast(plane: Levels) -> None:
    """Stretches a plane so that its darkest level becomes 0 and its brightest 255; flat planes stay."""
    low, high = np.uint8(255), np.uint8(0)
    for i in range(plane.size):
        low, high = min(low, plane[i]), max(high, plane[i])
    if low == high:
        return
    spread = F(np.int32(high) - np.int32(low)) * F(1 / 255)
    for i in range(plane.size):
        plane[i] = np.uint8(np.int32(min(F(plane[i] - low) / spread, TOP)))


@finite
def equalize(plane: Levels, counts: Whole) -> None:
    """Spreads levels evenly by their cumulative histogram, with Pillow's integer arithmetic. counts: scratch [256]."""
    for bin in range(256):
        counts[bin] = 0
    for i in range(plane.size):
        counts[U(plane[i])] += 1
    brightest = 255
    while counts[brightest] == 0:
        brightest -= 1
    step = (plane.size - counts[brightest]) // 255
    if step == 0:
        return
    below = 0
    for bin in range(256):
        here = counts[bin]
        counts[bin] = min((below + step // 2) // step, 255)
        below += here
    for i in range(plane.size):
        plane[i] = np.uint8(counts[U(plane[i])])


@finite
def add_colors(a: Levels, amounts: Floats) -> None:
    """Adds an amount to each channel. a: [C, N]; amounts: [C]."""
    for c in range(a.shape[0]):
        plane, amount = a[c], amounts[c] + HALF
        for i in range(plane.size):
            plane[i] = np.uint8(np.int32(min(max(F(plane[i]) + amount, ZERO), TOP)))


# ----------------------------------------------------------------------------------------------------------- run


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """An address as a pointer."""
    from numba import types
    from numba.core import cgutils

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), codegen


@finite
def run(
    addresses: NDArray[np.uint64],
    source_sizes: NDArray[np.int64],
    interleaved: bool,
    codes: NDArray[np.int8],
    args: Floats,
    sizes: NDArray[np.int64],
    out: Levels,
    start: int,
    stop: int,
) -> None:
    """Images `start` to `stop` of a batch.

    addresses: of the source images, uint8 [C, H, W] or interleaved [H, W, C]; source_sizes: their H and W [B, 2].
    out: [B, C, h, w].
    """
    channels = out.shape[1]
    largest, widest = 0, 0
    for t in range(len(sizes)):
        largest = max(largest, sizes[t, 0] * sizes[t, 1])
        widest = max(widest, max(sizes[t, 0], sizes[t, 1]))
    most_weights = 0
    for i in range(start, stop):
        widest = max(widest, max(source_sizes[i, 0], source_sizes[i, 1]))
        for t in range(len(sizes)):
            for side in range(2 if codes[i, t] == Code.RESAMPLE else 0):
                whole = args[i, t, 8 + side] or F(sizes[t, side])
                most_weights = max(most_weights, sizes[t, side] * (int(2 * args[i, t, 2 + side] / whole) + 4))
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
    weight_y, weight_x = np.empty(most_weights, np.float32), np.empty(most_weights, np.float32)
    share = np.empty(widest, np.float32)
    counts = np.empty(256, np.int32)
    taps = (first_y, count_y, weight_y, first_x, count_x, weight_x)

    for i in range(start, stop):
        height, width = source_sizes[i, 0], source_sizes[i, 1]
        source = carray(_pointer(addresses[i]), channels * height * width, np.uint8)
        packed = interleaved
        for t in range(codes.shape[1]):
            code = codes[i, t]
            if code == Code.NOTHING:
                continue
            arg = args[i, t]
            if code <= Code.WINDOW:
                out_h, out_w = sizes[t, 0], sizes[t, 1]
                b = rows_b[: channels * out_h * out_w].reshape(channels, out_h, out_w)
                if code == Code.LOAD:
                    copy(source, packed, b)
                elif code == Code.WINDOW:
                    window(source, packed, height, width, int(arg[0]), int(arg[1]), arg[2] > 0, arg[3:5], b)
                elif arg[2] <= (arg[8] or F(out_h)) and arg[3] <= (arg[9] or F(out_w)) and on_pixels(arg[:4]):
                    enlarge(source, packed, height, width, arg[:10], arg[4:6], b, first_x, share, wide, lines)
                else:
                    resample(source, packed, height, width, arg[:10], arg[4:6], b, taps, wide)
                height, width = out_h, out_w
                rows_a, rows_b = rows_b, rows_a
                source, packed = rows_a, False
                continue
            size = height * width
            a = rows_a[: channels * size]
            image, planes = a.reshape(channels, height, width), a.reshape(channels, size)
            if code <= Code.SHUFFLE or code in (Code.BLUR, Code.SHARPEN):
                if code == Code.PERMUTE:
                    permute(planes, arg)
                    continue
                b = rows_b[: channels * size].reshape(channels, height, width)
                if code == Code.FLIP:
                    flip(image, b, arg[0] > 0, arg[1] > 0)
                elif code == Code.TURN:
                    quarters = int(arg[0])
                    if quarters == 0:
                        continue
                    if quarters == 2:
                        flip(image, b, True, True)
                    else:
                        turn(image, b, quarters)
                elif code == Code.WARP:
                    if arg[6] == F(3):
                        warp_cubic(image, b, arg[:6], arg[7:])
                    else:
                        warp(image, b, arg[:6], int(arg[6]), arg[7:], places, index)
                elif code == Code.PROJECT:
                    project(image, b, arg[:8], int(arg[8]), arg[9:], places, index)
                elif code == Code.SHUFFLE:
                    shuffle_cells(image, b, int(arg[0]), arg[1:])
                elif code == Code.BLUR:
                    blur(image, b, arg[0], int(arg[1]), tap_weights, column, wide)
                else:
                    sharpen(image, b, arg[0], wide)
                rows_a, rows_b = rows_b, rows_a
                source = rows_a
            elif code == Code.FILL:
                fill_box(image, int(arg[0]), int(arg[1]), int(arg[2]), int(arg[3]), arg[4:])
            elif code == Code.JITTER:
                jitter(planes, arg[:9], arg[4:8], floats)
            elif code == Code.GRAY:
                gray(planes)
            elif code == Code.LEVELS:
                scale_levels(a, arg[0], ZERO)
            elif code == Code.CONTRAST:
                mean = mean_whole_luma(planes[0], planes[1], planes[2])
                scale_levels(a, arg[0], (ONE - arg[0]) * mean)
            elif code == Code.SATURATE:
                saturate(planes, arg[0])
            elif code == Code.POSTERIZE:
                posterize(a, int(arg[0]))
            elif code == Code.SOLARIZE:
                solarize(a, arg[0])
            elif code == Code.SOLARIZE_ADD:
                if arg[2] > ZERO:
                    add_solarize(a, arg[0])
                else:
                    solarize_add(a, arg[0], arg[1])
            elif code == Code.INVERT:
                invert(a)
            elif code == Code.AUTOCONTRAST:
                for c in range(channels):
                    autocontrast(planes[c])
            elif code == Code.EQUALIZE:
                for c in range(channels):
                    equalize(planes[c], counts)
            elif code == Code.ADD:
                add_colors(planes, arg)
            elif code == Code.NOISE:
                seed = np.uint64(arg[4]) * np.uint64(65536) + np.uint64(arg[5])
                fill_noise(image, int(arg[0]), int(arg[1]), int(arg[2]), int(arg[3]), seed)
            elif code == Code.BEGIN_MIX:
                rows_k[: a.size] = a
                add_share(a, arg[0], total[: a.size], True)
            elif code == Code.MIX_IN:
                add_share(a, arg[0], total[: a.size], False)
                a[:] = rows_k[: a.size]
            elif code == Code.END_MIX:
                lower(total[: a.size], a)
        flat = out[i].reshape(channels * height * width)
        for n in range(flat.size):
            flat[n] = rows_a[n]
