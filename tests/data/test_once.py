"""Images in their order, each once: evaluation reads through the stream of training, and gets the same bits."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import manyview
from manyview.data import BadImage, FolderImages, Stored, Subset, loader
from manyview.data.images import lie_in_memory, pack
from manyview.data.loader import read_images
from manyview.data.once import Once, Unlike, read_once
from manyview.errors import DataError, RunError
from manyview.evaluate.features import Features, collect
from manyview.evaluate.finetune import Finetune
from manyview.evaluate.model import StepModel
from manyview.judge.subject import open_subject
from manyview.training.train import train
from subjects import TIED, Broken, features_of, pictures, trained

CUT = TIED.replace("resize(12)", "resize(12) | center_crop(12)")
ALIKE, UNLIKE = [(8, 8)] * 11, [(8 + n, 20 - n) for n in range(11)]


def photos(root, sizes, deep=(), labels=None):
    """Files of these sizes; those in `deep` have 16 bits."""
    drawn, names = np.random.default_rng(3), [f"{n:02}.png" for n in range(len(sizes))]
    root.mkdir(parents=True, exist_ok=True)
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        bits = np.uint16 if number in deep else np.uint8
        Image.fromarray(drawn.integers(np.iinfo(bits).max, size=size if deep else (*size, 3), dtype=bits)).save(
            root / name
        )
    known = np.arange(len(sizes)) % 3 if labels is None else np.asarray(labels)
    return FolderImages(root, pack(names), known, np.arange(len(sizes)), Stored(1) if deep else None)


def each(images):
    return list(images) if isinstance(images, list) else [images]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("kind", ["memory", "alike", "unlike", "deep and not"])
def test_parts_are_what_is_read_one_after_another(tmp_path, kind, workers):
    images = {
        "memory": lambda: pictures(11),
        "alike": lambda: photos(tmp_path, ALIKE),
        "unlike": lambda: photos(tmp_path, UNLIKE),
        "deep and not": lambda: photos(tmp_path, UNLIKE, deep=(2, 3, 7)),
    }[kind]()
    asked = np.array([9, 0, 3, 4, 10, 2, 7])
    parts = list(read_once(Once(images, asked, 3), workers))
    assert [part.kept.tolist() for part in parts] == [[9, 0, 3], [4, 10, 2], [7]]
    for part, start in zip(parts, (0, 3, 6), strict=True):
        expected, _, _ = read_images(images, asked[start : start + 3])
        assert type(part.images) is type(expected)
        for one, other in zip(each(part.images), each(expected), strict=True):
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())  # laid out alike, so rendered alike
            assert torch.equal(one, other)
    assert not multiprocessing.active_children()


def test_images_of_unlike_sizes_are_one_tensor_on_the_way(tmp_path):
    """A process may have no more than some thousand files open, and each tensor that a worker hands over is one."""
    part = Once(photos(tmp_path, UNLIKE), np.arange(11), 11)[0]
    assert isinstance(part.read, Unlike)
    assert part.read.levels.shape == (sum(3 * height * width for height, width in UNLIKE),)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_told_in_order_or_raised(workers):
    broken = Broken(pictures(17), bad={3, 4, 5, 11, 16})
    parts = list(read_once(Once(broken, np.arange(17), 4, skip=True), workers))
    assert [len(part.kept) for part in parts] == [3, 2, 3, 4, 0]
    lines = [line for part in parts for line in part.skipped]
    assert lines == [f"picture {n}: broken" for n in (3, 4, 5, 11, 16)]
    seen = []
    with pytest.raises(BadImage, match=r"^picture 3: broken; repair it, or leave such images out with [^\n]*$"):
        seen.extend(read_once(Once(broken, np.arange(1, 17), 2), workers))
    assert [part.kept.tolist() for part in seen] == [[1, 2]]  # what stands before it comes all the same


class Deadly(Broken):
    """Images of which some end the process that reads them, as the system does where memory runs out."""

    def read(self, position):
        if position in self.bad:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.whole.read(position)


def test_a_worker_that_is_gone_is_told_in_one_line():
    plan = Once(Deadly(pictures(8), bad={5}), np.arange(8), 2)
    with pytest.raises(RunError, match=r"^a process that reads images (is killed|exited)[^\n]* data\.workers=0[^\n]*$"):
        list(read_once(plan, 2))
    assert not multiprocessing.active_children()


def test_who_reads_ends_with_the_reading():
    stream = read_once(Once(Broken(pictures(40), set()), np.arange(40), 2), 2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()
    features = features_of(trained(TIED), Broken(pictures(40), set()), workers=2)
    for _ in features.batches(features.images("test"), batch_size=4):
        break
    assert not multiprocessing.active_children()


def test_what_lies_in_memory_is_read_without_processes(began):
    images = Subset(pictures(12), np.arange(10))
    assert lie_in_memory(images)
    assert len(list(read_once(Once(images, np.arange(10), 4), 2))) == 3
    assert began() == 0
    assert len(list(read_once(Once(Broken(images, set()), np.arange(10), 4), 64))) == 3
    assert began() == min(3, os.cpu_count())  # no more than there are parts


# ------------------------------------------------------------------------------------------------ through evaluation


@pytest.fixture
def began(monkeypatch, tmp_path):
    """How many workers began so far."""
    real, told = loader._begin_worker, tmp_path / "began"

    def begin(worker):
        with told.open("a") as file:
            file.write("x")
        real(worker)

    monkeypatch.setattr(loader, "_begin_worker", begin)
    return lambda: len(told.read_text()) if told.exists() else 0


@pytest.mark.parametrize("sizes", [ALIKE, UNLIKE], ids=["alike", "unlike"])
def test_features_are_the_same_bits_with_any_number_of_workers(tmp_path, sizes):
    images, model = photos(tmp_path, sizes, labels=[0, 1, -1, 2, 0, 1, 2, -1, 0, 1, 2]), StepModel(trained(CUT))
    labelled = np.flatnonzero(images.labels >= 0)
    with torch.no_grad():
        parts = [read_images(images, labelled[start : start + 4])[0] for start in (0, 4, 8)]
        read = [model.read(model.prepare(part)) for part in parts]
    for workers in (0, 2):
        ticks = []
        found = collect(
            model, images, batch_size=4, workers=workers, progress=lambda *tick, ticks=ticks: ticks.append(tick)
        )
        assert torch.equal(found.features, torch.cat([part["h"] for part in read]))
        assert torch.equal(found.logits, torch.cat([part["logits"] for part in read]))
        assert found.labels.tolist() == images.labels[labelled].tolist()
        assert ticks == [(4, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_lines_reach_features_in_order(workers, began):
    broken = Broken(pictures(300), bad={2, 270})
    features = features_of(trained(TIED), broken, skipped=[], workers=workers)
    assert len(features.of("test").labels) == 298
    assert features.skipped == ["picture 2: broken", "picture 270: broken"]
    with pytest.raises(DataError, match=r"^none of 2 images could be read"):
        features_of(trained(TIED), Broken(pictures(2), {0, 1}), skipped=[], workers=workers).of("test")
    assert began() == (0 if not workers else min(2, os.cpu_count()) + 1)


def test_finetune_does_not_depend_on_workers(began, monkeypatch):
    monkeypatch.setattr("manyview.evaluate.finetune.MEMORY", 0)
    found = []
    for workers in (0, 2):
        test, seen = Broken(pictures(9, 3), {4}), Broken(pictures(24, 3, seed=1), {5})
        features = features_of(trained(TIED, 3), test, seen, skipped=[], workers=workers)
        asked = Finetune(epochs=2, batch_size=8, lr=0.01)
        found.append((asked.measure(features, "test").measures, features.skipped))
    assert found[0] == found[1]
    assert began() >= 2


def test_the_workers_of_a_run_read_what_it_is_judged_on(tmp_path, began):
    for number, name in enumerate(("cat", "dog")):
        for split in ("train", "test"):
            photos(tmp_path / "data" / split / name, ALIKE[: 8 - 3 * number])
    lines = f"data: {{source: folder, root: '{tmp_path / 'data'}', val_fraction: 0, memory: 0, workers: 2}}\n"
    recipe = manyview.parse_recipe(TIED.replace("epochs: 1", "epochs: 1, batch_size: 4") + lines)
    train(recipe, tmp_path / "run", quiet=True)
    assert began() == min(2, os.cpu_count()) + 1  # to train, and for the one part of the test images
    for overrides, workers in (((), 2), (("data.workers=1",), 1)):
        subject = open_subject(str(tmp_path / "run"), overrides)
        features = subject.features(Features.__init__.__kwdefaults__["watch"], kept=False)
        assert features.workers == features.on(subject.splits).workers == workers
