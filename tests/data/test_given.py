"""Data sets that are given in Python: every kind reads as files do, and every mistake is one line."""

import inspect

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

from commands import png
from manyview.data import FolderImages, TableImages, collate, decode, open_splits, with_index
from manyview.errors import DataError, ManyviewWarning
from manyview.recipe.settings import Data

DIGITS = load_digits()
GREY = np.round(DIGITS.images[:240] * 255 / 16).astype(np.uint8)
RGB = GREY[..., None].repeat(3, axis=-1)
LABELS = DIGITS.target[:240]
TENSOR = torch.from_numpy(RGB).permute(0, 3, 1, 2)
PICTURES = [Image.fromarray(pixels) for pixels in RGB]
LIST = [(picture, int(label)) for picture, label in zip(PICTURES, LABELS, strict=True)]
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Made(Dataset):
    """A map-style data set of what a function makes of a number."""

    def __init__(self, make, length=60):
        self.make, self.length = make, length

    def __len__(self):
        return self.length

    def __getitem__(self, number):
        return self.make(number)


class Endless(IterableDataset):
    def __iter__(self):
        yield LIST[0]


def opened(data, seed=0, **settings):
    return open_splits(Data(**{"val_fraction": 0.0} | settings), seed, data)


def table(pixels=PICTURES, label="label", kind=None):
    features = datasets.Features({"image": datasets.Image(), label: kind or datasets.ClassLabel(names=list(NAMES))})
    return datasets.Dataset.from_dict({"image": pixels, label: LABELS[: len(pixels)].tolist()}, features)


WORDS = [NAMES[label] for label in LABELS.tolist()]
BY_NAME = {
    "array": (RGB, np.array(WORDS)),
    "lists": (PICTURES, WORDS),
    "list of pairs": [*zip(PICTURES, WORDS, strict=True)],
    "dicts": Made(lambda n: {"img": RGB[n], "label": WORDS[n]}, 240),
    "subset": Subset([*zip(PICTURES * 2, WORDS * 2, strict=True)], range(240)),
    "table": datasets.Dataset.from_dict({"image": PICTURES, "label": WORDS}).cast_column("image", datasets.Image()),
}


@pytest.mark.parametrize("kind", BY_NAME)
def test_labels_that_are_names_of_classes_are_sorted_as_a_folders(kind):
    few = [(PICTURES[0], WORDS[0]), (PICTURES[3], WORDS[3])]
    splits = opened({"val": few, "train": BY_NAME[kind]})
    assert splits.classes == tuple(sorted(NAMES))
    assert [splits.classes[label] for label in splits.train.labels] == WORDS
    assert [splits.classes[label] for label in splits.val.labels] == [WORDS[0], WORDS[3]], "by train's names"
    assert torch.equal(splits.train.read(7), TENSOR[7])
    assert "labels are names of classes, sorted" in splits.note
    with pytest.raises(DataError, match=r"val item 0: its label is 'ten', which is no class of train$"):
        opened({"train": BY_NAME[kind], "val": [(PICTURES[0], "ten")]})


KINDS = {
    "array": (RGB, LABELS),
    "array, channels first": (TENSOR.numpy(), LABELS),
    "grey array": (GREY, LABELS.tolist()),
    "tensor": (TENSOR, torch.from_numpy(LABELS)),
    "tensor, channels last": (torch.from_numpy(RGB), LABELS),
    "grey tensor": (torch.from_numpy(GREY)[:, None], LABELS),
    "TensorDataset": TensorDataset(TENSOR, torch.from_numpy(LABELS)),
    "floats of ToTensor": Made(lambda n: (transforms.functional.to_tensor(PICTURES[n]), LABELS[n]), 240),
    "list of pairs": LIST,
    "dicts": Made(lambda n: {"img": RGB[n], "label": torch.tensor(LABELS[n]), "id": n}, 240),
    "concatenated": ConcatDataset([LIST[:100], TensorDataset(TENSOR[100:], torch.from_numpy(LABELS[100:]))]),
    "subset": Subset(LIST * 2, range(240)),
    "table": table(),
    "table of a transform": table().with_transform(lambda rows: rows),
    "16 bits": (GREY.astype(np.uint16) * 256 + 77, LABELS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_same_images_labels_and_numbers(kind):
    splits = opened({"train": KINDS[kind]})
    train = splits.train
    np.testing.assert_array_equal(train.labels, LABELS)
    np.testing.assert_array_equal(train.index, np.arange(240))
    assert train.labels.dtype == train.index.dtype == np.int64
    assert splits.classes == (NAMES if "table" in kind else tuple("0123456789"))
    for position in (0, 17, 239):
        assert torch.equal(train.read(position), TENSOR[position])
    assert "given in Python" in splits.note


def test_what_is_read_is_the_callers_own():
    images = opened({"train": (RGB, LABELS)}).train
    images.read(3).zero_()
    assert torch.equal(images.read(3), TENSOR[3])


def test_images_without_labels():
    for data in (RGB, TENSOR, TensorDataset(TENSOR), PICTURES, Made(lambda n: (PICTURES[n], -1))):
        splits = opened({"train": data}, val_fraction=0.1)
        assert (splits.train.labels == -1).all()
        assert splits.classes == ()


def test_alpha_and_depth_by_the_rules_of_files(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((5, 7, 4), (5, 7, 2), (5, 7), (5, 7, 3)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        expected = decode(tmp_path / "image.png", "image")
        given = [pixels, Image.fromarray(pixels), Image.open(tmp_path / "image.png")]
        given += [torch.from_numpy(pixels).permute(2, 0, 1)] if pixels.ndim == 3 else [torch.from_numpy(pixels)]
        for each in given:
            assert torch.equal(opened({"train": [each]}).train.read(0), expected)
    deep = rng.integers(0, 2**16, (5, 7), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "image.png")
    for channels, one in ((None, deep), (1, deep), (None, Image.fromarray(deep)), (1, Image.fromarray(deep))):
        settings = {} if channels is None else {"channels": channels}
        expected = decode(tmp_path / "image.png", "image", Data(**settings).stored)
        assert torch.equal(opened({"train": [one]}, **settings).train.read(0), expected)


def test_a_turned_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    PICTURES[0].resize((8, 6)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        for one in (image, image.convert("RGB")):
            assert torch.equal(opened({"train": [one]}).train.read(0), decode(tmp_path / "turned.png", ""))


def test_as_they_are_stored_floats_and_channels_stay():
    floats = torch.rand(60, 5, 6, 6)
    train = opened({"train": (floats, LABELS[:60])}, channels=5).train
    assert train.channels == 5
    assert torch.equal(train.read(7), floats[7])


def test_folders_of_torchvision_are_read_as_files(tmp_path):
    for seed, name in enumerate(["cat/1", "cat/2", "dog/1", "dog/2"]):
        png(tmp_path / f"{name}.png", seed=seed)
    splits, ours = opened({"train": ImageFolder(tmp_path)}), opened(None, source="folder", root=str(tmp_path))
    assert isinstance(splits.train, FolderImages)
    assert splits.classes == ours.classes == ("cat", "dog")
    assert [splits.train.name(n) for n in range(4)] == [ours.train.name(n) for n in range(4)]
    changed = opened({"train": ImageFolder(tmp_path, transform=transforms.Resize(5))})  # what it changes is seen
    assert changed.train.read(0).shape == (3, 5, 5)
    part = opened({"train": Subset(ImageFolder(tmp_path), [3, 0])})
    assert part.train.index.tolist() == [3, 0]
    assert part.train.name(0).endswith("dog/2.png")


def test_a_table_stays_a_table():
    splits = opened(datasets.DatasetDict(train=table(), validation=table(PICTURES[::-1]), extra=table()))
    assert isinstance(splits.train, TableImages)
    assert len(splits.val) == 240
    assert "'extra' not read" in splits.note


def test_targets_of_torchvision_are_believed_as_far_as_items_say_the_same():
    reads = []
    fake = FakeData(40, (3, 8, 8), 4)
    fake.targets = [int(fake[n][1]) for n in range(40)]
    counted = Made(lambda n: (reads.append(n), fake[n])[1], 40)
    counted.targets = fake.targets
    assert opened({"train": counted}, limit=30).train.labels.shape == (30,)
    assert len(reads) == 32  # the looks alone
    counted.targets = [(label + 1) % 4 for label in fake.targets]
    np.testing.assert_array_equal(opened({"train": counted}).train.labels, fake.targets)
    assert len(reads) == 32 + 32 + 40


def test_subsets_keep_numbers_and_what_comes_twice_is_two_images():
    nested = Subset(Subset(LIST, range(100, 200)), [5, 3, *range(60, 90)])
    assert opened({"train": nested}).train.index.tolist() == [105, 103, *range(160, 190)]
    assert opened({"train": Subset(LIST, [*range(10), -1])}).train.index.tolist() == [*range(10), 239]
    twice = opened({"train": Subset(LIST, [0, 1, 1, 1])}).train
    assert twice.index.tolist() == [0, 1, 2, 3]
    assert torch.equal(twice.read(1), twice.read(2))


def test_random_split_gives_two_splits_of_one_data_set():
    one, two = torch.utils.data.random_split(LIST, [200, 40], torch.Generator().manual_seed(0))
    splits = opened({"train": one, "val": two})
    assert not np.intersect1d(splits.train.index, splits.val.index).size
    assert len(splits.train) == 200


def test_choices_of_a_recipe_hold():
    data = {"train": (RGB, LABELS)}
    one, again = (opened(data, 5, labels_per_class=4, val_fraction=0.1) for _ in range(2))
    assert np.bincount(one.train.labels).tolist() == [4] * 10
    assert one.train.index.tolist() == again.train.index.tolist()
    assert len(one.val) == 24
    assert len(opened(data, limit=50).train) == 50


def test_an_item_that_raises_is_left_out_where_a_recipe_says_so():
    def make(number):
        if number in (7, 21):
            raise OSError("the disk is gone")
        return LIST[number]

    splits = opened({"train": Made(make)}, on_bad_image="skip")
    assert sorted({*range(60)} - {*splits.train.index.tolist()}) == [7, 21]
    assert "2 items left out" in splits.note


def test_reading_many_items_for_their_labels_is_told(monkeypatch):
    monkeypatch.setattr("manyview.data.item_images.LONG", 99)
    with pytest.warns(ManyviewWarning, match="train has 100 items, each of which is read for its label"):
        opened({"train": Made(lambda n: LIST[n], 100)})


def test_labels_are_learnt_by_workers_too():
    splits = opened({"train": Made(lambda n: LIST[n], 200)}, workers=2)
    np.testing.assert_array_equal(splits.train.labels, LABELS[:200])


def shaken(number):
    return transforms.RandomHorizontalFlip()(PICTURES[number]), int(LABELS[number])


def failing(number):
    if number == 7:
        raise KeyError("seven")
    return LIST[number]


MISTAKES = {
    "a wrong split": ({"train": LIST, "valid": LIST}, "data: 'valid' is called 'val' here"),
    "a word": ({"train": LIST, "tset": LIST}, "did you mean 'test'?"),
    "a number": ({"train": LIST, 1: LIST}, "data: unknown split '1'"),
    "no train": ({"val": LIST}, "data has no 'train', only 'val'"),
    "nothing": ({}, "only nothing"),
    "no mapping": (LIST, 'data is a list; write data={"train": dataset'),
    "a path": ({"train": "photos"}, "a folder of files is data.source=folder data.root=photos"),
    "iterable": ({"train": Endless()}, "data: train is an Endless, which gives images in its own order"),
    "a loader": ({"train": DataLoader(LIST)}, "give a map-style data set"),
    "a generator": ({"train": iter(LIST)}, "give a map-style data set"),
    "a stream": ({"train": table().to_iterable_dataset()}, "give a map-style data set"),
    "no length": ({"train": type("Lost", (), {"__getitem__": lambda self, n: LIST[n]})()}, "has __len__"),
    "empty": ({"train": []}, "split 'train' has no images"),
    "three arrays": ({"train": (RGB, LABELS, LABELS)}, "a tuple is (images, labels), got (ndarray, ndarray, ndarray)"),
    "unlike lengths": ({"train": (RGB, LABELS[1:])}, "240 images came with 239 labels"),
    "a length that lies": ({"train": Made(lambda n: LIST[n], 500)}, "there is none (list index out of range), though"),
    "an item that raises": ({"train": Made(failing)}, "train item 7: KeyError: 'seven'; mend it, or leave such"),
    "random": ({"train": Made(shaken)}, "is another at each reading; a data set must not draw at random"),
    "normalised": ({"train": Made(lambda n: (TENSOR[n] / 127.5 - 1, 0))}, "drop Normalize"),
    "floats to 255": ({"train": Made(lambda n: (TENSOR[n].float(), 0))}, "give them as uint8"),
    "other floats": ({"train": Made(lambda n: (TENSOR[n] / 256, 0))}, "float pixels between the 256 levels"),
    "integers": ({"train": Made(lambda n: (TENSOR[n].long(), 0))}, "int64 pixels; give them as uint8"),
    "channels": ({"train": Made(lambda n: (np.zeros((9, 9, 5), np.uint8), 0))}, "data.channels says how many"),
    "paths": ({"train": Made(lambda n: ("a.png", 0))}, "an image is a str; what is read is a PIL image"),
    "two views": ({"train": Made(lambda n: ([PICTURES[n]] * 2, 0))}, "an image is a list; what is read is a PIL image"),
    "a view for a label": ({"train": Made(lambda n: (TENSOR[n], TENSOR[n]))}, "one image, of which the recipe makes"),
    "beyond the end": ({"train": Subset(LIST, [0, 240])}, "data: a Subset names item 240 of 240"),
    "three parts": ({"train": Made(lambda n: (PICTURES[n], 0, 0))}, "train item 0 is a tuple of 3 parts"),
    "keys": ({"train": Made(lambda n: {"photo": PICTURES[n]})}, "train item 0 has 'photo'; one must be the image"),
    "text and number": ({"train": Made(lambda n: (PICTURES[n], 3 if n % 2 else "cat"))}, "its label is 3 where others"),
    "one-hot": ({"train": (RGB, np.eye(10)[LABELS])}, "its label has shape [10]; give the class's number"),
    "no label": ({"train": Made(lambda n: (PICTURES[n], None))}, "its label is None; give -1"),
    "float labels": ({"train": (RGB, LABELS / 1)}, "its label is 0.0, a float"),
    "negative": ({"train": (RGB, LABELS - 2)}, "label -2 is not"),
    "other numbers": ({"train": (RGB, LABELS * 9)}, "labels go up to 81, but no image has '1', '2', '3' and 69 more"),
    "a class that only test has": (
        {"train": (RGB[:100], LABELS[:100] % 9), "test": (RGB[100:], LABELS[100:])},
        "label 9 is not one of 0 to 8",
    ),
    "other classes": (
        {"train": table(), "test": table(PICTURES[:9], kind=datasets.ClassLabel(names=["a", *NAMES[1:]]))},
        "the classes of test are not those of train: label 0 is 'a' and 'zero'",
    ),
    "the same data set": ({"train": LIST, "test": LIST}, "data: test has 240 images of train"),
    "the same images": ({"train": (RGB, LABELS), "test": LIST}, "data: test has 240 images of train"),
    "some of the same": (
        {"train": Subset(LIST, range(90)), "val": Subset(LIST, range(80, 99))},
        "data: val has 10 images of train",
    ),
    "columns": (
        {"train": table(label="coarse").add_column("fine", LABELS.tolist(), feature=datasets.ClassLabel(10))},
        "train has several columns of labels, 'coarse' and 'fine'; keep one, train.select_columns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake):
    data, message = MISTAKES[mistake]
    with pytest.raises(DataError) as told:
        opened(data)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("labels", "gaps"), [(LABELS + 1, "10, but no image has '0': 11"), (LABELS * 2, "18, but no")])
def test_gaps_in_labels_are_told(labels, gaps):
    with pytest.warns(ManyviewWarning, match=f"data: labels go up to {gaps}"):
        assert len(opened({"train": (RGB, labels)}).classes) == labels.max() + 1


def test_a_label_that_changes_later_is_told():
    labels = list(range(60))
    images = opened({"train": Made(lambda n: (PICTURES[n], labels[n] % 2))}).train
    labels[3] = 8
    with pytest.raises(DataError, match="train item 3: its label is 0 now, and was 1 before"):
        images.read(3)


def test_what_cannot_be_handed_to_workers_is_told_where_they_are_not_forked(monkeypatch):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "spawn")
    with pytest.raises(DataError, match=r"data: train cannot be handed to worker processes \(.*lambda.*data.workers=0"):
        opened({"train": Made(lambda n: LIST[n])}, workers=1)
    opened({"train": Made(lambda n: LIST[n])})


def test_the_protocol_is_kept():
    images = opened({"train": LIST}).train
    assert (images.size, images.channels, len(images), images.size_of(0)) == (None, 3, 240, None)
    assert images.name(4) == "train item 4"
    assert "scale" in inspect.signature(images.read).parameters


def test_a_loop_of_ones_own_gets_numbers():
    part = with_index(Subset(LIST, [9, 4, 7]))
    assert len(part) == 3
    image, label, number = part[1]
    assert torch.equal(image, TENSOR[4])
    assert (label, number) == (LABELS[4], 4)
    images, labels, index = next(iter(DataLoader(part, batch_size=3, collate_fn=collate)))
    assert images.shape == (3, 3, 8, 8)
    assert (labels.tolist(), index.tolist()) == (LABELS[[9, 4, 7]].tolist(), [9, 4, 7])
    unlike = DataLoader(with_index([*LIST[:2], (PICTURES[2].resize((5, 5)), 2)]), batch_size=3, collate_fn=collate)
    assert [image.shape for image in next(iter(unlike))[0]] == [(3, 8, 8), (3, 8, 8), (3, 5, 5)]
    assert [number for _, _, number in with_index(table())] == list(range(240))
    with pytest.raises(DataError, match="dataset is an Endless"):
        with_index(Endless())
    with pytest.raises(DataError, match="item 0: float pixels"):
        with_index([(TENSOR[0] / 100, 0)])[0]
