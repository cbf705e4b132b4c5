"""Features in a file: the right ones for each image, with its name, label and class; nothing is pickled."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from commands import contents, done, manyview, one_line, png
from manyview.data import decode, open_splits
from manyview.judge.embed import Embedding, write_embedding
from manyview.training.run import Run

TINY = ("train.steps=3", "train.batch_size=16", "train.optimizer.lr=0.1", "train.schedule=cosine()", "evaluate=[]")
LIMITED = ("data.limit=60",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done("train", "quickstart", *TINY, *LIMITED, "--out", out, "--quiet")
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                png(root / split / name / f"{number}, ü.png", seed=number + 10 * label + 50 * (split == "val"))
    return root


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def parquet(path: Path) -> dict[str, list]:
    read = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed").read_table
    return read(path).to_pydict()


def right(run: Path, images: list[torch.Tensor], readout: str = "h") -> np.ndarray:
    """One by one."""
    step = Run(run).step(Run(run).recipe())
    with torch.no_grad():
        read = [step.evaluated.read(step.test_pixels(image[None]), [readout])[readout] for image in images]
    return torch.cat(read).float().numpy()


def test_a_runs_own_data(trained, tmp_path):
    out = tmp_path / "new" / "features.npz"
    recipe = Run(trained).recipe()
    splits = open_splits(recipe.data, recipe.seed)
    total = len(splits.train) + len(splits.val) + len(splits.test)
    assert done("embed", trained, "--out", out) == f"wrote {out}: h of {total} images, 64 numbers each\n"
    assert [path.name for path in out.parent.iterdir()] == ["features.npz"]
    found = loaded(out)
    assert found.keys() == {"features", "names", "index", "split", "labels", "classes"}
    assert found["classes"].tolist() == [str(digit) for digit in range(10)]
    for name in ("train", "val", "test"):
        images, mine = getattr(splits, name), found["split"] == name
        assert np.array_equal(found["index"][mine], images.index)
        assert np.array_equal(found["labels"][mine], images.labels)
        assert found["names"][mine].tolist() == [images.name(position) for position in range(len(images))]
        few = right(trained, [images.read(position) for position in range(5)])
        np.testing.assert_allclose(found["features"][mine][:5], few, rtol=1e-4, atol=1e-5)

    done("embed", trained, "--split", "val", "--readout", "logits", "--out", tmp_path / "val.parquet", "--quiet")
    table = parquet(tmp_path / "val.parquet")
    assert table.keys() == {"names", "index", "split", "labels", "class", "features"}
    assert table["index"] == splits.val.index.tolist()
    assert table["class"] == [str(label) for label in splits.val.labels]
    few = right(trained, [splits.val.read(position) for position in range(5)], "logits")
    np.testing.assert_allclose(np.array(table["features"][:5]), few, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_files_and_the_same_images_as_data(trained, pictures, tmp_path, ending):
    one, other = tmp_path / f"one.{ending}", tmp_path / f"other.{ending}"
    files = sorted((pictures / "train" / "cat").iterdir())
    done("embed", trained, pictures, "--out", one, "--quiet")
    data = ("data.source=folder", f"data.root={pictures}", "data.workers=2")
    done("embed", trained, *data, "--out", other, "--quiet")
    by_name = []
    for path in (one, other):
        found = loaded(path) if ending == "npz" else {name: np.array(v) for name, v in parquet(path).items()}
        by_name.append(dict(zip(found["names"].tolist(), found["features"], strict=True)))
    assert {"names", "features"} == (loaded(one).keys() if ending == "npz" else parquet(one).keys())
    assert by_name[0].keys() == by_name[1].keys() == {str(path) for path in pictures.rglob("*.png")}
    wanted = right(trained, [decode(path, "") for path in files])
    for each in by_name:
        np.testing.assert_allclose([each[str(path)] for path in files], wanted, rtol=1e-4, atol=1e-5)
    if ending == "parquet":
        assert {*zip(parquet(other)["labels"], parquet(other)["class"], strict=True)} == {(0, "cat"), (1, "dog")}


@pytest.mark.slow(reason="another training run")
def test_a_head_of_a_run_that_learnt_without_labels(tmp_path, pictures):
    run, out = tmp_path / "run", tmp_path / "z.npz"
    done("train", "simclr_digits", *TINY, *LIMITED, "--out", run, "--quiet")
    step = Run(run).step(Run(run).recipe())
    assert "z" in step.evaluated.dims
    done("embed", run, pictures / "val", "--readout", "z", "--out", out, "--quiet")
    found = loaded(out)
    images = [decode(Path(name), "") for name in found["names"].tolist()]
    np.testing.assert_allclose(found["features"], right(run, images, "z"), rtol=1e-4, atol=1e-5)
    refused = one_line(*manyview("embed", run, pictures, "--readout", "logits", "--out", out))
    assert refused.startswith("--readout: unknown readout 'logits'; readouts: h, ")


def test_exports_and_models_of_timm_give_the_runs_features(trained, pictures, tmp_path):
    exported = tmp_path / "exported"
    done("export", trained, exported, "--quiet")
    weights = tmp_path / "weights.safetensors"
    step = Run(trained).step(Run(trained).recipe())
    save_file({name: value.contiguous() for name, value in step.evaluated.backbone.state_dict().items()}, weights)
    done("embed", trained, pictures / "val", "--out", tmp_path / "run.npz", "--quiet")
    done("embed", exported, pictures / "val", "--out", tmp_path / "export.npz", "--quiet")
    ours, theirs = loaded(tmp_path / "run.npz"), loaded(tmp_path / "export.npz")
    assert ours["names"].tolist() == theirs["names"].tolist()
    np.testing.assert_allclose(ours["features"], theirs["features"], rtol=1e-3, atol=1e-4)
    words = ("embed", "cresnet20", pictures / "val", "--checkpoint", weights, "--size", 8)
    done(*words, "--out", tmp_path / "timm.npz", "--quiet")
    assert loaded(tmp_path / "timm.npz")["features"].shape == ours["features"].shape


def test_images_that_cannot_be_read_are_told_and_left_out(trained, tmp_path):
    files = [png(tmp_path / "some" / f"{number}.png", (8, 8), seed=number) for number in range(4)]
    files[1].write_bytes(b"no picture")
    code, out, err = manyview("embed", trained, tmp_path / "some", "--out", tmp_path / "some.npz")
    assert (code, out) == (1, f"wrote {tmp_path / 'some.npz'}: h of 3 images, 64 numbers each\n")
    assert err.startswith(f"manyview: {files[1]}: ")
    assert err.count("\n") == 1
    found = loaded(tmp_path / "some.npz")
    assert found["names"].tolist() == [str(files[number]) for number in (0, 2, 3)]
    np.testing.assert_allclose(
        found["features"], right(trained, [decode(files[n], "") for n in (0, 2, 3)]), rtol=1e-4, atol=1e-5
    )
    message = one_line(*manyview("embed", trained, files[1], "--out", tmp_path / "none.npz"))
    assert message.startswith(f"none of 1 image could be read; the first: {files[1]}: ")
    assert not (tmp_path / "none.npz").exists()


def test_half_the_size_where_that_is_exact_enough(tmp_path):
    names = ["a", "b"]
    usual = torch.tensor([[0.5, -2.0], [3.0, 1e-4]])
    assert write_embedding(tmp_path / "usual.npz", Embedding(usual, names), half=True)
    assert loaded(tmp_path / "usual.npz")["features"].dtype == np.float16
    assert not write_embedding(tmp_path / "large.npz", Embedding(usual * 1e6, names), half=True)
    assert loaded(tmp_path / "large.npz")["features"].tolist() == (usual * 1e6).tolist()


def test_names_that_are_no_text_and_images_without_a_label(tmp_path):
    known = Embedding(
        torch.zeros(2, 3), ["caf\udce9", "two\nlines"], np.arange(2), ["train", "train"], np.array([-1, 1]), ["x", "y"]
    )
    for path in (tmp_path / "a.npz", tmp_path / "a.parquet"):
        if path.suffix == ".npz":
            write_embedding(path, known)
            found = loaded(path)
        else:
            pytest.importorskip("pyarrow", reason="pyarrow is not installed")
            write_embedding(path, known)
            found = parquet(path)
            assert found["class"] == [None, "y"]
        assert list(found["names"]) == ["caf\\udce9", "two\nlines"]
        assert list(found["labels"]) == [-1, 1]


def test_mistakes_are_told_before_the_work(trained, pictures, tmp_path, monkeypatch):
    out = tmp_path / "a.npz"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    before = contents(tmp_path)
    refused = lambda *words: one_line(*manyview("embed", *words))  # noqa: E731
    assert refused(trained, "--out", tmp_path / "a.csv").startswith(
        "--out: 'a.csv' does not say what to write; end it in .npz"
    )
    assert refused(trained, "--out", tmp_path) == f"cannot write {tmp_path}: Is a directory"
    told = "give image files, or data.source=digits, not both"
    assert refused(trained, pictures, "data.source=digits", "--out", out) == told
    assert refused(trained, pictures, "--split", "val", "--out", out) == "give image files, or --split, not both"
    assert refused(trained, "--split", "vale", "--out", out) == (
        "--split: unknown split 'vale'; did you mean 'val'? splits: test, train, val"
    )
    assert refused(trained, "no.png", "--out", out) == "no such file: no.png"
    kinds = "neither a run (it has no recipe.yaml) nor an export (it has no config.json) nor a model of timm"
    assert refused(tmp_path, "--out", out) == f"{tmp_path} is {kinds}"
    assert (
        refused("cresnet20", pictures, "--out", out)
        == "cresnet20 is a model of timm; its weights come with --checkpoint FILE"
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("manyview.cli.embed.find_spec", lambda name: None)
    cure = "pyarrow is not installed; pip install pyarrow, or write .npz"
    assert refused(trained, "--out", tmp_path / "a.parquet") == f"{tmp_path / 'a.parquet'}: {cure}"
    assert contents(tmp_path) == before
