"""timm's loader, its batches made views: whose order, which draws, and what is refused."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import Pictures, coloured

timm = pytest.importorskip("timm", minversion="1.0.29")

from timm.data import create_loader  # noqa: E402
from timm.data.distributed_sampler import RepeatAugSampler  # noqa: E402
from timm_recipes import AUGSELF, MIXED, SLA, TIED  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset  # noqa: E402

from manyview.errors import DataError  # noqa: E402
from manyview.integrations.timm import ViewsDataset, ViewsLoader  # noqa: E402
from manyview.load import parse_recipe  # noqa: E402
from manyview.views.view import draw_views  # noqa: E402

CPU = torch.device("cpu")


def timms(pictures, batch_size=10, **options):
    return create_loader(pictures, (3, 16, 16), batch_size, is_training=True, device=CPU, **options)


def check(batch, labels, recipe, pictures, epoch):
    """All of the views, what was drawn and the targets, bit for bit what the step would draw."""
    positions = batch.index.tolist()
    assert labels.tolist() == [pictures.targets[p] for p in positions]
    expected = draw_views(
        recipe.seen_views, pictures.uint8(positions), labels, positions, epoch, recipe.seed, classes=3
    )
    assert list(batch.views) == list(expected)
    for name, view in expected.items():
        got = batch.views[name]
        assert torch.equal(got.images, view.images)
        assert torch.equal(got.target, view.target)
        assert got.params.keys() == view.params.keys()
        for op, drawn in view.params.items():
            assert all(torch.equal(got.params[op][key], value) for key, value in drawn.items())


@pytest.mark.parametrize("prefetcher", [True, False], ids=["prefetcher", "plain"])
@pytest.mark.parametrize("text", [TIED, MIXED, SLA, AUGSELF], ids=["tied", "mixed", "sla", "augself"])
def test_batches_are_what_the_step_draws(text, prefetcher):
    recipe, pictures = parse_recipe(text), coloured()
    loader = ViewsLoader(timms(pictures, num_workers=0, use_prefetcher=prefetcher), recipe, 3)
    assert len(loader) == 4
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        for batch, labels in loader:
            assert batch.shape == (10, 3, 16, 16)
            assert len(batch) == 10
            check(batch, labels, recipe, pictures, epoch)


def test_workers_that_persist_see_the_epoch_and_mix_whole_batches():
    recipe, pictures = parse_recipe(MIXED), coloured()
    loader = ViewsLoader(timms(pictures, num_workers=2, persistent_workers=True), recipe, 3)
    seen = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        for batch, labels in loader:
            check(batch, labels, recipe, pictures, epoch)
            seen.append(tuple(batch.index.tolist()))
    assert len(set(seen)) == 8


def test_the_order_is_timms():
    pictures = coloured()
    pictures.targets = list(range(48))
    plain = timms(pictures, num_workers=0)
    torch.manual_seed(5)
    expected = [target.tolist() for _, target in plain]
    torch.manual_seed(5)
    got = [labels.tolist() for _, labels in ViewsLoader(timms(pictures, num_workers=0), parse_recipe(TIED))]
    assert got == expected


def test_a_sampler_of_several_processes_is_timms_and_hears_of_epochs():
    pictures = coloured()
    sampler = DistributedSampler(pictures, num_replicas=2, rank=1, seed=3)
    loader = ViewsLoader(DataLoader(pictures, 8, sampler=sampler, drop_last=True), parse_recipe(TIED))
    assert loader.sampler is sampler
    orders = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        orders.append([int(p) for batch, _ in loader for p in batch.index])
        assert orders[-1] == list(sampler)
    assert orders[0] != orders[1]


def test_timms_transform_is_left_out_and_its_data_set_as_it_was():
    pictures = coloured()
    plain = timms(pictures, num_workers=0, color_jitter=0.9)
    before = pictures.transform
    loader = ViewsLoader(plain, parse_recipe(TIED))
    next(iter(loader))
    assert before is not None
    assert pictures.transform is before
    assert loader.dataset.dataset.transform is None


def test_a_batch_moves_as_timms_script_moves_it():
    batch, _ = ViewsDataset(coloured(), parse_recipe(TIED))[[3, 5]]
    assert batch.to(device=CPU, dtype=None).shape == (2, 3, 16, 16)
    assert batch.to(dtype=torch.bfloat16) is batch
    assert batch.contiguous(memory_format=torch.channels_last) is batch
    moved = batch.to("meta", non_blocking=True)
    assert all(view.images.is_meta and view.target.is_meta for view in moved.views.values())
    assert batch.views["a"].images.device == CPU


def test_images_of_other_channels():
    grey = Pictures([np.full((16, 16), 9 * n, dtype=np.uint8) for n in range(4)], [0, 1, 0, 1])
    text = TIED.replace(" | jitter(0.4, 0.4, 0.4, 0.1)", "").replace("randaugment(2, 9)", "flip")
    views, _ = ViewsDataset(grey, parse_recipe(text, "data.channels=1"))[[0, 3]]
    assert views.shape == (2, 1, 16, 16)
    rgb, _ = ViewsDataset(grey, parse_recipe(TIED))[[0, 3]]  # without data.channels all are RGB
    assert rgb.shape == (2, 3, 16, 16)
    with pytest.raises(DataError, match=r"^image 7 of the data set has 3 channels \(RGB\), but data.channels is 1$"):
        ViewsDataset(coloured(), parse_recipe(text, "data.channels=1"))[[7]]
    deep = Pictures([np.full((16, 16), 900, dtype=np.uint16)], [0])
    with pytest.raises(
        DataError, match=r"^image 0 of the data set has the mode I;16; give images of 8 bits, such as RGB"
    ):
        ViewsDataset(deep, parse_recipe(TIED))[[0]]


def test_colours_of_a_palette_are_colours():
    palette = [(Image.fromarray(image).quantize(256), 0) for image in coloured(count=3).images]
    text = TIED.replace("pad_crop(16, padding=2) | flip(0.5) | jitter(0.4, 0.4, 0.4, 0.1)", "center_crop(16)")
    for recipe in (parse_recipe(text), parse_recipe(text, "data.channels=3")):
        views, _ = ViewsDataset(palette, recipe)[range(3)]
        expected = np.stack([np.array(image.convert("RGB")) for image, _ in palette])
        assert np.array_equal(views.views["a"].images.permute(0, 2, 3, 1), expected)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        yield 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_wrong_with_an_image_is_one_line_from_workers_too(workers):
    pictures = coloured()
    pictures.images[5] = np.zeros((9, 16, 3), dtype=np.uint8)
    text = TIED.replace("pad_crop(16, padding=2)", "pad_crop(16, padding=0)")
    loader = ViewsLoader(timms(pictures, 48, num_workers=workers), parse_recipe(text))
    with pytest.raises(DataError, match=r"image 5 of the data set") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


NO_LABELS = TIED.replace("  - cross_entropy(logits(a), logits(b))\n", "")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("label", "text", "line"),
    [
        (3, TIED, r"^image 5 of the data set has the label 3, and there are 3 classes, counted from 0; num_classes"),
        (-1, TIED, "^image 5 of the data set has the label -1, none, and the recipe learns from labels; leave it out"),
        (7, MIXED.replace("cross_entropy(logits(b), logits(c))", "cosine(h(b), toward=stop(h(c)))"),
         "^image 5 of the data set has the label 7, and there are 3 classes"),
        (3, NO_LABELS, None),
        (-1, NO_LABELS, None),
    ],
    ids=["none such", "no label", "mixed", "not learnt from", "no label is needed"],
)  # fmt: skip
def test_a_label_that_is_no_class_is_one_line_with_the_image(label, text, line, workers):
    pictures = coloured()
    pictures.targets[5] = label
    loader = ViewsLoader(timms(pictures, 48, num_workers=workers), parse_recipe(text), 3)
    if line is None:
        assert sum(len(batch) for batch, _ in loader) == 48
        return
    with pytest.raises(DataError, match=line):
        list(loader)


def refused():
    recipe, pictures = parse_recipe(TIED), coloured()
    tensors = [(torch.zeros(3, 16, 16), 0)]
    soft = Pictures(pictures.images, [np.array([0.5, 0.5])] * 48)
    yield "stream", lambda: ViewsLoader(DataLoader(Stream()), recipe), "Stream gives images in a stream, without pos"
    yield (
        "tensors",
        lambda: ViewsDataset(tensors, recipe)[[0]],
        "^image 0 of .* is a Tensor, not a PIL image, .* transform$",
    )
    yield "soft labels", lambda: ViewsDataset(soft, recipe)[[0]], "^image 0 of the data set: its label has shape "
    repeats = RepeatAugSampler(pictures, num_replicas=1, rank=0)
    yield "repeats", lambda: ViewsLoader(DataLoader(pictures, 4, sampler=repeats), recipe), "drop --aug-repeats"
    several = timms(pictures, num_workers=0, use_multi_epochs_loader=True)
    yield "several epochs", lambda: ViewsLoader(several, recipe), "reads ahead of set_epoch; drop --use-multi-epochs-l"


def test_what_cannot_be_drawn_from_is_refused():
    for name, make, line in refused():
        with pytest.raises(DataError, match=line) as caught:
            make()
        assert "\n" not in str(caught.value), name
