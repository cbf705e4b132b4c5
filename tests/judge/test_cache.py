"""Features kept on disk: the same bits without the network, rounded only where that is exact enough, never wrong."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from manyview.data import ArrayImages, Stored, Subset, TableImages, decode
from manyview.data.fingerprint import LOOKED_AT
from manyview.data.folder import folder as open_folder
from manyview.errors import ManyviewWarning
from manyview.evaluate.accuracy import Classify
from manyview.evaluate.evaluate import evaluate
from manyview.evaluate.features import collect, halved
from manyview.evaluate.knn import Knn
from manyview.evaluate.linear import Linear
from manyview.evaluate.model import StepModel
from manyview.judge import cache
from subjects import SLA, TIED, UNLABELED, Broken, counted, features_of, pictures, sunny, trained


@pytest.fixture(scope="module")
def step():
    return trained(SLA)


@pytest.fixture(autouse=True)
def no_warnings():
    """What warns must be expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ManyviewWarning)
        yield


def same(one, other):
    for name in ("features", "labels", "logits", "aggregated"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def passed(step, folder, images, aggregated=False, **options):
    """The outputs, and the splits that passed through the network for them."""
    seen = []
    keeper = None if folder is None else cache.kept_in(folder)
    features = features_of(step, images, watch=counted(seen), keeper=keeper, **options)
    outputs = features.of("test", aggregated=aggregated)
    return outputs, [what for what, *_ in seen]


# -------------------------------------------------------------------------------------------------- found again


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("then", [False, True])
def test_found_again_without_the_network(step, tmp_path, first, then):
    images = pictures(12)
    fresh, made = passed(step, tmp_path, images, aggregated=first)
    assert made == ["test"]
    again, made = passed(step, tmp_path, images, aggregated=then)
    lacking = then and not first
    assert made == (["test"] if lacking else []), "aggregated scores are made when first asked for"
    assert torch.equal(fresh.features, again.features)
    assert torch.equal(fresh.logits, again.logits)
    assert (again.aggregated is not None) == (first or then)
    assert passed(step, tmp_path, images, aggregated=then)[1] == []
    assert len(files(tmp_path)) == 1
    same(again, passed(step, None, images, aggregated=first or then)[0])


def test_measures_do_not_depend_on_where_features_came_from(tmp_path):
    step, splits = trained(TIED, 3), (sunny(30, 4), sunny(60, 2), sunny(30, 3))
    asked = [Classify(), Knn(k=5), Linear()]
    measured, passes = [], []
    for keeper in (None, cache.kept_in(tmp_path), cache.kept_in(tmp_path)):
        seen = []
        measured.append(evaluate(features_of(step, *splits, keeper=keeper, watch=counted(seen)), "test", asked))
        passes.append([what for what, *_ in seen if what != "linear"])
    assert measured[0] == measured[1] == measured[2]
    assert [sorted(each) for each in passes] == [["test", "train", "val"]] * 2 + [[]]
    assert len(files(tmp_path)) == 3


def test_half_the_memory(step, tmp_path):
    outputs, _ = passed(step, tmp_path, pictures(12))
    (path,) = tmp_path.iterdir()
    kept = load_file(path)
    assert kept["features"].dtype == torch.float16
    assert outputs.features.dtype == torch.float32
    assert torch.equal(kept["features"].float(), outputs.features)
    assert kept["logits"].dtype == torch.float32
    whole = collect(StepModel(step), pictures(12))
    assert torch.equal(whole.logits, outputs.logits), "scores are not rounded"
    assert 0 < float((whole.features - outputs.features).norm()) <= 1e-3 * float(whole.features.norm())


@pytest.mark.parametrize(
    ("scale", "exact_enough"),
    [(1.0, True), (1e-2, True), (1e3, True), (1e6, False), (1e-6, False), (1e-9, False), (float("nan"), False)],
)
def test_halved_only_where_exact_enough(scale, exact_enough):
    features = scale * torch.randn(20, 64, generator=torch.Generator().manual_seed(1)).abs()
    half = halved(features)
    assert (half.dtype == torch.float16) is exact_enough
    if exact_enough:
        assert ((half.double() - features.double()).norm(dim=1) <= 1e-3 * features.double().norm(dim=1)).all()
    else:
        assert half is features


def test_one_row_that_cannot_be_rounded_keeps_all():
    features = torch.ones(5, 4)
    for value in (1e5, 1e-7, float("inf")):
        row = features.clone()
        row[3] = value
        assert halved(row) is row
    features[2] = 0
    features[1, 1] = 1e-9  # beside larger ones it does not count
    assert halved(features).dtype == torch.float16


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_features_that_stay_as_they_are(tmp_path, scale):
    step = trained(UNLABELED)
    step.main.backbone.register_forward_hook(lambda module, inputs, features: scale * features)
    outputs, _ = passed(step, tmp_path, pictures(12))
    (path,) = tmp_path.iterdir()
    assert load_file(path)["features"].dtype == torch.float32
    same(outputs, passed(step, tmp_path, pictures(12))[0])
    assert torch.equal(outputs.features, collect(StepModel(step), pictures(12)).features)


def test_what_could_not_be_read_is_tried_again(step, tmp_path):
    for _ in range(2):
        skipped = []
        outputs, made = passed(step, tmp_path, Broken(pictures(12), {3, 7}), skipped=skipped)
        assert made == ["test"]
        assert skipped == ["picture 3: broken", "picture 7: broken"]
        assert len(outputs.labels) == 10
        assert not tmp_path.exists() or files(tmp_path) == []
    assert len(passed(step, tmp_path, Broken(pictures(12), set()), skipped=[])[0].labels) == 12
    assert len(files(tmp_path)) == 1


# --------------------------------------------------------------------------------------------------------- damage


DAMAGE = {
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[:-20]),
    "short": lambda path, other: path.write_bytes(path.read_bytes()[:4]),
    "empty": lambda path, other: path.write_bytes(b""),
    "text": lambda path, other: path.write_text("no tensors"),
    "flipped in the tensors": lambda path, other: path.write_bytes(flipped(path.read_bytes(), -9)),
    "flipped at the end": lambda path, other: path.write_bytes(flipped(path.read_bytes(), -1)),
    "another entry": lambda path, other: shutil.copyfile(other, path),
}


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 4]) + data[at:][1:]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_entry_is_made_again(step, tmp_path, how):
    (other,) = (passed(step, tmp_path / "other", pictures(12, seed=5)), *(tmp_path / "other").iterdir())[1:]
    fresh, _ = passed(step, tmp_path / "kept", pictures(12))
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    DAMAGE[how](path, other)
    assert path.read_bytes() != whole
    with pytest.warns(ManyviewWarning) as told:
        again, made = passed(step, tmp_path / "kept", pictures(12))
    (warning,) = told
    message = str(warning.message)
    assert message.startswith(f"the kept features {path} are damaged (")
    assert message.endswith("); they are computed again")
    assert "\n" not in message
    assert made == ["test"]
    same(fresh, again)
    assert passed(step, tmp_path / "kept", pictures(12))[1] == []


def test_safetensors_of_someone_else(step, tmp_path):
    from safetensors.torch import save_file

    passed(step, tmp_path, pictures(12))
    (path,) = tmp_path.iterdir()
    save_file({"features": torch.zeros(12, 64), "labels": torch.zeros(12, dtype=torch.int64)}, path)
    with pytest.warns(ManyviewWarning, match="are damaged"):
        assert passed(step, tmp_path, pictures(12))[1] == ["test"]


# -------------------------------------------------------------------------------------------------- other entries


def test_what_else_is_another_entry(step, tmp_path):
    images = pictures(12)
    other_pixels = ArrayImages(255 - images.pixels, images.labels, images.index, split="train")
    other_labels = ArrayImages(images.pixels, (images.labels + 1) % 10, images.index, split="train")
    unlabelled = ArrayImages(images.pixels, images.labels.copy(), images.index, split="train")
    unlabelled.labels[3] = -1
    larger = ArrayImages(images.pixels.repeat(1, 1, 2, 2), images.labels, images.index, split="train")
    weights, size = trained(SLA), trained(TIED)
    weights.main.backbone.conv1.weight.data[0, 0, 0, 0] += 1e-3
    resized = trained(TIED.replace("resize(12)", "resize(10)"))
    cases = [(step, images), (step, other_pixels), (step, other_labels), (step, unlabelled), (step, larger)]
    cases += [(step, pictures(11)), (weights, images), (size, images), (resized, images)]
    for number, (model, data) in enumerate(cases):
        assert passed(model, tmp_path, data)[1] == ["test"]
        assert len(files(tmp_path)) == number + 1
    for model, data in cases:
        assert passed(model, tmp_path, data)[1] == []


# ---------------------------------------------------------------------------------------------- images that changed

COUNT, AT = 40, 9  # an image that is not among those that the key decodes


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 files of three classes."""
    root = tmp_path / "photos"
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        path = root / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    assert AT not in np.linspace(0, COUNT - 1, LOOKED_AT).astype(int)
    return root


def opened(root):
    return open_folder(root, download=False).train


def saved(path, value):
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


def replaced_in_secret(path):
    """Another image of the same name, number of bytes and time of change."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "replaced": lambda path: saved(path, 7),
    "replaced in secret": replaced_in_secret,
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "relabelled": lambda path: path.rename(path.parent.parent / "c" / path.name),
    "renamed": lambda path: path.rename(path.with_name("zz.png")),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_image_of_many_that_changed_is_seen(step, tmp_path, photos, change):
    kept, images = tmp_path / "kept", opened(photos)
    assert passed(step, kept, images, skipped=[])[1] == ["test"]
    assert passed(step, kept, opened(photos), skipped=[])[1] == []
    CHANGES[change](Path(images.name(AT)))
    again, made = passed(step, kept, opened(photos), skipped=[])
    assert made == ["test"]
    same(again, passed(step, None, opened(photos), skipped=[])[0])


def test_a_repaired_image_counts_again(step, tmp_path, photos):
    kept, path = tmp_path / "kept", Path(opened(photos).name(AT))
    whole, skipped = path.read_bytes(), []
    path.write_bytes(b"damaged")
    assert len(passed(step, kept, opened(photos), skipped=skipped)[0].labels) == COUNT - 1
    assert len(skipped) == 1
    path.write_bytes(whole)
    assert len(passed(step, kept, opened(photos), skipped=skipped)[0].labels) == COUNT
    assert len(skipped) == 1


def test_an_image_that_changes_while_features_are_made_is_not_kept(step, tmp_path, photos):
    images = opened(photos)
    path = Path(images.name(AT))

    class Changes(Watches):
        def __exit__(self, *_):
            saved(path, 9)

    features_of(step, images, watch=Changes, keeper=cache.kept_in(tmp_path / "kept")).of("test")
    assert not (tmp_path / "kept").exists()


class Watches:
    """A watch that shows nothing."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return lambda *_: None

    def __exit__(self, *_):
        pass


def test_files_touched_elsewhere_do_not_matter(step, tmp_path, photos):
    """A subset's entry is of its own images."""
    some = Subset(opened(photos), np.arange(AT))
    passed(step, tmp_path / "kept", some)
    saved(Path(opened(photos).name(AT)), 3)
    assert passed(step, tmp_path / "kept", Subset(opened(photos), np.arange(AT)))[1] == []
    saved(Path(opened(photos).name(AT - 1)), 3)
    assert passed(step, tmp_path / "kept", Subset(opened(photos), np.arange(AT)))[1] == ["test"]


def test_one_row_of_a_table_that_changed_is_seen(step, tmp_path, photos):
    datasets = pytest.importorskip("datasets")
    images = opened(photos)
    paths = [Path(images.name(at)) for at in range(COUNT)]

    def table(cells):
        rows = {"image": cells, "label": images.labels.tolist()}
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
        made = datasets.Dataset.from_dict(rows, datasets.Features(kinds)).cast_column(
            "image", datasets.Image(decode=False)
        )
        return TableImages(made, "image", images.labels, images.index, "train")

    def bytes_of():
        return table([{"bytes": path.read_bytes(), "path": None} for path in paths])

    def paths_of():
        return table([{"bytes": None, "path": str(path)} for path in paths])

    for made in (bytes_of, paths_of):
        assert passed(step, tmp_path / made.__name__, made())[1] == ["test"]
        assert passed(step, tmp_path / made.__name__, made())[1] == []
    saved(paths[AT], 5)
    for made in (bytes_of, paths_of):
        assert passed(step, tmp_path / made.__name__, made())[1] == ["test"]


def test_another_way_to_decode_is_another_entry(step, tmp_path, photos, monkeypatch):
    kept, images = tmp_path / "kept", opened(photos)
    passed(step, kept, images)
    deep = open_folder(photos, download=False, stored=Stored(3, torch.uint8)).train
    assert passed(step, kept, deep)[1] == ["test"]
    assert passed(step, kept, deep)[1] == []
    for name, other in (("versions", lambda *_: {"torch": "0"}), ("code", lambda: "another commit's")):
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, other)
            assert passed(step, kept, images)[1] == ["test"]
    assert passed(step, kept, images)[1] == []
    with monkeypatch.context() as patch:
        patch.setattr("manyview.data.images.decode", lambda *given: 255 - decode(*given))
        assert passed(step, kept, images)[1] == ["test"]


# ------------------------------------------------------------------------------------------------------ the folder


def test_a_folder_that_cannot_be_written(step, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(ManyviewWarning) as told:
        outputs, _ = passed(step, tmp_path / "file" / "features", pictures(12))
    (warning,) = told
    assert str(warning.message).startswith(f"features are not kept: cannot write {tmp_path / 'file' / 'features'}")
    assert "\n" not in str(warning.message)
    same(outputs, passed(step, None, pictures(12))[0])


def test_where_features_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYVIEW_CACHE", str(tmp_path / "there"))
    assert cache.usual_folder() == tmp_path / "there" / "features"
    monkeypatch.delenv("MANYVIEW_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.usual_folder() == tmp_path / ".cache" / "manyview" / "features"
