"""Compiled kernels: one image at a time, grey levels in, grey levels out, in the cache of one core.

An image is uint8 [C, H, W], contiguous, here often seen as [C, H*W]. Kernels that move pixels read `a` and write `b`;
the others work in place. Crops, resizing and blur are whole numbers throughout (`lanes`); else values between the steps
of one kernel are float32 on the scale 0…255, rounded once at its end. The equations are those of the reference in
`manyview.views.ops`, which tests hold them to. Nothing is kept.

A kernel gives the same bits on every processor: each sum has its order, products are fused with sums where `fused`
stands and nowhere else, and what a library computes otherwise from machine to machine (`exp`) is written out.

Loops run over whole slices from 0: only then does the compiler turn them into vector instructions. All kernels stand in
this one file, since the compiler's cache notices changes of the file alone that `run` stands in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyview.views.engine.compiler import array_at, compiled, intrinsic, lanes_type
from manyview.views.engine.program import Code

Levels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Whole = NDArray[np.int32]
Shares = NDArray[np.uint32]
Parts = NDArray[np.uint16]

F, U = np.float32, np.uint64
ZERO, ONE, TWO, SIX, HALF, TOP = F(0), F(1), F(2), F(6), F(0.5), F(255)
RED, GREEN, BLUE = F(0.2989), F(0.587), F(0.114)
ROUND = F(3 << 22)  # added and taken away again, rounds to whole numbers, ties to even
FINE = F(4096)  # parts of a level that lumas are added up in: 2,048 pixels of them fill no more than 31 bits
WHOLE = 1 << 16  # what the weights of a mixture of levels add up to
HALF_PART, HALF_LEVEL = 1 << 7, 1 << 23  # what rounds sums of levels, and of parts of levels, that are then cut off
BLOCK = 2048  # pixels whose lumas are added up before the sum is taken over

FINITE = ("nnan", "ninf", "nsz")  # what `finite` promises, for floats in lanes

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


# ---------------------------------------------------------------------------------------------------------- lanes
#
# Sixteen whole numbers of 32 bits at once: every processor computes the same with them, in as many registers as that
# takes. Where they lie in memory is told by an address, at which there must be that many, of 8 or 16 bits each.


def _lanes_op(gives: str, *takes: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator for a function that builds an op's instructions from a builder and the values that the op takes.

    gives, takes: "lanes", "floats" (sixteen of float32), "address", "number", "float", "sum" (of 64 bits) or "nothing".
    """

    def wrap(build: Callable[..., Any]) -> Any:
        def op(context: Any, *given: Any) -> Any:
            from numba import types

            kinds = {"lanes": lanes_type(), "address": types.uintp, "number": types.uint32, "nothing": types.void}
            kinds |= {"floats": lanes_type(floats=True), "float": types.float32, "sum": types.int64}

            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                made = build(builder, *args)
                return context.get_dummy_value() if made is None else made

            return kinds[gives](*(kinds[each] for each in takes)), codegen

        return intrinsic(functools.wraps(build, assigned=("__name__", "__doc__", "__module__"))(op))

    return wrap


def _vector(bits: int, count: int = 16) -> Any:
    """The type of `count` whole numbers."""
    from llvmlite import ir

    return ir.VectorType(ir.IntType(bits), count)


def _all(bits: int, value: int) -> Any:
    """Sixteen times a number."""
    from llvmlite import ir

    return ir.Constant(_vector(bits), [value] * 16)


def _read(builder: Any, address: Any, bits: int, count: int = 16, beyond: int = 0) -> Any:
    """Numbers from memory, `beyond` bytes after an address."""
    from llvmlite import ir

    at = builder.add(address, ir.Constant(address.type, beyond))
    return builder.load(builder.inttoptr(at, _vector(bits, count).as_pointer()), align=bits // 8)


def _write(builder: Any, address: Any, numbers: Any) -> None:
    """Numbers to memory."""
    align = numbers.type.element.width // 8
    builder.store(numbers, builder.inttoptr(address, numbers.type.as_pointer()), align=align)


def _chosen(builder: Any, a: Any, b: Any, which: Iterable[int]) -> Any:
    """Of the numbers of a, followed by those of b, these."""
    from llvmlite import ir

    places = [*which]
    return builder.shuffle_vector(a, b, ir.Constant(_vector(32, len(places)), places))


def _spread(builder: Any, number: Any) -> Any:
    """Sixteen times a number that is known later."""
    from llvmlite import ir

    nothing = ir.Constant(ir.VectorType(number.type, 16), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return _chosen(builder, one, nothing, [0] * 16)


def _each(builder: Any, name: str, *floats: Any) -> Any:
    """An instruction by its name, done to each of sixteen floats."""
    from llvmlite import ir
    from numba.core import cgutils

    kind = ir.FunctionType(floats[0].type, [each.type for each in floats])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32"), floats)


@_lanes_op("lanes", "address")
def levels_at(builder: Any, address: Any) -> Any:
    """Sixteen numbers that have 8 bits there."""
    return builder.zext(_read(builder, address, 8), _vector(32))


@_lanes_op("lanes", "address")
def numbers_at(builder: Any, address: Any) -> Any:
    """Sixteen numbers that have 16 bits there."""
    return builder.zext(_read(builder, address, 16), _vector(32))


@_lanes_op("lanes", "address")
def spread_at(builder: Any, address: Any) -> Any:
    """Sixteen times the number of 32 bits there."""
    from llvmlite import ir

    return _spread(builder, builder.load(builder.inttoptr(address, ir.IntType(32).as_pointer()), align=4))


@_lanes_op("lanes", "number")
def lanes_of(builder: Any, number: Any) -> Any:
    """Sixteen times a number."""
    return _spread(builder, number)


@_lanes_op("lanes", "lanes", "lanes")
def plus(builder: Any, a: Any, b: Any) -> Any:
    """Sums."""
    return builder.add(a, b)


@_lanes_op("lanes", "lanes", "lanes")
def times(builder: Any, a: Any, b: Any) -> Any:
    """Products."""
    return builder.mul(a, b)


@_lanes_op("nothing", "address", "lanes")
def put_numbers(builder: Any, address: Any, lanes: Any) -> None:
    """Sixteen numbers of 24 bits to memory, the upper 16 of each."""
    _write(builder, address, builder.trunc(builder.lshr(lanes, _all(32, 8)), _vector(16)))


@_lanes_op("nothing", "address", "lanes")
def put_levels(builder: Any, address: Any, lanes: Any) -> None:
    """Sixteen numbers to memory, the upper 8 bits of each."""
    _write(builder, address, builder.trunc(builder.lshr(lanes, _all(32, 24)), _vector(8)))


@_lanes_op("nothing", "address", "address", "address")
def turn_lanes(builder: Any, source: Any, step: Any, target: Any) -> None:
    """Sixteen rows of sixteen numbers, `step` bytes apart, become the columns of what is written."""
    from llvmlite import ir

    begins = [source]
    for _ in range(15):
        begins.append(builder.add(begins[-1], step))
    for half in (0, 16):
        rows = []
        for k in range(8):
            upper, lower = (_read(builder, begin, 16, 8, half) for begin in (begins[k], begins[k + 8]))
            rows.append(_chosen(builder, upper, lower, range(16)))
        for _ in range(3):  # each half of the rows by itself, as registers have it
            low = [n + 16 * other + 8 * part for part in (0, 1) for n in range(4) for other in (0, 1)]
            high = [n + 4 for n in low]
            rows = [_chosen(builder, rows[k], rows[k + 4], side) for k in range(4) for side in (low, high)]
        for k, row in enumerate(rows):
            _write(builder, builder.add(target, ir.Constant(target.type, 32 * k + 16 * half)), row)


@_lanes_op("nothing", "address", "address", "address")
def turn_levels(builder: Any, source: Any, target: Any, step: Any) -> None:
    """Sixteen rows of sixteen levels become the columns of what is written, whose rows lie `step` apart."""
    rows = [_read(builder, source, 8, 16, 16 * k) for k in range(16)]
    low = [n + 16 * other for n in range(8) for other in (0, 1)]
    high = [n + 8 for n in low]
    for _ in range(4):
        rows = [_chosen(builder, rows[k], rows[k + 8], side) for k in range(8) for side in (low, high)]
    for row in rows:
        _write(builder, target, row)
        target = builder.add(target, step)


@_lanes_op("nothing", "address", "address")
def move_levels(builder: Any, source: Any, target: Any) -> None:
    """Sixteen levels to another place."""
    _write(builder, target, _read(builder, source, 8))


@_lanes_op("nothing", "address", "address")
def mirror_levels(builder: Any, source: Any, target: Any) -> None:
    """Sixteen levels to another place, the last first."""
    levels = _read(builder, source, 8)
    _write(builder, target, _chosen(builder, levels, levels, range(15, -1, -1)))


@_lanes_op("floats", "address")
def colours_at(builder: Any, address: Any) -> Any:
    """Sixteen levels from memory, as floats."""
    from llvmlite import ir

    return builder.sitofp(builder.zext(_read(builder, address, 8), _vector(32)), ir.VectorType(ir.FloatType(), 16))


@_lanes_op("nothing", "address", "floats")
def put_colours(builder: Any, address: Any, floats: Any) -> None:
    """Sixteen floats within 0…255 to memory, as the nearest levels."""
    half = floats.type([floats.type.element(0.5)] * 16)
    whole = builder.fptosi(builder.fadd(floats, half), _vector(32))
    _write(builder, address, builder.trunc(whole, _vector(8)))


@_lanes_op("floats", "address")
def floats_at(builder: Any, address: Any) -> Any:
    """Sixteen floats from memory."""
    from llvmlite import ir

    kind = ir.VectorType(ir.FloatType(), 16)
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


@_lanes_op("nothing", "address", "floats")
def put_floats(builder: Any, address: Any, floats: Any) -> None:
    """Sixteen floats to memory."""
    builder.store(floats, builder.inttoptr(address, floats.type.as_pointer()), align=4)


@_lanes_op("floats", "float")
def floats_of(builder: Any, number: Any) -> Any:
    """Sixteen times a float."""
    return _spread(builder, number)


@_lanes_op("lanes", "floats")
def cut_off(builder: Any, floats: Any) -> Any:
    """Floats that are not negative as whole numbers, cut off."""
    return builder.fptosi(floats, _vector(32))


@_lanes_op("sum", "lanes")
def total_of(builder: Any, lanes: Any) -> Any:
    """The sum of sixteen whole numbers."""
    from llvmlite import ir

    wide, count = builder.sext(lanes, _vector(64)), 16
    while count > 1:
        count //= 2
        upper = _chosen(builder, wide, wide, range(count, 2 * count))
        wide = builder.add(_chosen(builder, wide, wide, range(count)), upper)
    return builder.extract_element(wide, ir.Constant(ir.IntType(32), 0))


@_lanes_op("floats", "floats", "floats")
def added(builder: Any, a: Any, b: Any) -> Any:
    """Sums."""
    return builder.fadd(a, b, flags=FINITE)


@_lanes_op("floats", "floats", "floats")
def less(builder: Any, a: Any, b: Any) -> Any:
    """Differences a - b."""
    return builder.fsub(a, b, flags=FINITE)


@_lanes_op("floats", "floats", "floats")
def scaled(builder: Any, a: Any, b: Any) -> Any:
    """Products."""
    return builder.fmul(a, b, flags=FINITE)


@_lanes_op("floats", "floats", "floats")
def divided(builder: Any, a: Any, b: Any) -> Any:
    """Quotients a / b."""
    return builder.fdiv(a, b, flags=FINITE)


@_lanes_op("floats", "floats", "floats", "floats")
def fused_lanes(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, each rounded once, as `fused`."""
    return _each(builder, "fma", a, b, c)


@_lanes_op("floats", "floats", "floats")
def least(builder: Any, a: Any, b: Any) -> Any:
    """The smaller of two."""
    return builder.select(builder.fcmp_ordered("<", a, b, flags=FINITE), a, b)


@_lanes_op("floats", "floats", "floats")
def most(builder: Any, a: Any, b: Any) -> Any:
    """The larger of two."""
    return builder.select(builder.fcmp_ordered(">", a, b, flags=FINITE), a, b)


@_lanes_op("floats", "floats", "floats", "floats", "floats")
def where_same(builder: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
    """`then` where a is b, else the other."""
    return builder.select(builder.fcmp_ordered("==", a, b, flags=FINITE), then, otherwise)


@_lanes_op("floats", "floats")
def floored(builder: Any, a: Any) -> Any:
    """The next whole numbers below."""
    return _each(builder, "floor", a)


@_lanes_op("floats", "floats")
def absolute(builder: Any, a: Any) -> Any:
    """How far from zero."""
    return _each(builder, "fabs", a)


@finite
def address(array: Any) -> Any:
    """Where an array's first number lies."""
    return U(array.ctypes.data)


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
def taps_of(
    start: float, scale: float, source: int, begins: int, target: int, backwards: bool, first: Whole, weights: Shares
) -> Any:
    """Taps of an antialiased resize of `source` pixels from `start` on, `scale` of them for one of the output.

    Of the output, `target` from `begins` on are made; backwards: the last first. Returns how many pixels each of the
    output takes, from `first` [target] on. weights: flat, so many for each of the output, whose sum is `WHOLE`.
    """
    reach = max(scale, 1.0)
    width = min(math.ceil(2 * reach), source)
    for out in range(target):
        to = target - 1 - out if backwards else out
        if reach == 1.0:  # two pixels, each of which shows as much as the output's centre is near it
            at = min(max(start + scale * (begins + out + 0.5) - 0.5, 0.0), source - 1.0)
            base = min(int(at), source - width)
            second = int((at - base) * WHOLE + 0.5)
            first[to], weights[U(to * width)] = base, WHOLE - second
            if width == 2:
                weights[U(to * width + 1)] = second
            continue
        centre = start + scale * (begins + out + 0.5)
        base = min(max(math.floor(centre - reach + 0.5), 0), source - width)
        total = 0.0
        for tap in range(width):
            total += max(0.0, reach - abs(base + tap + 0.5 - centre))
        so_far, reached, share = 0.0, 0, WHOLE / total
        for tap in range(width):  # sums are rounded, so that the weights add up
            so_far += max(0.0, reach - abs(base + tap + 0.5 - centre))
            before, reached = reached, int(so_far * share + 0.5)
            weights[U(to * width + tap)] = reached - before
        first[to] = base
    return width


@finite
def resample(
    source: Levels,
    interleaved: bool,
    height: int,
    width: int,
    box: Floats,
    flips: Floats,
    b: Levels,
    taps: tuple[Whole, Shares, Whole, Shares],
    rows: Parts,
    tiles: Levels,
) -> None:
    """A box (top, left, height, width in pixels) resized with an antialiased triangle filter, then flipped.

    source: flat uint8. box: need not lie on whole pixels; it ends with the numbers of a part, see `Code.RESAMPLE`.
    flips: along x, along y. taps, rows, tiles: scratch.

    Sixteen rows of the output at a time: the source's rows are mixed, sixteen columns at once, and laid out so that the
    sixteen rows of a column lie together, which can then be mixed as rows are. Weights have 16 bits, sums 32, and each
    of both mixtures is rounded once, the first to 256 parts of a level. So both layouts, parts of an image and every
    processor give the same bits, as near to the exact value as such weights allow.
    """
    channels, out_h, out_w = b.shape
    top, left = math.floor(box[0]), math.floor(box[1])
    box_h, box_w = min(math.ceil(box[0] + box[2]), height) - top, min(math.ceil(box[1] + box[3]), width) - left
    first_y, weight_y, first_x, weight_x = taps
    whole_h, whole_w, from_y, from_x = out_h, out_w, 0, 0
    if box[8] > ZERO:
        whole_h, whole_w, from_y, from_x = int(box[8]), int(box[9]), int(box[6]), int(box[7])
    scale_y, scale_x = float(box[2]) / whole_h, float(box[3]) / whole_w
    most_y = taps_of(box[0] - float(top), scale_y, box_h, from_y, out_h, flips[1] > ZERO, first_y, weight_y)
    most_x = taps_of(box[1] - float(left), scale_x, box_w, from_x, out_w, flips[0] > ZERO, first_x, weight_x)

    planes, line, step_x, step_c = channels, box_w, 1, (box_w + 15) // 16 * 16
    begin, step_row, step_plane = top * width + left, width, height * width
    if interleaved:
        planes, line, step_x, step_c = 1, box_w * channels, channels, 1
        begin, step_row = begin * channels, width * channels
    blocks = (line + 15) // 16
    # sixteen levels are read at once; those at the very end are read from a copy that something follows
    end = channels * height * width
    tail, square = tiles[:32], tiles[32:]
    for i in range(32):
        tail[i] = source[end - 16 + i] if 16 - end <= i < 16 else np.uint8(0)
    begin_at, last_at, tail_at = address(source) + U(begin), address(source) + U(end) - U(16), address(tail)
    square_at, mixed_at = address(square), address(rows)
    first_at, weight_y_at, weight_x_at = mixed_at + U(512 * planes * blocks), address(weight_y), address(weight_x)
    next_x, reach_y = U(32 * step_x), U((most_y - 1) * step_row)
    for y0 in range(0, out_h, 16):
        many = min(16, out_h - y0)
        for k in range(many):
            first_row, shares_at = U(first_y[U(y0 + k)] * step_row), weight_y_at + U(4 * (y0 + k) * most_y)
            for plane in range(planes):
                row_at = begin_at + U(plane * step_plane) + first_row
                to = mixed_at + U(32 * (k * planes + plane) * blocks)
                for block in range(blocks):
                    at, share_at, mixed = row_at + U(16 * block), shares_at, lanes_of(np.uint32(HALF_PART))
                    if at + reach_y > last_at:
                        for _ in range(most_y):
                            safe = at if at <= last_at else tail_at + (at - last_at)
                            mixed = plus(mixed, times(levels_at(safe), spread_at(share_at)))
                            at, share_at = at + U(step_row), share_at + U(4)
                    elif most_y == 2:  # as whenever an image is enlarged
                        mixed = plus(mixed, times(levels_at(at), spread_at(share_at)))
                        mixed = plus(mixed, times(levels_at(at + U(step_row)), spread_at(share_at + U(4))))
                    else:
                        for _ in range(most_y >> 1):
                            first = times(levels_at(at), spread_at(share_at))
                            second = times(levels_at(at + U(step_row)), spread_at(share_at + U(4)))
                            mixed = plus(mixed, plus(first, second))
                            at, share_at = at + U(2 * step_row), share_at + U(8)
                        if most_y & 1:
                            mixed = plus(mixed, times(levels_at(at), spread_at(share_at)))
                    put_numbers(to + U(32 * block), mixed)
        for plane in range(planes):
            for block in range(blocks):
                turn_lanes(
                    mixed_at + U(32 * (plane * blocks + block)),
                    U(32 * planes * blocks),
                    first_at + U(32 * (plane * step_c + block * 16)),
                )
        for x0 in range(0, out_w, 16):
            wide = min(16, out_w - x0)
            for c in range(channels):
                for k in range(wide):
                    at = first_at + U(32 * (first_x[U(x0 + k)] * step_x + c * step_c))
                    share_at, mixed = weight_x_at + U(4 * (x0 + k) * most_x), lanes_of(np.uint32(HALF_LEVEL))
                    if most_x == 2:
                        mixed = plus(mixed, times(numbers_at(at), spread_at(share_at)))
                        mixed = plus(mixed, times(numbers_at(at + next_x), spread_at(share_at + U(4))))
                    else:
                        for _ in range(most_x >> 1):
                            first = times(numbers_at(at), spread_at(share_at))
                            second = times(numbers_at(at + next_x), spread_at(share_at + U(4)))
                            mixed = plus(mixed, plus(first, second))
                            at, share_at = at + U(2) * next_x, share_at + U(8)
                        if most_x & 1:
                            mixed = plus(mixed, times(numbers_at(at), spread_at(share_at)))
                    put_levels(square_at + U(16 * k), mixed)
                if many == 16 and wide == 16:
                    turn_levels(square_at, address(b) + U((c * out_h + y0) * out_w + x0), U(out_w))
                else:
                    for k in range(many):
                        for x in range(wide):
                            b[c, y0 + k, x0 + x] = square[16 * x + k]


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
    first = min(max(0, -left), out_w)  # from here to `last` the window lies inside
    last = max(first, min(out_w, width - left))
    backwards = flips[0] > ZERO
    if not reflect:
        flat = b.reshape(channels * out_h * out_w)
        for n in range(flat.size):
            flat[n] = 0
    for c in range(channels):
        for y in range(out_h):
            at = mirrored(top + y, height) if reflect else top + y
            if at < 0 or at >= height:
                continue
            row = b[c, out_h - 1 - y if flips[1] > ZERO else y]
            begin = c * step_c + at * width * step_x
            if step_x == 1 and last > first:
                to = out_w - last if backwards else first
                move_row(address(source) + U(begin + left + first), address(row) + U(to), last - first, backwards)
            else:
                for x in range(first, last):
                    row[out_w - 1 - x if backwards else x] = source[begin + (left + x) * step_x]
            if reflect:
                for n in range(out_w - (last - first)):
                    x = n if n < first else n + last - first
                    row[out_w - 1 - x if backwards else x] = source[begin + mirrored(left + x, width) * step_x]


@finite
def move_row(source: Any, target: Any, count: int, backwards: bool) -> None:
    """So many levels from one address to another; backwards: the last first."""
    if count < 16:
        row, out = carray(_pointer(source), count, np.uint8), carray(_pointer(target), count, np.uint8)
        for x in range(count):
            out[count - 1 - x if backwards else x] = row[x]
        return
    for block in range(0, count, 16):
        x = min(block, count - 16)
        if backwards:
            mirror_levels(source + U(x), target + U(count - 16 - x))
        else:
            move_levels(source + U(x), target + U(x))


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
    for c in range(channels):
        for y in range(height):
            move_row(address(a[c, height - 1 - y if along_y else y]), address(b[c, y]), width, along_x)


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
    before, after = a.reshape(channels * height * width), b.reshape(channels * height * width)
    for i in range(after.size):
        after[i] = before[i]
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
def blur(a: Levels, b: Levels, sigma: Any, reach: int, shares: Shares, near: NDArray[np.uint64], line: Parts) -> None:
    """Gaussian blur with reflected edges, columns first. shares, near, line: scratch.

    Sixteen levels at once, rounded as in `resample`. What is read and written may end 15 levels beyond the images.
    """
    channels, height, width = a.shape
    # beyond three and a half sigmas a tap adds less than a tenth of a level
    reach = min(reach, math.ceil(3.5 * sigma))
    decayed = decay(0.5 / float(sigma) ** 2)
    total, value, ratio = 1.0, decayed, decayed * decayed * decayed
    for _ in range(reach):  # exp(-(n + 1)² a) is exp(-n² a) times exp(-(2n + 1) a)
        total += 2 * value
        value, ratio = value * ratio, ratio * decayed * decayed
    so_far, reached, value, ratio = 0.0, 0, decayed, decayed * decayed * decayed
    for tap in range(1, reach + 1):  # sums are rounded, so that the weights add up
        so_far += value
        before, reached = reached, int(so_far / total * WHOLE + 0.5)
        shares[tap] = reached - before
        value, ratio = value * ratio, ratio * decayed * decayed
    shares[0] = WHOLE - 2 * reached
    shares_at, line_at = address(shares), address(line) + U(2 * reach)
    for c in range(channels):
        plane_at = address(a[c])
        for y in range(height):
            for tap in range(reach + 1):
                near[2 * tap] = plane_at + U(mirrored(y - tap, height) * width)
                near[2 * tap + 1] = plane_at + U(mirrored(y + tap, height) * width)
            for x in range(0, width, 16):
                mixed = plus(lanes_of(np.uint32(HALF_PART)), times(levels_at(near[0] + U(x)), spread_at(shares_at)))
                for tap in range(1, reach + 1):
                    both = plus(levels_at(near[U(2 * tap)] + U(x)), levels_at(near[U(2 * tap + 1)] + U(x)))
                    mixed = plus(mixed, times(both, spread_at(shares_at + U(4 * tap))))
                put_numbers(line_at + U(2 * x), mixed)
            for tap in range(1, reach + 1):
                line[reach - tap] = line[reach + mirrored(tap, width)]
                line[reach + width - 1 + tap] = line[reach + mirrored(width - 1 - tap, width)]
            to = address(b[c, y])
            for x in range(0, width, 16):
                at = line_at + U(2 * x)
                mixed = plus(lanes_of(np.uint32(HALF_LEVEL)), times(numbers_at(at), spread_at(shares_at)))
                for tap in range(1, reach + 1):
                    away = U(2 * tap)
                    both = plus(numbers_at(at - away), numbers_at(at + away))
                    mixed = plus(mixed, times(both, spread_at(shares_at + U(2) * away)))
                put_levels(to + U(x), mixed)


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

    columns: scratch [H * W].
    """
    channels, height, width = a.shape
    before, after = a.reshape(channels * height * width), b.reshape(channels * height * width)
    for i in range(after.size):
        after[i] = before[i]
    if width < 3 or height < 3:
        return
    rest = ONE - factor
    size = height * width
    inner = size - 2 * width - 2  # from the second pixel of the second row on, rows following one another
    left, middle, right = columns[:inner], columns[1 : 1 + inner], columns[2 : 2 + inner]
    for c in range(channels):
        plane, out = a[c].reshape(size), b[c].reshape(size)
        here, below = plane[width:], plane[2 * width :]
        for i in range(inner + 2):
            columns[i] = F(plane[i]) + F(here[i]) + F(below[i])
        centre, to = plane[width + 1 :], out[width + 1 :]
        for i in range(inner):
            value = F(centre[i])
            around = left[i] + middle[i] + right[i]
            smooth = np.floor(fused(fused(F(4), value, around), F(1 / 13), HALF))
            to[i] = np.uint8(np.int32(min(max(value + rest * (smooth - value), ZERO), TOP)))
        for i in range(width, size - width, width):
            out[i], out[i + width - 1] = plane[i], plane[i + width - 1]


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
def jitter(a: Levels, factors: Floats, order: Floats, floats: Floats, rest: Levels) -> None:
    """Brightness, contrast, saturation and hue in any order, rounded once. a: [3, N]; floats, rest: scratch.

    order: numbers of factors: 0 to 3, with 8 in the place of 2 for the saturation of HSV.

    What precedes contrast is done in a first pass, since contrast needs the mean of its result. Sixteen pixels at a
    time go through all steps; what does not fill sixteen stands in `rest`, followed by black ones.
    """
    size = a.shape[1]
    before, later, contrast = U(0), U(0), False  # steps that do something, four bits each, the first one lowest
    for turn in range(3, -1, -1):
        kind = int(order[turn])
        if factors[kind] != (ZERO if kind == 3 else ONE):
            before = before << U(4) | U(kind + 1)
            if kind == 1:
                before, later, contrast = U(0), before, True
    whole = size // 16
    more = 0 if size == 16 * whole else 1
    for i in range(48 * more):
        at = 16 * whole + i % 16
        rest[i] = a[i // 16, at] if at < size else np.uint8(0)
    first, beyond, lifted, mean = address(a), address(rest), address(floats), ZERO
    lifted_beyond = lifted + U(192 * whole)
    if not contrast:
        before, later = later, before
    elif before == U(0):
        mean = mean_luma(a[0], a[1], a[2])
    else:
        sums = lift(first, U(size), whole, factors, before, lifted)
        sums += lift(beyond, U(16), more, factors, before, lifted_beyond)
        mean = F(sums / (float(FINE) * size))
    has_lifted = before != U(0)
    recolour(first, U(size), whole, factors, later, mean, has_lifted, lifted)
    recolour(beyond, U(16), more, factors, later, mean, has_lifted, lifted_beyond)
    for i in range(48 * more):
        at = 16 * whole + i % 16
        if at < size:
            a[i // 16, at] = rest[i]


@finite
def lift(levels: Any, plane: Any, blocks: int, factors: Floats, steps: Any, floats: Any) -> Any:
    """Blocks of sixteen pixels after some steps as floats, and the sum of their lumas in parts of `FINE`.

    levels: where the first plane begins; plane: how far it is to the next. floats: where what is made goes.
    """
    total, sums = np.int64(0), cut_off(floats_of(ZERO))
    red, green, blue, half = floats_of(RED * FINE), floats_of(GREEN * FINE), floats_of(BLUE * FINE), floats_of(HALF)
    for block in range(blocks):
        at, to = levels + U(16 * block), floats + U(192 * block)
        r, g, b = colours_at(at), colours_at(at + plane), colours_at(at + plane + plane)
        r, g, b = color_steps(steps, factors, r, g, b, ZERO)
        sums = plus(sums, cut_off(fused_lanes(blue, b, fused_lanes(green, g, fused_lanes(red, r, half)))))
        put_floats(to, r)
        put_floats(to + U(64), g)
        put_floats(to + U(128), b)
        if block % 1024 == 1023:  # so many fill no 31 bits; whole numbers add up to the same in any order
            total, sums = total + total_of(sums), cut_off(floats_of(ZERO))
    return total + total_of(sums)


@finite
def recolour(
    levels: Any, plane: Any, blocks: int, factors: Floats, steps: Any, mean: Any, lifted: bool, floats: Any
) -> None:
    """Blocks of sixteen pixels after some steps, in place, as the nearest levels; of what `lift` made, if it did."""
    for block in range(blocks):
        at, made = levels + U(16 * block), floats + U(192 * block)
        if lifted:
            r, g, b = floats_at(made), floats_at(made + U(64)), floats_at(made + U(128))
        else:
            r, g, b = colours_at(at), colours_at(at + plane), colours_at(at + plane + plane)
        r, g, b = color_steps(steps, factors, r, g, b, mean)
        put_colours(at, r)
        put_colours(at + plane, g)
        put_colours(at + plane + plane, b)


@finite
def lower(values: Floats, out: Levels) -> None:
    """Floats within 0…255 as the nearest levels."""
    for i in range(out.size):
        out[i] = np.uint8(np.int32(values[i] + HALF))


@finite
def color_steps(steps: Any, factors: Floats, r: Any, g: Any, b: Any, mean: Any) -> Any:
    """Steps of jitter on sixteen pixels, each clamped to 0…255; number 8 saturates in HSV."""
    top, zero = floats_of(TOP), floats_of(ZERO)
    while steps != U(0):
        kind = (steps & U(15)) - U(1)
        steps = steps >> U(4)
        number = factors[kind]
        factor = floats_of(number)
        if kind == U(3):
            r, g, b = turn_hue(r, g, b, factor)
        elif kind == U(0):
            r, g, b = scaled(factor, r), scaled(factor, g), scaled(factor, b)
            r, g, b = least(r, top), least(g, top), least(b, top)
        elif kind == U(8):
            r, g, b = saturate_hsv(r, g, b, factor)
        else:
            add = floats_of((ONE - number) * mean)
            if kind == U(2):
                luma = fused_lanes(floats_of(BLUE), b, fused_lanes(floats_of(GREEN), g, scaled(floats_of(RED), r)))
                add = scaled(floats_of(ONE - number), luma)
            r, g, b = fused_lanes(factor, r, add), fused_lanes(factor, g, add), fused_lanes(factor, b, add)
            r, g, b = most(r, zero), most(g, zero), most(b, zero)
            r, g, b = least(r, top), least(g, top), least(b, top)
    return r, g, b


@finite
def saturate_hsv(r: Any, g: Any, b: Any, factor: Any) -> Any:
    """Multiplies S of HSV by a factor, up to 1: the distance of each channel from the largest grows with it."""
    zero = floats_of(ZERO)
    value = most(r, most(g, b))
    chroma = less(value, least(r, least(g, b)))
    growth = least(factor, divided(value, most(chroma, floats_of(F(1e-6)))))
    r = most(less(value, scaled(growth, less(value, r))), zero)
    g = most(less(value, scaled(growth, less(value, g))), zero)
    b = most(less(value, scaled(growth, less(value, b))), zero)
    return r, g, b


@finite
def turn_hue(r: Any, g: Any, b: Any, shift: Any) -> Any:
    """Turns the hue by `shift` turns, at constant saturation and value, without branches.

    With a hue of t turns a channel is value - chroma * clip(2 - 6 d), d being how far t is, around the circle, from
    the hue where this channel is least: a half for red, five sixths for green, a sixth for blue.
    """
    third = floats_of(F(2 / 6))
    value = most(r, most(g, b))
    chroma = less(value, least(r, least(g, b)))
    inverse = divided(floats_of(F(1 / 6)), most(chroma, floats_of(F(1e-6))))
    hue = fused_lanes(less(r, g), inverse, floats_of(F(4 / 6)))
    hue = where_same(value, g, fused_lanes(less(b, r), inverse, third), hue)
    hue = added(where_same(value, r, scaled(less(g, b), inverse), hue), shift)
    # hue - 1/2 and its like, less the nearest whole number
    from_red = less(less(hue, floats_of(F(3 / 6))), floored(hue))
    from_green = less(less(hue, floats_of(F(5 / 6))), floored(less(hue, third)))
    from_blue = less(less(hue, floats_of(F(1 / 6))), floored(added(hue, third)))
    return below(value, chroma, from_red), below(value, chroma, from_green), below(value, chroma, from_blue)


@finite
def below(value: Any, chroma: Any, away: Any) -> Any:
    """A channel whose hue is so far away from where it is least."""
    zero, share = floats_of(ZERO), fused_lanes(floats_of(-SIX), absolute(away), floats_of(TWO))
    return fused_lanes(less(zero, chroma), least(most(share, zero), floats_of(ONE)), value)


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
    rows_a, rows_b = np.empty(channels * largest + 16, np.uint8), np.empty(channels * largest + 16, np.uint8)
    rows_k = np.empty(channels * largest, np.uint8)
    floats = np.empty(3 * largest + 48, np.float32)
    total = floats[: 3 * largest]
    wide = np.empty(channels * (largest + 4 * widest), np.float32)
    places, index = np.empty(2 * largest, np.float32), np.empty(largest, np.int32)
    line, near = np.empty(3 * widest + 32, np.uint16), np.empty(2 * widest + 2, np.uint64)
    shares = np.empty(widest + 1, np.uint32)
    first_y, first_x = np.empty(widest, np.int32), np.empty(widest, np.int32)
    weight_y, weight_x = np.empty(most_weights, np.uint32), np.empty(most_weights, np.uint32)
    strip, tiles = np.empty(32 * channels * (widest + 16), np.uint16), np.empty(288, np.uint8)
    counts = np.empty(256, np.int32)
    taps = (first_y, weight_y, first_x, weight_x)

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
                else:
                    resample(source, packed, height, width, arg[:10], arg[4:6], b, taps, strip, tiles)
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
                    blur(image, b, arg[0], int(arg[1]), shares, near, line)
                else:
                    sharpen(image, b, arg[0], wide)
                rows_a, rows_b = rows_b, rows_a
                source = rows_a
            elif code == Code.FILL:
                fill_box(image, int(arg[0]), int(arg[1]), int(arg[2]), int(arg[3]), arg[4:])
            elif code == Code.JITTER:
                jitter(planes, arg[:9], arg[4:8], floats, tiles)
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
