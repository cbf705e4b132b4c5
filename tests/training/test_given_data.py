"""Runs on data sets that were given in Python: the same as on files, and never silently on others."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from rich.console import Console
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import manyview
from commands import done, one_line, png
from commands import manyview as command
from manyview.data.decode import BadImage
from manyview.data.digits import digits
from manyview.errors import ManyviewWarning, RunError
from manyview.evaluate.knn import Knn
from manyview.judge.cache import key_of
from manyview.judge.judge import judge
from manyview.judge.subject import open_subject
from manyview.show.sheet import GAP, NAME
from manyview.training.run import Run
from manyview.views.engine.program import RENDERER

SETTINGS = ("train.epochs=1", "data.limit=128", "train.batch_size=32", "evaluate=[knn(k=5)]", "train.log_every=1")


@pytest.fixture(scope="module")
def given():
    """The digits as a program may have them, in the very order of the source."""
    raw = digits(None, download=False)
    whole = raw.train.images
    dataset = TensorDataset(whole.pixels, torch.from_numpy(whole.labels))
    return {"train": Subset(dataset, raw.train.positions.tolist()), "test": Subset(dataset, raw.test.positions)}


@pytest.fixture(scope="module")
def recipe():
    return manyview.load_recipe("quickstart", *SETTINGS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, recipe, given):
    folder = tmp_path_factory.mktemp("runs")
    for name, data in {"source": None, "given": given}.items():
        manyview.train(recipe, folder / name, data=data, quiet=True)
    return folder


def measured(folder):
    result = Run(folder).finished()
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {key: result[key] for key in ("val", "eval", "steps")}, [line.get("loss") for line in logged]


def test_the_run_is_that_of_the_source_bit_for_bit(runs):
    assert measured(runs / "given") == measured(runs / "source")
    assert "given in Python (train TensorDataset, test TensorDataset)" in Run(runs / "given").finished()["data"]
    assert Run(runs / "given").recipe().data.source == "python"
    assert Run(runs / "given").recipe().title.endswith("with data given in Python")


@pytest.mark.slow(reason="two processes start to learn, and two to read")
def test_workers_change_nothing(runs, recipe, given, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    data = recipe.data.model_copy(update={"workers": 2, "memory": 0.0})
    manyview.train(recipe.model_copy(update={"data": data}), tmp_path / "run", data=given, quiet=True)
    assert measured(tmp_path / "run") == measured(runs / "source")


def test_replay_is_that_of_the_source(runs, given, tmp_path):
    index = int(Run(runs / "given").splits(Run(runs / "given").recipe(), given).train.index[5])
    done("replay", runs / "source", "--index", index, "--epoch", 0, "--out", tmp_path / "source.png")
    drawn = manyview.replay(runs / "given", index, 0, data=given)
    assert drawn.name == f"train item {index}, index {index}, epoch 0"
    with Image.open(tmp_path / "source.png") as source:
        box = (0, 0, source.width, GAP + NAME + 144)  # under the pictures captions name the item
        assert ImageChops.difference(drawn.picture.crop(box), source.crop(box)).getbbox() is None


def test_replay_says_that_another_renderer_made_what_was_seen(runs, given, recwarn):
    """The draws are the same; pixels of crops may be a level beside."""
    run = Run(runs / "given")
    noted = json.loads((run.folder / "splits.json").read_text())
    index = int(run.splits(run.recipe(), given).train.index[5])
    assert noted["renderer"] == RENDERER
    manyview.replay(run, index, 0, data=given)
    assert not recwarn.list
    for other in (RENDERER + 1, None):  # None: a run from before renderers were counted
        text = json.dumps({key: value for key, value in {**noted, "renderer": other}.items() if value is not None})
        (run.folder / "splits.json").write_text(text)
        try:
            with pytest.warns(
                ManyviewWarning, match=f"began under renderer {other or 1}, and this is renderer {RENDERER}"
            ):
                manyview.replay(run, index, 0, data=given)
        finally:
            (run.folder / "splits.json").write_text(json.dumps(noted))


def test_evaluation_is_that_of_the_source(runs, given):
    reports = [
        judge(open_subject(str(runs / name), data=data), [Knn(k=3)], "test", Console(quiet=True))[Knn(k=3)]
        for name, data in {"source": None, "given": given}.items()
    ]
    assert reports[0].measures == reports[1].measures


@pytest.mark.parametrize("arguments", [["eval"], ["replay", "--index", "0", "--epoch", "0", "--out", "a.png"]])
def test_commands_say_what_they_need(runs, arguments):
    message = one_line(*command(arguments[0], runs / "given", *arguments[1:]))
    assert "the images were given in Python, and must be given there again, as data=…" in message


def test_a_run_goes_on_with_the_same_data_alone(runs, recipe, given, tmp_path):
    message = one_line(*command("train", runs / "given" / "recipe.yaml", "--out", tmp_path / "run"))
    assert "the images were given in Python" in message
    assert manyview.train(recipe, runs / "given", data=given, resume=True, quiet=True) == Run(runs / "given").finished()
    other = given | {"train": Subset(given["train"].dataset, sorted(given["train"].indices)[::-1])}
    with pytest.raises(RunError, match="the train images are not those the run began with"):
        manyview.train(recipe, runs / "given", data=other, resume=True, quiet=True)
    pixels = given["train"].dataset.tensors[0].clone()
    pixels[:] = 255 - pixels
    inverted = TensorDataset(pixels, given["train"].dataset.tensors[1])
    other = {name: Subset(inverted, subset.indices) for name, subset in given.items()}
    with pytest.raises(RunError, match="the train images are not those the run began with"):
        manyview.train(recipe, runs / "given", data=other, resume=True, quiet=True)
    shifted = TensorDataset(given["train"].dataset.tensors[0], (given["train"].dataset.tensors[1] + 1) % 10)
    other = {name: Subset(shifted, subset.indices) for name, subset in given.items()}
    with pytest.raises(RunError, match="the labels of the train images are not those the run began with; restore them"):
        manyview.train(recipe, runs / "given", data=other, resume=True, quiet=True)
    with pytest.raises(RunError, match=r"was made by another recipe: data\.source"):
        manyview.train(recipe, runs / "given", resume=True, quiet=True)


def test_a_run_of_a_source_is_judged_on_given_data(runs, given):
    subject = open_subject(str(runs / "source"), data=given)
    assert subject.data.startswith("python ")
    with pytest.raises(RunError, match=r"was made by another recipe: data\.source: 'digits' -> 'python'"):
        Run(runs / "source").splits(Run(runs / "source").recipe(), given)


class Broken(Dataset):
    """64 digits, one of which cannot be read; the labels of all are known."""

    def __init__(self, dataset):
        self.dataset, self.targets = dataset, dataset.tensors[1][:64].tolist()

    def __len__(self):
        return 64

    def __getitem__(self, number):
        if number == 3:
            raise OSError("the disk is gone")
        return self.dataset[number]


def test_an_item_that_raises_stops_a_run_or_is_skipped(given, tmp_path):
    data = {"train": Broken(given["train"].dataset)}
    whole = ("train.epochs=1", "train.batch_size=32", "data.val_fraction=0", "evaluate=[]")
    told = "train item 3: OSError: the disk is gone"
    with pytest.raises(BadImage, match=f"{told}; .*data.on_bad_image=skip"):
        manyview.train(manyview.load_recipe("quickstart", *whole), tmp_path / "stops", data=data, quiet=True)
    skips = manyview.load_recipe("quickstart", *whole, "data.on_bad_image=skip")
    assert manyview.train(skips, tmp_path / "skips", data=data, quiet=True)["skipped_images"] == [told]


def test_what_needs_no_data_asks_for_none(runs, tmp_path):
    done("export", runs / "given", tmp_path / "exported")
    assert (tmp_path / "exported" / "config.json").is_file()
    png(tmp_path / "image.png", (8, 8))
    assert str(tmp_path / "image.png") in done("predict", runs / "given", tmp_path / "image.png")


def test_a_refused_data_set_leaves_nothing(recipe, tmp_path):
    with pytest.raises(manyview.ManyviewError, match="its label is None"):
        manyview.train(
            recipe, tmp_path / "run", data={"train": (np.zeros((9, 8, 8), np.uint8), [None] * 9)}, quiet=True
        )
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------- the same data, however it lies

PICTURES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)


def of_files(folder, pictures):
    """An ImageFolder, each time in a folder of its own, as a copy on another disk is."""
    for number, picture in enumerate(pictures):
        path = folder / str(number % 2) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return ImageFolder(folder)


def of_a_table(folder, pictures):
    datasets = pytest.importorskip("datasets")
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(2)}
    rows = {"image": [Image.fromarray(each) for each in pictures], "label": [n % 2 for n in range(len(pictures))]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def of_arrays(folder, pictures):
    return pictures.copy(), [number % 2 for number in range(len(pictures))]


@pytest.mark.parametrize("memory", [1, 0], ids=["in memory", "not in memory"])
@pytest.mark.parametrize("opened", [of_files, of_a_table, of_arrays], ids=["files", "table", "arrays"])
def test_it_does_not_matter_where_the_images_lie(opened, memory, tmp_path):
    small = ("train.steps=1", "train.batch_size=8", "evaluate=[]", "train.track=[]", f"data.memory={memory}")
    recipe = manyview.load_recipe("quickstart", *small, "train.schedule=cosine()")
    data, run = {"train": opened(tmp_path / "images", PICTURES)}, tmp_path / "run"
    manyview.train(recipe, run, data=data, quiet=True)
    if opened is of_files:  # copied elsewhere, and touched
        shutil.copytree(tmp_path / "images", tmp_path / "copy")
        for path in (tmp_path / "copy").rglob("*.png"):
            path.chmod(0o600)
        again = {"train": ImageFolder(tmp_path / "copy")}
    else:
        again = {"train": opened(tmp_path / "again", PICTURES)}
    index = int(Run(run).splits(Run(run).recipe(), data).train.index[0])
    for each in (data, again):
        assert manyview.replay(run, index, 0, data=each).name.endswith(f"index {index}, epoch 0")
        assert open_subject(str(run), data=each).run is not None
        assert manyview.train(recipe, run, data=each, resume=True, quiet=True) == Run(run).finished()
    pictures = PICTURES.copy()
    pictures[:, 0, 0] ^= 1  # the least that can be changed
    other = {"train": opened(tmp_path / "other", pictures)}
    with pytest.raises(RunError, match="images are not those the run began with"):
        manyview.train(recipe, run, data=other, resume=True, quiet=True)
    # what is kept of features is under a key of every single image
    model, subject = open_subject(str(run), data=data).model, open_subject(str(run), data=again)
    changed = manyview.data.open_splits(subject.run.recipe().data, 0, other)
    assert key_of(model, subject.splits.train) != key_of(model, changed.train)
