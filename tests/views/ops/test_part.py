"""Only what a centre crop keeps of a resize is made: the same pixels, in no more memory than image and output."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from manyview.data import ArrayImages
from manyview.data.loader import Batches
from manyview.errors import DataError
from manyview.show.sheet import MOST, compose
from manyview.views.ops.crop import PadCrop, cut
from manyview.views.ops.part import MULTIPLE, in_parts
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import render_views, sample_views

resource = pytest.importorskip("resource")
BYTES = 512  # that an image's pixel, or its output's, may take while a view of it is made
FLIPS = ("", " | flip(1)", " | vflip(1)", " | flip(0.5) | vflip(1) | flip(0.5)")


def picture(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def planned(make):
    return plan_views({"a": ViewSpec(**{"from": "image", "make": make})})


def see(make, images, compiled, floats=False):
    """Pixels of a view of some images, float, and its parameters."""
    plan = planned(make)
    sizes = torch.tensor([list(image.shape[-2:]) for image in images])
    params = sample_views(plan, sizes, range(len(images)), 0, 0)
    given = [image.float() / 255 for image in images] if floats else images
    view = render_views(plan, given, params, compiled=compiled)["a"]
    return view.pixels, params["a"]


@contextmanager
def within(extra):
    """Fails what asks for so many bytes more than the process has."""
    kept = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("between", FLIPS)
@pytest.mark.parametrize("size", [(40, 40), (29, 34)])
def test_a_part_is_what_the_two_ops_give_one_after_the_other(size, between, compiled):
    images = [picture(50, 71), picture(97, 60, 1), picture(45, 45, 2), picture(20, 33, 3)]
    make = f"resize(45){between} | center_crop({size}) | flip(0.5)"
    made, params = see(make, images, compiled)
    ops = [(planned.op, planned.name) for planned in planned(make)["a"].ops]
    for row, image in enumerate(images):
        one = image[None].float() / 255
        for op, name in ops:
            one = op.render(one, {key: value[row : row + 1] for key, value in params[name].items()})
        assert (made[row] - one[0]).abs().max() * 255 <= (1 if compiled else 1e-3)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("size", [(45, 45), (40, 40), (29, 34)])
def test_a_part_has_the_bits_of_the_whole(size, compiled):
    """Enlarged or reduced: an export that crops all of what a run only resizes must see the same."""
    for image in [picture(50, 71), picture(97, 60, 1), picture(45, 45, 2), picture(20, 33, 3), picture(90, 12, 4)]:
        part, params = see(f"resize(45) | center_crop({size})", [image], compiled)
        whole = see("resize(45)", [image], compiled)[0][0]
        box = params["center_crop"]["box"][0] * torch.tensor([*whole.shape[-2:]] * 2)
        top, left, height, width = box.round().long().tolist()
        assert (height, width) == size
        assert torch.equal(part[0], whole[:, top : top + height, left : left + width])


def test_it_is_one_op_and_the_flips_come_after():
    make = "flip | resize(9) | flip | vflip | center_crop(8) | blur | resize(4) | blur | center_crop(3)"
    params = {"box": torch.ones(2, 4), "applied": torch.ones(2, dtype=torch.bool)}
    parts = in_parts([(op.op, params) for op in planned(make)["a"].ops])
    assert [type(op).__name__ for op, _ in parts] == [
        *("Flip", "ResizedPart", "Flip", "VFlip", "Blur"),
        *("Resize", "Blur", "CenterCrop"),  # a blur between sees the whole
    ]


@pytest.mark.parametrize("compiled", [True, False])
def test_an_image_is_rendered_as_in_its_batch(compiled):
    images = [picture(60, 81), picture(97, 60, 1), picture(45, 45, 2)]
    together = see("resize(48) | center_crop(40)", images, compiled)[0]
    for row, image in enumerate(images):
        assert torch.equal(see("resize(48) | center_crop(40)", [image], compiled)[0][0], together[row])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own account of memory")
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        *("resize(256) | center_crop(224)", "resize(256) | flip(0.5) | center_crop(224)", "resize((224, 224))"),
        *("crop(224)", "crop(200, scale=(0.99, 1), ratio=(0.001, 1000))"),
    ],
)
def test_no_image_takes_more_than_a_multiple_of_itself_and_its_output(make, compiled, floats):
    see(make, [picture(310, 320)], compiled, floats)  # what is compiled or loaded at first use
    for height, width in [(2, 60_000), (60_000, 2), (9, 30_000)]:
        image = picture(height, width)
        with within(BYTES * (height * width + 224 * 224) + 2**23):
            made = see(make, [image], compiled, floats)[0]
        assert made.isfinite().all()
        assert 0.1 < made.mean() < 0.9


@pytest.mark.parametrize(
    "make", ["resize(256)", "resize(256) | jitter(0.4) | center_crop(224)", "resize(256) | crop(9)"]
)
def test_what_would_grow_without_bounds_is_refused_in_one_line(make):
    sizes = torch.tensor([[300, 400], [2, 60_000]])
    message = (
        r"^image 1 of the batch is 2x60000, and resize\(256\) would make it 256x7680000; follow it with center_crop, "
        r"resize to a pair of numbers, or begin with crop$"
    )
    with pytest.raises(DataError, match=message):
        sample_views(planned(make), sizes, [0, 1], 0, 0)
    sample_views(planned(make), torch.tensor([[10, 10 * MULTIPLE], [300, 400]]), [0, 1], 0, 0)


def test_the_loader_says_which_image_it_is():
    images = ArrayImages(torch.zeros(3, 3, 2, 60_000, dtype=torch.uint8), *[torch.arange(3).numpy()] * 2, split="train")
    batches = Batches(images, 3, 1, 0, views=planned("resize(256) | crop(224)"))
    with pytest.raises(DataError, match=r"^train row \d is 2x60000, and resize\(256\) would make it"):
        batches[0]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("flips", "axes"), [("flip(1)", [2]), ("vflip(1)", [1]), ("flip(1) | vflip(1)", [1, 2])])
def test_a_flip_after_a_centre_crop_is_done(flips, axes, compiled):
    image = picture(10, 12)
    made = see(f"center_crop((8, 6)) | {flips}", [image], compiled)[0][0]
    assert torch.equal((made * 255).round().byte(), image[:, 1:9, 3:9].flip(axes))


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_window_over_the_edges_makes_no_larger_image(mode):
    image = picture(30, 40)[None]
    pad = torch.nn.functional.pad(image.float(), (25, 25, 25, 25), mode="constant" if mode == "zeros" else "reflect")
    for top, left in ((-25, -25), (0, 0), (15, 20), (3, -7)):
        box = torch.tensor([[top, left, 40, 45]])
        expected = pad[..., top + 25 : top + 65, left + 25 : left + 70]
        assert torch.equal(cut(image, box, (40, 45), mode).float(), expected[..., :40, :45])
    assert PadCrop(mode=mode).output_size(torch.tensor([[30, 40]])).tolist() == [[30, 40]]


def test_a_sheet_shows_a_long_image_no_larger_than_it_must():
    sheet = compose([("image", [torch.zeros(3, 2, 60_000)], [["strip.png"]])])
    assert max(sheet.size) < MOST + 100
