"""A run that was killed and resumed is, bit for bit, the run that was not."""

import json
import shutil
import time

import pytest
import torch

from killed import assert_equal, assert_same_run, complete, kill_after, lines, newest_step
from manyview.errors import RunError
from manyview.foundation.files import read_state
from manyview.training.log import Metrics

pytestmark = pytest.mark.slow(reason="runs are killed and resumed in processes of their own")
RECIPE = """
title: to be killed
seed: 1
data: {source: digits, limit: 128, render: memory}
views:
  a: {from: image, make: "pad_crop(8, padding=1) | flip(0.5) | jitter(0.2, 0.2, 0.2, 0.1)"}
  b: {like: a}
branches: {net: {backbone: "cresnet20(drop_rate=0.3)", normalize: half}}
relations:
  - cross_entropy(logits(a), logits(b))
  - similarity(h(a), h(b), weight=random(1))
train:
  epochs: 3
  batch_size: 16
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  schedule: "cosine(warmup='1 epochs')"
  log_every: 1
  checkpoint_every: 7 steps
"""
MOCO = """
title: to be killed, without labels
seed: 1
data: {source: digits, limit: 128, render: memory}
views:
  a: {from: image, make: "crop(8, scale=(0.3, 1)) | flip(0.5) | jitter(0.2, 0.2, 0.2, 0.1)"}
  b: {like: a}
branches:
  online: {backbone: cresnet20, normalize: half, z: "projector(h, 16, hidden=32, norm_last=False)", forward: separate}
  teacher: ema(online, momentum=0.9, schedule='cosine')
relations: ["info_nce(z(a), toward=teacher.z(b), queue=40, temperature=0.2)"]
train:
  epochs: 3
  batch_size: 16
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  schedule: "cosine(warmup='1 epochs')"
  log_every: 1
  checkpoint_every: 7 steps
  keep: best
evaluate: [knn(k=5)]
"""
DINO = (
    MOCO.replace(
        '"projector(h, 16, hidden=32, norm_last=False)"', '"dino_head(h, 24, hidden=16, bottleneck=8, freeze=10)"'
    )
    .replace(
        "info_nce(z(a), toward=teacher.z(b), queue=40, temperature=0.2)", "dino(z(a), z(b), toward=teacher, RISES)"
    )
    .replace("RISES", "teacher_temperature=(0.04, 0.07), warmup=15")
    .replace("sgd(lr=0.05, momentum=0.9)", "adamw(lr=0.001, weight_decay=0.04, decay_to=0.4)")
)
STREAMS = """
title: to be killed, with few labels
seed: 1
data: {source: digits, labels_per_class: 4, unlabeled: all, unlabeled_limit: 128, val_fraction: 0.2, render: memory}
views:
  x: {from: image, make: "pad_crop(8, padding=1)"}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: weak, make: "randaugment(2, 9) | cutmix(1.0, per='image')"}
branches: {net: {backbone: "cresnet20(drop_rate=0.3)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=flex(0.3))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=free(momentum=0.9), weight=0.1)
train:
  epochs: 3
  batch_size: 8
  unlabeled_per_labeled: 2
  optimizer: "sgd(lr=0.05, momentum=0.9)"
  schedule: "cosine(warmup='1 epochs')"
  log_every: 1
  checkpoint_every: 7 steps
"""
LEJEPA = MOCO.replace("  teacher: ema(online, momentum=0.9, schedule='cosine')\n", "").replace(
    "info_nce(z(a), toward=teacher.z(b), queue=40, temperature=0.2)", "lejepa(z(a), z(b), directions=16)"
)
# 8 steps an epoch, 24 in all, a checkpoint at 7, 14 and 21: at step 15 the run is within its second epoch. MoCo's 16
# keys a step do not divide its queue of 40: at a checkpoint it is filled to some place within
OTHERS = {"moco": MOCO, "dino": DINO, "streams": STREAMS, "lejepa": LEJEPA}
# what is saved of one is not of another's making, so that several may stand in one case
CASES = {
    "dropout and random weights": [],
    "two workers, in parts": [
        *("data.workers=2", "data.render=workers"),
        *("train.accumulate=2", "train.clip=1.0", "train.optimizer=adamw(lr=0.01)"),
    ],
    "sam in parts": ["train.accumulate=2", "train.clip=1.0", "train.optimizer=sam(sgd(lr=0.05, momentum=0.9))"],
    "moco": [],
    "moco in parts, with sam": [
        *("train.accumulate=2", "data.render=device"),
        "train.optimizer=sam(sgd(lr=0.05, momentum=0.9), adaptive=True)",
    ],
    "dino in parts": ["train.accumulate=2", "train.clip=3.0"],
    "streams by two workers": ["data.workers=2", "data.render=workers"],
    "streams in parts, with sam": [
        "train.accumulate=2",  # which free() refuses
        "train.optimizer=sam(sgd(lr=0.05, momentum=0.9))",
        "relations=['cross_entropy(logits(x))', 'pseudo_label(logits(strong), toward=stop(logits(weak)), "
        "threshold=flex(0.3))']",
    ],
    "lejepa on the device, averaged": ["data.render=device", "train.ema=0.9"],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def recipe_of(recipe):
    """The recipe of a case."""
    others = {name: recipe.with_name(f"{name}.yaml") for name in OTHERS}
    for name, text in OTHERS.items():
        others[name].write_text(text)
    return lambda case: others.get(case.split()[0], recipe)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, recipe_of):
    """The run of each case that nothing happened to, made once."""
    made = {}

    def run(case):
        if case not in made:
            made[case] = tmp_path_factory.mktemp("uninterrupted") / "run"
            assert complete(made[case], recipe_of(case), *CASES[case]) == 0
        return made[case]

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_continues_as_if_nothing_had_happened(tmp_path, recipe_of, uninterrupted, case):
    recipe, expected, folder = recipe_of(case), uninterrupted(case), tmp_path / "run"
    assert [line["step"] for line in lines(expected) if "loss" in line] == list(range(1, 25))
    kill_after(folder, 15, recipe, *CASES[case])
    number = read_state(folder / "checkpoints" / "last.pt")["run"]["number"]
    assert number >= 14
    assert number % 7 == 0
    assert newest_step(folder) >= number
    assert complete(folder, recipe, *CASES[case], "--resume") == 0
    assert_same_run(folder, expected)


def test_what_a_moco_run_saves(uninterrupted):
    saved = read_state(uninterrupted("moco") / "checkpoints" / "last.pt")["step"]
    assert saved["relations.info_nce.queue"].shape == (40, 16)
    assert int(saved["relations.info_nce.oldest"]) == 24 * 16 % 40
    online = {name.removeprefix("branches.online."): value for name, value in saved.items() if ".online." in name}
    teacher = {name.removeprefix("branches.teacher."): value for name, value in saved.items() if ".teacher." in name}
    assert online.keys() == teacher.keys()
    assert not torch.equal(online["heads.z.0.weight"], teacher["heads.z.0.weight"])
    assert not torch.equal(online["backbone.bn1.running_mean"], teacher["backbone.bn1.running_mean"])


def test_killed_twice(tmp_path, recipe, uninterrupted):
    case = "dropout and random weights"
    kill_after(tmp_path / "run", 8, recipe, *CASES[case])
    kill_after(tmp_path / "run", 16, recipe, *CASES[case], "--resume")
    assert complete(tmp_path / "run", recipe, *CASES[case], "--resume") == 0
    assert_same_run(tmp_path / "run", uninterrupted(case))


def test_killed_before_the_first_checkpoint(tmp_path, recipe, uninterrupted):
    folder = tmp_path / "run"
    kill_after(folder, 2, recipe, "train.checkpoint_every=40 steps")
    assert not (folder / "checkpoints").exists()
    assert complete(folder, recipe, "--resume") == 0  # how often to save may change
    assert_same_run(folder, uninterrupted("dropout and random weights"))


def test_best_of_an_epoch_after_the_checkpoint_is_made_again(tmp_path, recipe, uninterrupted):
    """Killed with a best.pt that is newer than last.pt."""
    folder = tmp_path / "run"
    kill_after(folder, 18, recipe, "train.checkpoint_every=40 steps")
    assert (folder / "checkpoints" / "best.pt").is_file()
    assert not (folder / "checkpoints" / "last.pt").exists()
    assert complete(folder, recipe, "--resume") == 0
    assert_same_run(folder, uninterrupted("dropout and random weights"))


def test_other_numbers_of_workers_may_continue(tmp_path, recipe, uninterrupted):
    case = "two workers, in parts"
    none, *rest = CASES[case]
    assert none == "data.workers=2"
    kill_after(tmp_path / "run", 15, recipe, *rest)
    assert complete(tmp_path / "run", recipe, *CASES[case], "--resume") == 0
    assert_same_run(tmp_path / "run", uninterrupted(case))


def test_resume_starts_a_run_that_has_not_begun(tmp_path, recipe, uninterrupted):
    assert complete(tmp_path / "run", recipe, "--resume") == 0
    assert_same_run(tmp_path / "run", uninterrupted("dropout and random weights"))


@pytest.mark.parametrize("left", [[".recipe.yaml.7.tmp"], ["splits.json"], ["splits.json", ".recipe.yaml.7.tmp"]])
def test_killed_while_the_folder_was_made(tmp_path, recipe, uninterrupted, left):
    expected, folder = uninterrupted("dropout and random weights"), tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text((expected / name).read_text() if name == "splits.json" else "half")
    assert complete(folder, recipe, "train.steps=1", "train.schedule=constant()", "--resume") == 0
    assert json.loads((folder / "result.json").read_text())["steps"] == 1


# ------------------------------------------------------------------- a folder as a killed process may have left it


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, recipe):
    """The checkpoints of a run that was killed: last.pt of step 14."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    kill_after(folder, 15, recipe)
    assert read_state(folder / "checkpoints" / "last.pt")["run"]["number"] == 14
    return folder / "checkpoints"


@pytest.fixture
def killed(tmp_path, stopped, uninterrupted):
    """A copy of a killed run: its checkpoints, its metrics up to the end, no result."""
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted("dropout and random weights"), folder)
    (folder / "result.json").unlink()
    shutil.copytree(stopped, folder / "checkpoints", dirs_exist_ok=True)
    return folder


def test_half_a_line_and_leftovers(killed, recipe, uninterrupted):
    text = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(text) if json.loads(line)["step"] == 18)
    half = text[at][: text[at].index("}") + 1]  # ends as a whole line does
    (killed / "metrics.jsonl").write_text("".join(text[:at]) + half)
    (killed / ".metrics.jsonl.7.tmp").write_text("half")
    (killed / "checkpoints" / ".last.pt.7.tmp").write_bytes(b"half")
    assert complete(killed, recipe, "--resume") == 0
    assert_same_run(killed, uninterrupted("dropout and random weights"))
    assert not [*killed.rglob(".*.tmp")], "of many kills they would fill the disk"


def test_lost_metrics_do_no_harm_to_the_weights(killed, recipe, uninterrupted):
    (killed / "metrics.jsonl").unlink()
    assert complete(killed, recipe, "--resume") == 0
    expected = uninterrupted("dropout and random weights")
    for name in ("last.pt", "best.pt"):
        assert_equal(read_state(killed / "checkpoints" / name), read_state(expected / "checkpoints" / name), name)
    assert lines(killed) == [line for line in lines(expected) if line["step"] > 14]


def test_killed_in_the_final_evaluation(tmp_path, recipe, uninterrupted):
    expected, folder = uninterrupted("dropout and random weights"), tmp_path / "run"
    shutil.copytree(expected, folder)
    (folder / "result.json").unlink()
    assert complete(folder, recipe, "--resume") == 0
    assert_same_run(folder, expected)


# ----------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.optimizer.lr=0.1"], r"was made by another recipe: train.optimizer: .*lr=0.05.* -> .*lr=0.1"),
        (
            ["train.epochs=5"],
            r"another recipe: train.epochs: 3 -> 5; a new run .* with branches.net.backbone.init=",
        ),
        (["seed=2"], r"was made by another recipe: seed: 1 -> 2$"),
        (["views.a.make=flip(0.5)"], r"was made by another recipe: views.a.make: 'pad_crop.* -> 'flip\(0.5\)'$"),
    ],
)
def test_another_recipe_may_not_continue(tmp_path, recipe, uninterrupted, overrides, message):
    from manyview import load_recipe
    from manyview.training.train import train

    folder = tmp_path / "run"
    shutil.copytree(uninterrupted("dropout and random weights"), folder)
    (folder / "result.json").unlink()
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(RunError, match=message) as caught:
        train(load_recipe(recipe, *overrides), folder, resume=True, quiet=True)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_damaged_checkpoint_is_one_line(killed, recipe):
    from manyview import load_recipe
    from manyview.training.train import train

    last = killed / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    last.with_name("last-1.pt").unlink()  # which the run would go on from
    with pytest.raises(RunError, match=r"last\.pt is damaged") as caught:
        train(load_recipe(recipe), killed, resume=True, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_no_run(tmp_path, recipe):
    from manyview import load_recipe
    from manyview.training.train import train

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is no run: it has no recipe.yaml$"):
        train(load_recipe(recipe), tmp_path, resume=True, quiet=True)


# ----------------------------------------------------------------------------------------------------- metrics


def test_metrics_keep_whole_lines_up_to_the_step(tmp_path):
    """Wherever the last line breaks off."""
    whole = [json.dumps({"step": step, "terms": {"a": 1.0}, "note": {}}) + "\n" for step in (1, 2, 2, 3)]
    last = json.dumps({"step": 3, "val": {"top1": 10.0}, "more": {"deep": {"x": 1}}})
    for length in range(len(last) + 1):
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(whole) + last[:length])
        Metrics(path, 2).close()
        assert path.read_text() == "".join(whole[:3])
        path.write_text("".join(whole) + last[:length])
        Metrics(path, 3).close()
        kept = path.read_text()
        assert kept == "".join(whole) + (last + "\n" if length == len(last) else "")


def test_tensorboard_holds_each_step_once_after_a_restart(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Metrics(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3, 4):
        first.write(step, step, loss=float(step))
    first.close()
    time.sleep(1.1)  # event files are ordered by the second in their names
    second = Metrics(tmp_path / "metrics.jsonl", 2)
    for step in (3, 4):
        second.write(step, step, loss=float(10 * step))
    second.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert [line["loss"] for line in lines(tmp_path)] == [1, 2, 30, 40]
