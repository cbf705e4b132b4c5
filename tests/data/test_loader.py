"""Batches as a function of the step number: order, workers, ranks and parts, restarts, bad images, unlike sizes."""

import io
import multiprocessing
import os
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import manyview
from manyview.data import ArrayImages, BadImage, loader, open_splits, preload
from manyview.data.loader import AHEAD, Batch, Batches, load, load_ahead, read_images
from manyview.errors import DataError
from manyview.show.display import Display
from manyview.views.draws import order_of
from manyview.views.plan import TEST
from manyview.views.view import View, interleave

VIEWS = """
views:
  a: {from: image, make: "pad_crop(8, padding=2) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8)"}
  b: {from: a, make: "randaugment(2, 9)"}
  many: {from: image, make: "crop(8)", count: 3}
  turned: {from: a, orbit: rotation}
branches: {net: {backbone: cresnet20}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {epochs: 1}
"""
MIXED_VIEWS = """
views:
  a: {from: image, make: "pad_crop(8, padding=2) | mixup(1.0)"}
  b: {from: a, make: "flip(0.5)"}
  cut: {from: image, make: "cutmix(1.0, per='image')", count: 2}
branches: {net: {backbone: cresnet20}}
relations: ["cross_entropy(logits(b), logits(cut))"]
train: {epochs: 1}
"""
FOLDER_VIEWS = """
views:
  a: {from: image, make: "crop(12) | flip(0.5)"}
  b: {from: a, make: "grayscale(0.5)"}
branches: {net: {backbone: cresnet20}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {epochs: 1}
"""


@pytest.fixture(autouse=True)
def _cores(monkeypatch):
    """As many workers as are asked for, also on a machine of one core."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def plan_of(text):
    return {name: view for name, view in manyview.parse_recipe(text).view_plan.items() if name != TEST}


def pictures(count, seed=0, size=8):
    """Images whose first pixel is their position, with labels and identities that are not."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(count)
    return ArrayImages(pixels, np.arange(count) % 10, np.arange(count) * 7 + 3, split="train")


def write_images(root, sizes, seed=0):
    """root/train/{cat,dog}/NN.png of the sizes (height, width) given, in turn one a class."""
    drawn = np.random.default_rng(seed)
    for number, (height, width) in enumerate(sizes):
        folder = root / "train" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(256, size=(height, width, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return root


def folder_images(root):
    spec = manyview.parse_recipe(f"data: {{source: folder, root: '{root}', val_fraction: 0}}\n" + FOLDER_VIEWS).data
    return open_splits(spec, 0).train


def same_images(one, two):
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, View):
        same_images(one.images, two.images)
        assert torch.equal(one.target, two.target)
        assert one.members == two.members
        assert one.params.keys() == two.params.keys()
        for op in one.params:
            assert one.params[op].keys() == two.params[op].keys()
            assert all(torch.equal(value, two.params[op][name]) for name, value in one.params[op].items())
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for name in one:
            same_images(one[name], two[name])
    else:
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            same_images(left, right)


def same(one, two):
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.index, two.index)
    assert one.epoch == two.epoch
    assert one.skipped == two.skipped
    same_images(one.images, two.images)


def all_same(ones, twos):
    ones, twos = list(ones), list(twos)
    assert len(ones) == len(twos)
    for one, two in zip(ones, twos, strict=True):
        same(one, two)


def test_batch_holds_what_its_positions_say():
    images = pictures(30)
    batches = Batches(images, batch_size=8, steps_per_epoch=3, seed=5)
    for number in range(9):
        batch = batches[number]
        positions = batch.images[:, 0, 0, 0].long()
        assert batch.epoch == number // 3
        assert len(positions) == 8
        assert batch.index.tolist() == (positions * 7 + 3).tolist()
        assert batch.labels.tolist() == (positions % 10).tolist()
        assert torch.equal(batch.images, images.pixels[positions])
        assert batch.labels.dtype == batch.index.dtype == torch.int64


def test_every_image_once_an_epoch_but_for_the_remainder_and_in_another_order():
    batches = Batches(pictures(30), batch_size=8, steps_per_epoch=3, seed=5)
    epochs = [[int(i) for n in range(3) for i in batches[3 * e + n].index] for e in range(20)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 24
    assert len({tuple(epoch) for epoch in epochs}) == 20
    # another six are left out each time, so that all are seen in the end
    assert {i for epoch in epochs for i in epoch} == {7 * i + 3 for i in range(30)}


def test_order_depends_on_the_seed_and_not_on_the_batch_size():
    images = pictures(24)
    order = {}
    for seed, size in ((0, 4), (0, 12), (1, 4)):
        batches = Batches(images, size, 24 // size, seed)
        order[seed, size] = torch.cat([batches[n].index for n in range(24 // size)]).tolist()
    assert order[0, 4] == order[0, 12]
    assert order[0, 4] != order[1, 4]
    assert order[0, 4] != sorted(order[0, 4])


@pytest.mark.parametrize("views", [None, plan_of(VIEWS)], ids=["images", "rendered"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_batches_bit_for_bit(views, workers):
    batches = Batches(pictures(30), 8, 3, seed=5, views=views)
    here = list(load(batches, 0, 7, workers=0))
    all_same(here, load(batches, 0, 7, workers=workers))
    if views is not None:
        shapes = {name: tuple(view.images.shape) for name, view in here[0].images.items()}
        assert shapes == {"a": (8, 3, 8, 8), "b": (8, 3, 8, 8), "many": (24, 3, 8, 8), "turned": (32, 3, 8, 8)}


def test_rendered_in_a_worker_equals_rendered_by_the_step():
    recipe = manyview.parse_recipe(VIEWS, "seed=5")
    step = manyview.Step(recipe, 10)
    plain = Batches(pictures(30), 8, 3, seed=5)
    rendered = replace(plain, views=plan_of(VIEWS))
    for one, two in zip(load(plain, 2, 6, 0), load(rendered, 2, 6, 2), strict=True):
        same_images(step.views(one.images, one.labels, index=one.index, epoch=one.epoch), two.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_batches_are_the_same_in_workers_and_in_the_step(workers):
    """Partners, shares and soft targets too, from any first batch on, in every part of a batch."""
    step = manyview.Step(manyview.parse_recipe(MIXED_VIEWS, "seed=5"), 10)
    plain = Batches(pictures(60), 24, 2, seed=5, accumulate=2, rank=1, world=2)
    rendered = replace(plain, views=plan_of(MIXED_VIEWS), classes=10)
    for one, two in zip(load(plain, 3, 8, 0), load(rendered, 3, 8, workers), strict=True):
        made = step.views(one.images, one.labels, index=one.index, epoch=one.epoch)
        same_images(made, two.images)
        assert made["b"].target.shape == (6, 10)
        assert made["cut"].target.shape == (12, 10)
        assert torch.isfinite(step(two.images, two.labels)["loss"])


@pytest.mark.parametrize(("world", "accumulate", "size"), [(1, 1, 8), (2, 1, 8), (2, 2, 12), (1, 1, 40)])
def test_the_images_beside_one_are_those_of_its_part_of_the_batch(world, accumulate, size):
    images = pictures(30)
    steps = max(1, 30 // size)
    whole = Batches(images, size, steps, seed=2, accumulate=accumulate, world=world)
    for epoch in (0, 3):
        seen = set()
        for number in range(epoch * steps * accumulate, (epoch + 1) * steps * accumulate):
            for rank in range(world):
                _, positions = replace(whole, rank=rank).positions(number)
                for position in positions:
                    assert np.array_equal(whole.beside(int(position), epoch), positions)
                seen |= set(positions.tolist())
        for left_over in set(range(30)) - seen:
            assert whole.beside(left_over, epoch) is None
        assert len(seen) == min(30, steps * size)


def test_draws_do_not_depend_on_the_batch_size():
    by_size = {}
    for size in (3, 12):
        batches = Batches(pictures(24), size, 24 // size, 1, views=plan_of(VIEWS))
        seen = {}
        for number in range(24 // size):
            batch = batches[number]
            for row, index in enumerate(batch.index.tolist()):
                for name, view in batch.images.items():
                    rows = slice(row * view.members, (row + 1) * view.members)
                    for op, params in view.params.items():
                        for key, value in params.items():
                            seen[index, name, op, key] = value[rows].tolist()
        by_size[size] = seen
    assert by_size[3] == by_size[12]
    assert len({str(box) for asked, box in by_size[3].items() if asked[1:] == ("a", "pad_crop", "box")}) > 5


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 3), (4, 3)])
def test_ranks_and_parts_together_are_the_batch_of_one_process(world, accumulate):
    images = pictures(60)
    whole = Batches(images, 24, 2, seed=3)
    parts = [replace(whole, world=world, accumulate=accumulate, rank=rank) for rank in range(world)]
    streams = [list(load(part, 0, 4 * accumulate, 0)) for part in parts]
    for step in range(4):
        pieces = [streams[rank][step * accumulate + part] for part in range(accumulate) for rank in range(world)]
        assert {len(piece.labels) for piece in pieces} == {24 // world // accumulate}
        assert {piece.epoch for piece in pieces} == {whole[step].epoch}
        assert torch.equal(torch.cat([piece.index for piece in pieces]), whole[step].index)
        assert torch.equal(torch.cat([piece.images for piece in pieces]), whole[step].images)
        assert torch.equal(torch.cat([piece.labels for piece in pieces]), whole[step].labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_in_the_middle_is_the_tail_of_the_whole_stream(workers):
    batches = Batches(pictures(30), 8, 3, seed=5, accumulate=2, views=plan_of(VIEWS))
    whole = list(load(batches, 0, 14, 0))
    for start in (1, 6, 9, 13, 14):
        all_same(whole[start:], load(batches, start, 14, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_left_alone(workers):
    """Dropout draws from it: what the loader took would make a resumed run another run."""
    torch.manual_seed(11)
    untouched = torch.rand(3)
    torch.manual_seed(11)
    stream = load(Batches(pictures(30), 8, 3, seed=5), 0, 3, workers)
    next(stream)
    assert torch.equal(torch.rand(3), untouched)
    assert len(multiprocessing.active_children()) == workers
    stream.close()
    assert multiprocessing.active_children() == []


# ------------------------------------------------------------------------------------------------- made by a thread


@dataclass
class Noted:
    """Batches that note which of them were made, and fail at one."""

    batches: Batches
    fails_at: int | None = None
    made: list[int] = field(default_factory=list)

    def __getitem__(self, number):
        self.made.append(number)
        if number == self.fails_at:
            raise KeyError("mine")
        return self.batches[number]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("manyview-loader")]


@pytest.mark.parametrize("text", [VIEWS, MIXED_VIEWS], ids=["drawn", "mixed"])
def test_a_thread_gives_the_same_batches_in_order_from_any_first_one_on(text):
    batches = Batches(pictures(30), 8, 3, seed=5, accumulate=2, views=plan_of(text), classes=10)
    whole = list(load(batches, 0, 14, 0))
    for start, stop in ((0, 14), (1, 14), (6, 9), (12, 14), (13, 14), (14, 14)):
        all_same(whole[start:stop], load_ahead(batches, start, stop))
        assert loader_threads() == []
    all_same(load(replace(batches, views=None), 3, 9, 0), load_ahead(replace(batches, views=None), 3, 9))


def test_a_thread_is_two_batches_ahead_and_no_more():
    batches = Noted(Batches(pictures(30), 8, 3, seed=5))
    stream = load_ahead(batches, 3, 20)
    assert batches.made == []  # nothing before it is asked
    for number in range(3, 8):
        next(stream)
        for _ in range(1000):
            if len(batches.made) == number - 3 + 1 + AHEAD:
                break
            time.sleep(0.005)
        time.sleep(0.01)
        assert batches.made == list(range(3, number + 1 + AHEAD))
    stream.close()


def test_closing_ends_the_thread():
    batches = Noted(Batches(pictures(30), 8, 3, seed=5))
    stream = load_ahead(batches, 0, 1000)
    next(stream)
    assert len(loader_threads()) == 1
    stream.close()
    assert loader_threads() == []
    assert len(batches.made) <= 1 + AHEAD
    with pytest.raises(StopIteration):
        next(stream)


def test_an_error_in_the_thread_comes_as_itself_after_the_batches_before_it(tmp_path):
    batches = Noted(Batches(pictures(30), 8, 3, seed=5), fails_at=4)
    stream = load_ahead(batches, 1, 9)
    seen = [next(stream) for _ in range(3)]
    with pytest.raises(KeyError, match="mine"):
        next(stream)
    all_same(seen, load(batches.batches, 1, 4, 0))
    assert loader_threads() == []
    bad = broken_folder(tmp_path)
    with pytest.raises(BadImage) as caught:
        list(load_ahead(Batches(folder_images(tmp_path), 6, 2, seed=0), 0, 2))
    assert str(caught.value).startswith(f"{bad}: ")


def test_the_global_generator_is_left_alone_by_the_thread():
    torch.manual_seed(11)
    untouched = torch.rand(3)
    torch.manual_seed(11)
    list(load_ahead(Batches(pictures(30), 8, 3, seed=5, views=plan_of(VIEWS)), 0, 3))
    assert torch.equal(torch.rand(3), untouched)


def test_fewer_images_than_a_batch():
    batches = Batches(pictures(10), 16, 1, seed=0)
    for number in range(3):
        assert sorted(batches[number].index.tolist()) == [7 * i + 3 for i in range(10)]
        assert batches[number].epoch == number


# ------------------------------------------------------------------------------------------------- bad images


def broken_folder(root):
    write_images(root, [(10, 10)] * 12)
    bad = root / "train" / "dog" / "05.png"
    bad.write_bytes(bad.read_bytes()[:60])
    return bad


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_line_with_and_without_workers(tmp_path, workers):
    bad = broken_folder(tmp_path)
    batches = Batches(folder_images(tmp_path), 6, 2, seed=0)
    with pytest.raises(BadImage) as caught:
        list(load(batches, 0, 2, workers))
    message = str(caught.value)
    assert message.startswith(f"{bad}: ")
    assert "\n" not in message


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("views", [None, plan_of(FOLDER_VIEWS)], ids=["images", "rendered"])
def test_a_bad_image_is_skipped_and_named(tmp_path, workers, views):
    bad = broken_folder(tmp_path)
    images = folder_images(tmp_path)
    number = [images.name(i) for i in range(12)].index(str(bad))
    batches = list(load(Batches(images, 6, 2, seed=0, skip=True, views=views), 0, 4, workers))
    for batch in batches:
        assert len({*batch.index.tolist()}) == 6
        assert number not in batch.index
        assert batch.labels.tolist() == [int(images.labels[i]) for i in batch.index]
        assert all(line.startswith(f"{bad}: ") for line in batch.skipped)
        if views is None:
            for row, index in enumerate(batch.index.tolist()):
                assert torch.equal(batch.images[row], images.read(index))
        else:
            assert [len(view.images) for view in batch.images.values()] == [6, 6]
            assert all(torch.equal(view.target, batch.labels) for view in batch.images.values())
    assert sorted(len(batch.skipped) for batch in batches) == [0, 0, 1, 1]  # once an epoch


def spoil(root, numbers):
    """Makes images of `write_images` unreadable; their number is that of their file."""
    for path in root.rglob("*.png"):
        if int(path.stem) in numbers:
            path.write_bytes(b"no image")


def test_what_takes_the_place_of_a_bad_image(tmp_path):
    """The next that can be read of those at its place in the following batches, round and round; all else stays."""
    images = folder_images(write_images(tmp_path, [(10, 10)] * 26))
    batches = Batches(images, 8, 3, seed=3, skip=True)
    before = [batches[number].index.tolist() for number in range(6)]
    order = batches.positions(0)[1].tolist() + batches.positions(1)[1].tolist() + batches.positions(2)[1].tolist()
    full = order_of(3, 0, 26).tolist()
    assert full[:24] == order
    assert list(batches.instead_of(order[9], 0))[:3] == [full[17], full[25], full[1]], (
        "what is left over has a place, too"
    )
    bad = {order[9], order[10], order[2]}  # two of the second batch, one of the first
    spoil(tmp_path, {int(images.name(i)[-6:-4]) for i in bad})
    for number in range(6):
        epoch, places = batches.positions(number)
        batch = batches[number]
        for place, index, original in zip(places.tolist(), batch.index.tolist(), before[number], strict=True):
            good = [i for i in batches.instead_of(place, epoch) if i not in bad]
            assert index == (good[0] if place in bad else original)
        assert len({*batch.index.tolist()}) == 8
        assert len(batch.skipped) >= len(bad & {*places.tolist()})
    assert batches[1].index[1] == full[17]
    assert sorted(batches.instead_of(order[9], 0)) == sorted({*range(26)} - {order[9]})


@pytest.mark.parametrize(("world", "accumulate", "workers"), [(2, 1, 0), (4, 1, 0), (2, 2, 2), (1, 4, 0)])
def test_bad_images_leave_ranks_and_parts_the_batch_of_one_process(tmp_path, world, accumulate, workers):
    """A whole part of bad images too; each has its size, which BatchNorm, mixing and other processes count on."""
    images = folder_images(write_images(tmp_path, [(10, 10)] * 30))
    whole = Batches(images, 8, 3, seed=1, skip=True)
    spoil(tmp_path, {int(images.name(i)[-6:-4]) for i in [*whole.positions(0)[1][:4], *whole.positions(4)[1][3:6]]})
    for step in range(6):
        parts = [
            list(load(replace(whole, world=world, accumulate=accumulate, rank=rank), step * accumulate,
                      (step + 1) * accumulate, workers if step in (0, 4) else 0))
            for rank in range(world)
        ]  # fmt: skip
        pieces = [parts[rank][part] for part in range(accumulate) for rank in range(world)]
        assert {len(piece.labels) for piece in pieces} == {8 // world // accumulate}
        assert torch.equal(torch.cat([piece.index for piece in pieces]), whole[step].index)
        assert torch.equal(torch.cat([piece.images for piece in pieces]), whole[step].images)
        assert sorted(line for piece in pieces for line in piece.skipped) == sorted(whole[step].skipped)
    assert len(whole[0].skipped) >= 4


def test_mixed_images_have_partners_in_spite_of_bad_ones(tmp_path):
    images = folder_images(write_images(tmp_path, [(10, 10)] * 12))
    batches = Batches(images, 4, 3, seed=0, accumulate=2, skip=True, views=plan_of(MIXED_VIEWS), classes=2)
    spoil(tmp_path, {int(images.name(i)[-6:-4]) for i in batches.positions(0)[1]})  # all of the first part
    first, again = batches[0], batches[0]
    assert first.images["b"].images.shape == (2, 3, 8, 8)
    assert sorted(first.images["a"].params["mixup"]["partner"].tolist()) == [0, 1]
    same(first, again)


def test_draws_of_an_image_do_not_change_when_its_neighbour_is_skipped(tmp_path):
    write_images(tmp_path, [(10, 10)] * 12)
    images = folder_images(tmp_path)
    whole = Batches(images, 12, 1, seed=0, skip=True, views=plan_of(FOLDER_VIEWS))[0]
    broken_folder(tmp_path)
    fewer = Batches(images, 12, 1, seed=0, skip=True, views=plan_of(FOLDER_VIEWS))[0]
    alike = whole.index == fewer.index
    assert int(alike.sum()) == 11
    # the only batch of its epoch has every image already: one of them comes twice, as it was drawn
    boxes = [batch.images["a"].params["crop"]["box"] for batch in (whole, fewer)]
    assert torch.equal(boxes[0][alike], boxes[1][alike])
    (twice,) = (~alike).nonzero()[0].tolist()
    other = next(row for row, index in enumerate(fewer.index.tolist()) if index == fewer.index[twice] and row != twice)
    assert torch.equal(boxes[1][twice], boxes[1][other])


def test_where_no_image_can_be_read_one_line_says_so(tmp_path):
    write_images(tmp_path, [(10, 10)] * 4)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"no image")
    batches = Batches(folder_images(tmp_path), 2, 2, seed=0, skip=True)
    message = (
        r"^no image of a batch could be read; the first: .*\.png: not an image.* \(nor could any other of the 4 .*\)$"
    )
    with pytest.raises(DataError, match=message) as caught:
        batches[0]
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- workers' warnings


class Noisy:
    """Images whose decoder has something to say of each."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getattr__(self, name):
        return getattr(self.images, name)

    def read(self, position):
        warnings.warn(f"corrupt EXIF data in {position}", UserWarning, stacklevel=1)
        return self.images.read(position)


@pytest.mark.parametrize("workers", [0, 2])
def test_warnings_of_workers_are_given_by_the_main_process_once_each(workers):
    batches = Batches(Noisy(pictures(12)), 4, 3, seed=0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = list(load(batches, 0, 6, workers))
    all_same(made, load(replace(batches, images=pictures(12)), 0, 6, 0))
    told = [str(each.message) for each in seen if each.category is not DeprecationWarning]  # Python's own, of forks
    assert sorted(told) == sorted(f"corrupt EXIF data in {n}" for n in range(12))


def test_workers_forked_while_the_bar_is_drawn_can_speak(monkeypatch):
    """Whatever lock another thread holds at that moment, such as the bar's, they never wait for it."""
    console = Console(file=io.StringIO(), force_terminal=True)
    display = Display(console=console)
    display._total = 3
    forked, held = threading.Event(), threading.Event()

    def draw():
        with display._bar._lock, console._lock:
            held.set()
            forked.wait(20)

    batches = Batches(Noisy(pictures(12)), 4, 3, seed=0)
    # as outside of pytest: to whatever stands in the place of stderr
    monkeypatch.setattr(warnings, "showwarning", lambda message, *where: sys.stderr.write(f"{message}\n"))
    with display.training(), ThreadPoolExecutor(2) as threads:
        drawing = threads.submit(draw)
        assert held.wait(20)
        loading = threads.submit(lambda: [len(batch.labels) for batch in load(batches, 0, 3, 2)])
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        forked.set()
        drawing.result(20)
        try:
            assert loading.result(30) == [4, 4, 4]
        except TimeoutError:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def printing(worker):
    loader._begin_worker(worker)
    print("a library's words", file=sys.stderr)
    print("a library's words", file=sys.__stdout__)


def test_workers_have_streams_of_their_own(monkeypatch):
    """C code and libraries print, too: what they print through cannot be locked by a thread that was not forked."""
    lock = threading.Lock()

    class Locked(io.StringIO):
        def write(self, text):
            with lock:
                return super().write(text)

    context = multiprocessing.get_context("fork")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Locked())
        patch.setattr(sys, "__stdout__", Locked())
        with lock:
            child = context.Process(target=printing, args=(0,))
            child.start()
            child.join(20)
    code = child.exitcode
    child.kill()
    assert code == 0


# ----------------------------------------------------------------------------------------------- unlike sizes


def test_unlike_sizes_come_as_a_list_and_are_rendered_in_workers(tmp_path):
    sizes = [(10 + 3 * n, 30 - 2 * n) for n in range(8)]
    images = folder_images(write_images(tmp_path, sizes))
    plain = Batches(images, 4, 2, seed=2)
    assert isinstance(plain[0].images, list)
    rendered = replace(plain, views=plan_of(FOLDER_VIEWS))
    here = list(load(rendered, 0, 4, 0))
    all_same(here, load(rendered, 0, 4, 2))
    step = manyview.Step(manyview.parse_recipe(FOLDER_VIEWS, "seed=2"), 2)
    for number, batch in enumerate(here):
        assert batch.images["a"].images.shape == (4, 3, 12, 12)
        listed = plain[number]
        for row, index in enumerate(listed.index.tolist()):
            assert torch.equal(listed.images[row], images.read(index))
        made = step.views(listed.images, listed.labels, index=listed.index, epoch=listed.epoch)
        same_images(made, batch.images)


ENLARGING = """
views:
  a: {from: image, make: "crop(32) | flip(0.5)"}
  b: {from: image, make: "resize(40) | center_crop(36)"}
branches: {net: {backbone: cresnet20}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {epochs: 1}
"""


def test_images_are_seen_from_memory_as_from_their_files(tmp_path):
    """A run holds them in memory; replay reads the one that it shows."""
    images = folder_images(write_images(tmp_path, [(20, 24)] * 32))
    from_files = Batches(images, 16, 2, seed=2, views=plan_of(ENLARGING))
    from_memory = replace(from_files, images=preload(images))
    assert isinstance(from_memory.images, ArrayImages)
    all_same([from_memory[n] for n in range(6)], [from_files[n] for n in range(6)])


def test_an_image_that_lies_on_its_side_changes_nothing_for_the_others(tmp_path):
    """Upright, its pixels lie otherwise in memory than those of the others."""
    for path in write_images(tmp_path, [(20, 24)] * 32).rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    images = folder_images(tmp_path)
    batches = Batches(images, 32, 1, seed=2, views=plan_of(ENLARGING))
    before, path = batches[0], images.name(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    after = batches[0]
    others = before.index != 5
    assert before.index.tolist() == after.index.tolist()
    for name in ("a", "b"):
        assert torch.equal(before.images[name].images[others], after.images[name].images[others])
        assert not torch.equal(before.images[name].images[~others], after.images[name].images[~others])


def test_read_images_stacks_only_what_is_alike(tmp_path):
    images = folder_images(write_images(tmp_path, [(10, 12), (10, 12), (10, 12), (12, 10)]))
    # cat: 00, 02; dog: 01, 03
    alike, kept, skipped = read_images(images, np.array([2, 0]))
    assert alike.shape == (2, 3, 10, 12)
    assert kept.tolist() == [2, 0]
    assert skipped == []
    unlike, _, _ = read_images(images, np.array([2, 3]))
    assert [tuple(image.shape) for image in unlike] == [(3, 10, 12), (3, 12, 10)]


def test_a_batch_on_the_same_device_is_the_same_batch():
    pixels = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)
    labels, index = torch.tensor([1, 0]), torch.tensor([7, 3])
    family = View(interleave([pixels, pixels]), {"flip": {"applied": torch.ones(4, dtype=torch.bool)}}, labels, 2)
    for images in (pixels, list(pixels), {"r": family}):
        batch = Batch(images, labels, index, 4, ["a line"])
        same(batch.to(torch.device("cpu")), batch)
        away = batch.to(torch.device("meta"))
        assert away.labels.device.type == "meta"
        assert away.index.device.type == "cpu"
    assert away.images["r"].images.device.type == away.images["r"].target.device.type == "meta"
    assert away.images["r"].members == 2
