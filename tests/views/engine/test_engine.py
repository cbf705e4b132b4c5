"""Compiled programs give what the reference renders, to within two grey levels; alone, in batches and on threads."""

import numpy as np
import pytest
import torch

from cases import in_turn
from manyview.errors import RecipeError
from manyview.views.draws import Draws
from manyview.views.engine.kernels import window
from manyview.views.engine.program import LEAST_ARGS, Code, Column, Lowered, pack
from manyview.views.engine.render import is_levels, render
from manyview.views.ops import OPS
from manyview.views.ops.mix import MIXING
from manyview.views.plan import ViewSpec, plan_views
from manyview.views.view import draw_views
from op_cases import OBLONG, RGB, SETTINGS, SQUARE, photos

LOWERED = [case for case in SETTINGS if not issubclass(OPS[case[0]], MIXING)]
PIPELINES = [
    "crop(16, scale=(0.2, 1)) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1, p=0.8) | grayscale(0.2) | blur(kernel=9)",
    "pad_crop(24, padding=4) | flip | randaugment(2, 14) | cutout(8)",
    "flip | vflip | flip | crop(40) | vflip(1) | resize((20, 30)) | center_crop(18)",
    "resize(32) | center_crop(28) | autocontrast | posterize(3) | rotate(30) | erase(p=1, value='noise')",
    "crop(24) | augmix(3) | lighting(0.2) | perspective",
    "jitter(0.8, 0.8, 0.8, 0.2) | solarize(0.5, p=0.2) | pad_crop(padding=3, mode='reflect') | rotate90",
]


def plan(make, **more):
    return plan_views({"a": ViewSpec(**{"from": "image", "make": make, **more})})


def see(make, images, compiled=True, index=None, **more):
    index = range(len(images)) if index is None else index
    return draw_views(plan(make, **more), images, None, index, 3, 7, compiled=compiled)["a"]


def drawn(name, arguments, size, count):
    op = OPS[name](**arguments)
    return op, op.sample(Draws(0, 0, range(count), "a", "op"), torch.tensor([size]).expand(count, 2))


def assert_close(ours, reference, share=0.999):
    reference = reference if reference.dtype == torch.uint8 else reference * 255
    apart = (ours.double() - reference.double()).abs()
    assert ours.shape == reference.shape
    assert (apart <= 2).double().mean() >= share, f"{(apart > 2).sum()} of {apart.numel()} are further apart"


def test_every_op_that_looks_at_one_image_is_lowered():
    for name, factory in OPS.items():
        assert issubclass(factory, MIXING) != hasattr(factory, "lower"), name
    assert isinstance(OPS["flip"](), Lowered)


@in_turn("name, arguments, size", LOWERED, by="name")
def test_each_op_is_as_its_reference(name, arguments, size):
    images = photos(100, size)
    op, params = drawn(name, arguments, size, 100)
    kept, before = images.clone(), {key: values.clone() for key, values in params.items()}
    ours = render([(op, params)], images)
    assert ours.dtype == torch.uint8
    assert_close(ours, op.render(images, params))
    assert torch.equal(images, kept)
    assert all(torch.equal(params[key], before[key]) for key in params)
    assert torch.equal(ours, render([(op, params)], images))


@in_turn(
    "make", ["resize((24, 24))", "resize((90, 7))", "resize((3, 5))", "crop(16, scale=(0.05, 1))", "crop((31, 70))"]
)
@in_turn("size", [(24, 24), (23, 31), (200, 7), (1, 64), (2, 900)])
def test_resizing_is_within_a_level_of_its_reference(make, size):
    # half a level is the last rounding's own; the rest is what weights of 16 bits and parts of a level leave
    images = photos(24, size)
    ours, reference = see(make, images).images, see(make, images, compiled=False).images
    assert (ours.double() - reference.double() * 255).abs().max() <= 0.53


@in_turn("make", ["blur(0.3, 1)", "blur((0.1, 2), 1, 23)", "blur(40, 1)"])
@in_turn("size", [(24, 24), (23, 31), (3, 200)])
def test_blur_is_within_a_level_of_its_reference(make, size):
    images = photos(24, size)
    ours, reference = see(make, images).images, see(make, images, compiled=False).images
    assert (ours.double() - reference.double() * 255).abs().max() <= 0.75  # far taps are left out


@in_turn("level", [0, 1, 127, 254, 255])
def test_a_flat_image_stays_flat_and_one_of_its_own_size_as_it_is(level):
    for size in [(24, 24), (9, 300), (130, 3)]:
        flat = torch.full((2, 3, *size), level, dtype=torch.uint8)
        for make in ("resize((24, 20))", "resize((3, 2))", "crop(40)", "blur(1, 1)", "blur(9, 1)"):
            assert (see(make, flat).images == level).all()
    images = photos(4, (33, 50))
    assert torch.equal(see("resize((33, 50))", images).images, images)


@in_turn("name, arguments, size", LOWERED, by="name")
def test_a_batch_is_rendered_as_its_images_are_alone(name, arguments, size):
    images = photos(9, size)
    op, params = drawn(name, arguments, size, 9)
    batch = render([(op, params)], images)
    for i in (0, 4, 8):
        alone = render([(op, {key: values[i : i + 1] for key, values in params.items()})], images[i : i + 1])
        assert torch.equal(batch[i], alone[0])


@pytest.mark.parametrize("make", PIPELINES)
@in_turn("size", [SQUARE, (40, 40)])
def test_ops_in_a_row_stay_close_to_the_reference(make, size):
    # a tie in one op can move a later one, such as equalize, by a level for the whole image; hence the share
    ours, reference = see(make, photos(200, size)), see(make, photos(200, size), compiled=False)
    assert_close(ours.images, reference.images, share=0.99)
    assert all(torch.equal(v, reference.params[op][k]) for op, ps in ours.params.items() for k, v in ps.items())


@pytest.mark.parametrize("make", PIPELINES[:4])
def test_threads_and_the_batch_change_no_bit(make):
    images, threads = photos(64, (40, 40)), torch.get_num_threads()
    whole = see(make, images).images
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(see(make, images).images, whole)
    finally:
        torch.set_num_threads(threads)
    order = [40, 3, 17]
    assert torch.equal(see(make, images[order], index=order).images, whole[order])


@pytest.mark.parametrize("make", PIPELINES)
def test_the_layout_of_the_source_changes_no_bit(make):
    images = photos(6, (40, 40))
    whole = see(make, images).images
    channels_last = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    beside = torch.cat([images, images], dim=3)[..., :40]  # rows that do not follow one another
    halves = torch.stack([images, images], dim=1)[:, 0]  # images that do not
    batch = torch.stack(channels_last).contiguous(memory_format=torch.channels_last)
    for source in (channels_last, beside, halves, batch, list(images)):
        assert torch.equal(see(make, source).images, whole)


@pytest.mark.parametrize(
    "make", ["crop(16) | flip", "resize((20, 30)) | center_crop(16)", "flip | resize(20) | crop(16)"]
)
def test_images_of_unlike_sizes_are_seen_as_they_are_alone(make):
    images = [photos(1, size, seed=n)[0] for n, size in enumerate([(24, 24), (60, 31), (20, 77), (24, 24)])]
    whole = see(make, images).images
    assert whole.shape == (4, 3, 16, 16)
    for i, image in enumerate(images):
        assert torch.equal(see(make, image[None], index=[i]).images[0], whole[i])


def test_unlike_images_that_stay_unlike_are_refused():
    images = [photos(1, SQUARE)[0], photos(1, OBLONG)[0]]
    with pytest.raises(RecipeError, match=r"^views: view 'a' leaves images of unlike sizes; begin it with a crop"):
        see("flip | jitter(0.4)", images)


def test_members_of_a_count_share_their_source():
    images = photos(20, SQUARE)
    ours = see("crop(16) | jitter(0.4, 0.4, 0.4, 0.1)", images, count=3)
    reference = see("crop(16) | jitter(0.4, 0.4, 0.4, 0.1)", images, compiled=False, count=3)
    assert ours.images.shape == (60, 3, 16, 16)
    assert_close(ours.images, reference.images)
    unlike = [photos(1, OBLONG)[0], *images[1:]]
    listed = see("crop(16) | jitter(0.4, 0.4, 0.4, 0.1)", unlike, count=3)
    assert torch.equal(listed.images[3:], ours.images[3:])


def test_the_mean_of_a_bright_image_of_many_pixels():
    """More white than sums of 31 bits hold; contrast mixes with it, behind brightness."""
    images = torch.full((4, 3, 224, 224), 255, dtype=torch.uint8)
    images[:, :, ::9, ::7] = 200
    ours, reference = (
        see("jitter((0.9, 1.0), (0.3, 0.5), 0.0, 0.0)", images, compiled).images for compiled in (True, False)
    )
    assert_close(ours, reference, share=1.0)


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_other_channel_counts(channels):
    images = photos(12, SQUARE).repeat(1, 6, 1, 1)[:, :channels].contiguous()
    make = "crop(20) | flip | rotate(30, fill=0.5) | blur(p=1) | erase(p=1, value='noise')"
    assert_close(see(make, images).images, see(make, images, compiled=False).images)
    for name in sorted(RGB):
        with pytest.raises(RecipeError, match=rf"{name} needs RGB images with 3 channels, got {channels}"):
            see(f"crop(20) | {name}", images)


@pytest.mark.parametrize("op", ["randaugment(1, 9)", "autoaugment", "erase(value=(0.1, 0.2, 0.3))"])
def test_ops_for_rgb_refuse_other_channel_counts_whatever_was_drawn(op):
    for image in photos(8, SQUARE)[:, :1].split(1):
        with pytest.raises(RecipeError, match="needs RGB images with 3 channels, got 1"):
            see(f"crop(20) | {op}", image.contiguous())


def test_images_of_unlike_kinds_do_not_reach_a_program():
    """It would read the memory of one as that of the other."""
    one, two = photos(1, SQUARE)[0], photos(1, SQUARE, torch.float32)[0]
    for unlike in ([one, two], [one, one[:1]], [one, one[:, :0]], photos(2, SQUARE)[:, :, :0]):
        assert not is_levels(unlike)


@in_turn("left", [-20, -3, -1, 0, 2, 3, 25])
@in_turn("reflect", [False, True])
@in_turn("flipped", [0, 1])
def test_a_window_beyond_the_image_writes_nothing_beside_its_pixels(left, reflect, flipped):
    source = np.arange(27, dtype=np.uint8)
    guarded = np.full(12 + 64, 99, np.uint8)
    inner = guarded[32:44].reshape(3, 2, 2)
    if reflect and not -3 < left < 3:
        return  # refused when drawn: an edge reflects no further than the image is wide
    window(source, False, 3, 3, 0, left, reflect, np.array([flipped, 0], np.float32), inner)
    assert (guarded[:32] == 99).all()
    assert (guarded[44:] == 99).all()
    if abs(left) > 3:
        assert (inner == 0).all()


def test_floats_go_through_the_reference():
    images = photos(4, SQUARE, torch.float32)
    assert not is_levels(images)
    assert torch.equal(see("flip | jitter(0.4)", images).images, see("flip | jitter(0.4)", images, False).images)


def test_no_images_give_no_views():
    assert see("crop(16) | flip", photos(1, SQUARE)[:0]).images.shape == (0, 3, 16, 16)


def test_flips_after_a_crop_become_part_of_it():
    flip = Column(Code.FLIP, torch.tensor([[1.0, 0.0]]).repeat(2, 1), torch.tensor([True, False]))
    crop = Column(Code.RESAMPLE, torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(2, 1), size=(4, 4))
    program = pack([crop, flip, flip, flip], 2, (8, 8))
    assert program.codes.tolist() == [[Code.RESAMPLE]] * 2
    np.testing.assert_array_equal(program.args[:, 0, 4:6], [[1, 0], [0, 0]])
    assert program.args.shape == (2, 1, LEAST_ARGS)


def test_a_shuffle_of_many_cells_takes_as_many_numbers():
    images = photos(5, (40, 40))
    ours, reference = (see("grid_shuffle(9)", images, compiled).images for compiled in (True, False))
    assert torch.equal(ours, reference)


@in_turn("slope", [0.1, 0.2, -0.2, 0.25, 0.3])
@in_turn("size", [(32, 32), (40, 40), (37, 50)])
def test_ties_between_two_pixels_fall_as_in_the_reference(slope, size):
    images = photos(20, size)
    for make in (f"shear(({slope}, {slope}), 0.0)", f"shear(0.0, ({slope}, {slope}))"):
        assert torch.equal(see(make, images).images, see(make, images, compiled=False).images)


@in_turn("interpolation", ["nearest", "bilinear"])
@in_turn("size", [(32, 32), (37, 50)])
def test_ops_that_move_pixels_give_the_bits_of_their_reference(size, interpolation):
    images = photos(40, size)
    for op in ("affine(180, (0.4, 0.2), (0.4, 2), 30, fill=0.7", "perspective(0.8, 1, fill=0.3", "rotate(90, fill=1"):
        make = f"{op}, interpolation='{interpolation}')"
        assert torch.equal(see(make, images).images, see(make, images, compiled=False).images)


def test_a_program_begins_by_reading_its_source():
    program = pack([Column(Code.INVERT)], 1, (8, 8))
    assert program.codes.tolist() == [[Code.LOAD, Code.INVERT]]
    with pytest.raises(ValueError, match="unlike sizes"):
        pack([Column(Code.INVERT)], 1, None)
