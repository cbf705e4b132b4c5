"""Bad input of streams, teachers and SAM on the command line: one line, exit code 2, nothing written."""

import json
import shutil

import pytest

from commands import contents, done, manyview, one_line

STREAMS = """
data: {source: digits, labels_per_class: 2, unlabeled: all, unlabeled_limit: 64, val_fraction: 0.2}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: weak, make: "randaugment(2, 9)"}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=flex(0.12))
train: {steps: 1, batch_size: 8, unlabeled_per_labeled: 2, schedule: constant(), optimizer: "sgd(lr=0.05)"}
evaluate: []
"""
TEACHER = """
data: {source: digits, limit: 40}
views: {a: {from: image, make: "pad_crop(8, padding=1)"}}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations: ["cross_entropy(logits(a))"]
train: {steps: 1, batch_size: 16, schedule: constant()}
evaluate: []
"""
STUDENT = TEACHER.replace("normalize: half}}", "normalize: half, t: 'linear(h, 7)'}, teacher: \"frozen('PLACE')\"}")
LINE = "relations.1=pseudo_label(logits(strong), toward=stop(logits(weak)), {})"
SAM = "train.optimizer=sam(sgd(lr=0.1), {})"

REFUSED = {
    "no image is left": (
        ["data.unlabeled=rest", "data.labels_per_class=null", "data.unlabeled_limit=null"],
        "data.unlabeled=rest: every training image keeps its label, so none is left; ",
    ),
    "too many": (["data.unlabeled_limit=100000"], "data.unlabeled_limit is 100,000, but there are 1,150 such images"),
    "no such source": (["data.unlabeled=al"], "data.unlabeled: unknown source 'al'; did you mean 'all'?"),
    "ratio 0": (["train.unlabeled_per_labeled=0"], "train.unlabeled_per_labeled: expected at least 1, got 0"),
    "ratio": (["train.unlabeled_per_labeled=0.5"], "train.unlabeled_per_labeled: expected a whole number, got 0.5"),
    "threshold 0": ([LINE.format("threshold=0")], "threshold must be in (0, 1], got 0"),
    "threshold": ([LINE.format("threshold=1.5")], "threshold must be in (0, 1], got 1.5"),
    "threshold of flex": ([LINE.format("threshold=flex(95)")], "threshold must be in (0, 1], got 95"),
    "momentum": ([LINE.format("threshold=free(momentum='a')")], "momentum must be in [0, 1), got 'a'"),
    "sigmas": ([LINE.format("threshold=soft(sigmas='a')")], "sigmas must be positive, got 'a'"),
    "align": ([LINE.format("threshold=soft(align=3)")], "align must be True or False, got 3"),
    "images": (
        [LINE.format("threshold=flex(0.9, images=10)")],
        "flex(0.9, images=10): there are 64 unlabelled images; give that many, or leave images out",
    ),
    "no stream": (
        ["data.unlabeled=null", "data.unlabeled_limit=null"],
        "views.weak.from: unlabeled is no stream of this recipe; open it with data.unlabeled=all",
    ),
    "labels": (
        ["relations.0=cross_entropy(logits(weak))"],
        "cross_entropy(logits(weak)) needs labels, and weak is of the stream unlabeled, which has none",
    ),
    "labels of pairs": (
        ["relations.1=supervised_contrastive(h(weak), h(strong))"],
        "needs labels, and weak is of the stream unlabeled, which has none",
    ),
    "rows of two": (
        ["relations.1=similarity(h(x), h(weak))"],
        "relates rows of other images: x is from image and weak is from unlabeled; relate views of one stream",
    ),
    "rho": ([SAM.format("rho=0")], "rho is a distance above 0, such as 0.05, got 0"),
    "rho below": ([SAM.format("rho=-1")], "rho is a distance above 0, such as 0.05, got -1"),
    "rho nan": ([SAM.format("rho=nan")], "rho is a distance above 0, such as 0.05, got nan"),
    "terms": (
        [SAM.format("ascend='tie'")],
        "ascend: unknown relation 'tie'; relations that teach: cross_entropy, pseudo_label",
    ),
    "anti": (
        ["views.weak.make=rotate90", "views.strong={like: weak, anti: [rotate90]}"],
        "views.strong.anti: 'rotate90' draws nothing that has an opposite",
    ),
}


def refused(folder, *arguments) -> str:
    before = contents(folder)
    line = one_line(*manyview("train", *arguments, "--quiet"))
    assert contents(folder) == before
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_of_streams_and_sam(tmp_path, case):
    overrides, told = REFUSED[case]
    (tmp_path / "recipe.yaml").write_text(STREAMS)
    assert told in refused(tmp_path, tmp_path / "recipe.yaml", *overrides, "--out", tmp_path / "run")


TAUGHT = {
    "trained": (
        "cosine(teacher.h(a), toward=h(a))",
        "teacher.h(a) is frozen, and this line would train it; what learns comes first",
    ),
    "labels": ("cross_entropy(teacher.logits(a))", "teacher.logits(a) is frozen, and this line would train it"),
    "classes": (
        "distill(t(a), toward=teacher.logits(a))",
        "t(a) has 7 columns and teacher.logits(a) has 10; relate readouts of the same width",
    ),
    "no such readout": ("cosine(t(a), toward=teacher.t(a))", "unknown readout 'teacher.t'"),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "recipe.yaml").write_text(TEACHER)
    done("train", folder / "recipe.yaml", "--out", folder / "run", "--quiet")
    return folder / "run"


@pytest.mark.parametrize("case", TAUGHT)
def test_of_teachers(tmp_path, teacher, case):
    line, told = TAUGHT[case]
    (tmp_path / "recipe.yaml").write_text(STUDENT.replace("PLACE", str(teacher)))
    relations = f"relations=['cross_entropy(logits(a))', '{line}']"
    assert told in refused(tmp_path, tmp_path / "recipe.yaml", relations, "--out", tmp_path / "run")


@pytest.mark.slow(reason="a run is made, and gone on with three times")
def test_a_memory_of_other_images_does_not_go_on(tmp_path):
    """FlexMatch's memory is by image; the very images must be there again."""
    (tmp_path / "recipe.yaml").write_text(STREAMS)
    command = (tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    done("train", *command, "--quiet")
    (tmp_path / "run" / "result.json").unlink()
    told = "was made by another recipe: data.unlabeled_limit: 64 -> 60"
    assert told in refused(tmp_path, *command, "data.unlabeled_limit=60", "--resume")
    noted = json.loads((tmp_path / "run" / "splits.json").read_text())
    for key, told in {
        "images": "the unlabeled images are not those",
        "digest": "the labels of the unlabeled im",
    }.items():
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(tmp_path / "run", tmp_path / "other")
        changed = {**noted, "unlabeled": {**noted["unlabeled"], key: "0"}}
        (tmp_path / "other" / "splits.json").write_text(json.dumps(changed))
        assert told in refused(tmp_path, tmp_path / "recipe.yaml", "--out", tmp_path / "other", "--resume")
