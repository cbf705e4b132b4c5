"""The command line: what it writes, what it prints, and mistakes as one line on stderr with exit code 2."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import contents, done, manyview, one_line, png
from manyview.data import open_splits
from manyview.data.loader import Batches
from manyview.evaluate.evaluate import evaluate
from manyview.evaluate.features import Features
from manyview.evaluate.model import StepModel
from manyview.evaluate.protocols import PROTOCOLS, parse_protocols
from manyview.load import load_recipe, packaged_recipes, parse_recipe
from manyview.show.plan import plan
from manyview.show.sheet import GAP, NAME
from manyview.training.run import Run
from small import small

TINY = ("train.steps=3", "train.batch_size=16", "train.schedule=cosine()", "data.limit=60", "train.log_every=1")


@pytest.fixture
def refused(tmp_path):
    """A function that gives the message of a refused command, and checks that nothing under tmp_path changed."""

    def run(*arguments) -> str:
        before = contents(tmp_path)
        message = one_line(*manyview(*arguments))
        assert contents(tmp_path) == before, "a refused command wrote something"
        return message

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of three steps; to be read only."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done("train", "quickstart", *TINY, "--out", out)
    return out


@pytest.fixture(scope="module")
def judged(trained) -> Path:
    """A copy of that run for eval, which adds to it."""
    return Path(shutil.copytree(trained, trained.parent / "judged"))


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def pictures(tmp_path) -> Path:
    """root/train/{cat,dog}/0-7.png and root/val/…/0-3.png."""
    root = tmp_path / "pictures"
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                png(root / split / name / f"{number}.png", seed=number + 10 * label + 100 * (split == "val"))
    return root


FOLDER = ("data.source=folder", "train.steps=4", "train.batch_size=8", "train.schedule=cosine()", "evaluate=[]")


# ----------------------------------------------------------------------------------------------------- real processes


@pytest.mark.slow(reason="interpreters of their own")
@pytest.mark.parametrize("module", [True, False])
def test_real_processes_leave_with_real_exit_codes(tmp_path, module):
    script = Path(sys.executable).with_name("manyview")
    if not module and not script.is_file():
        pytest.skip("the manyview command is not installed beside this Python")
    command = [sys.executable, "-m", "manyview.cli"] if module else [str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def call(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)

    if module:
        good = call("recipes")
        assert (good.returncode, good.stderr) == (0, "")
        assert "quickstart" in good.stdout
    bad = call("train", "quickstrat", "--out", "run")
    message = one_line(bad.returncode, bad.stdout, bad.stderr)
    assert message.startswith("unknown recipe 'quickstrat'; did you mean 'quickstart'? recipes: ")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ recipes, plan


def test_recipes_are_listed_with_their_titles():
    lines = done("recipes").splitlines()
    names = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert names == list(packaged_recipes())
    printed = " ".join(" ".join(lines).split())
    for name in names:
        words = load_recipe(name).title.split()
        assert f"{name} {' '.join(words[:4])}" in printed


def test_one_recipe_is_printed_as_it_is_written(refused, tmp_path):
    text = done("recipes", "simclr_digits")
    (tmp_path / "copy.yaml").write_text(text)
    assert text.startswith("# SimCLR")
    assert load_recipe(tmp_path / "copy.yaml") == load_recipe("simclr_digits")
    assert refused("recipes", "simclr_digit").startswith("unknown recipe 'simclr_digit'; did you mean 'simclr_digits'?")


def test_plan_knows_the_parts_of_the_optimiser(refused):
    message = refused("plan", "simclr_digits", "train.optimizer.constant=pred")
    assert message.startswith("recipe simclr_digits: train.optimizer: unknown part 'pred'; parts: backbone, logits, ")


def unlike():
    """A packaged recipe of each kind: those that ask unlike things of views. The rows of all are held in test_plan."""
    found = {}
    for name in packaged_recipes():
        asked = {relation.text.partition("(")[0] for relation in load_recipe(name).relation_plan}
        found.setdefault(frozenset(asked), name)
    return [*found.values()]


@pytest.mark.parametrize("name", unlike())
def test_plans_are_printed_and_drawn(tmp_path, name):
    figure = tmp_path / "plan.svg"
    overrides = small(name)
    out = done("plan", name, *overrides, "--svg", figure)
    recipe = load_recipe(name, *overrides)
    made = plan(recipe)
    text = " ".join(out.split())
    assert " ".join(made.summary().split()) in text
    for view in recipe.view_plan:
        assert re.search(rf"^{view} ", out, re.M)
    for relation in recipe.relation_plan:
        assert re.search(rf"^{relation.name} ", out, re.M)
    assert out.endswith(f"drew {figure}\n")

    root = ElementTree.fromstring(figure.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    labels = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert recipe.title in labels
    for view in made.step.rendered_views:
        assert any(label == view or label.startswith(f"{view}  (") for label in labels)
    for relation in recipe.relation_plan:
        assert relation.name in labels
        for read in relation.all_reads:
            readout = f"{read.name}({read.view})"
            assert (readout if len(recipe.branches) == 1 else f"{read.branch}.{readout}") in labels
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(box.get("x", 0)) + float(box.get("width")) <= width
        assert float(box.get("y", 0)) + float(box.get("height")) <= height


def test_plan_counts_heads_for_the_classes_asked_for():
    ten, hundred = plan(load_recipe("quickstart"), 10), plan(load_recipe("quickstart"), 100)
    assert ten.summary() != hundred.summary()
    assert " ".join(hundred.summary().split()) in " ".join(done("plan", "quickstart", "--classes", 100).split())


def test_plan_says_which_views_nobody_reads(tmp_path):
    out = done("plan", "quickstart", "views.spare={from: image, make: flip}")
    assert "(read by no relation: not rendered)" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "unknown recipe 'nope'; recipes: dino_imagenet, "),
        (
            ["quickstart", "train.epoch=3"],
            "recipe quickstart: train.epoch: unknown key 'epoch'; did you mean 'epochs'? ",
        ),
        (["quickstart", "train.epochs"], "recipe quickstart: override 'train.epochs': write key=value, as in "),
        (["quickstart", "branches.net.backbone=zz"], "recipe quickstart: branches.net.backbone: unknown backbone 'zz'"),
        (
            ["quickstart", "relations.similarity.kind=x"],
            "recipe quickstart: relations.1: similarity(h(a), h(b), kind='x', weight=warmup(1)): ",
        ),
        (["sla_cifar10", "views.r.orbit=rotation9"], "recipe sla_cifar10: views.r.orbit: unknown orbit 'rotation9'; "),
    ],
)
def test_plan_refuses(refused, arguments, message):
    assert refused("plan", *arguments).startswith(message)


def test_plan_refuses_data_that_were_asked_for_and_cannot_be_used(refused, tmp_path):
    small, bare = "branches.net.backbone=cresnet20", tmp_path / "bare"
    bare.mkdir()
    assert refused("plan", "tied_imagenet", small, "data.root=nothere").startswith("no folder nothere; ")
    assert str(bare) in refused("plan", "tied_imagenet", small, f"data.root={bare}")
    assert "data: not seen (" in done("plan", "tied_imagenet", small), "what nobody asked for is no mistake"


def test_plan_cannot_draw_over_a_folder(refused, tmp_path):
    (tmp_path / "taken").mkdir()
    code, _, err = manyview("plan", "quickstart", "--svg", tmp_path / "taken")
    assert (code, err) == (2, f"manyview: cannot write {tmp_path / 'taken'}: Is a directory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# -------------------------------------------------------------------------------------------------------------- train


def test_a_run_has_the_files_of_the_contract(trained):
    names = {path.name.split(".tfevents")[0] for path in trained.rglob("*")}
    assert names == {
        "recipe.yaml", "splits.json", "metrics.jsonl", "checkpoints", "last.pt", "best.pt", "events.out", "result.json",
        "predictions", "val.safetensors", "test.safetensors",
    }  # fmt: skip


def test_the_resolved_recipe_is_written(trained):
    written = (trained / "recipe.yaml").read_text(encoding="utf-8")
    assert parse_recipe(written) == load_recipe("quickstart", *TINY)
    raw = yaml.safe_load(written)
    assert raw["train"]["precision"] == "fp32", "defaults are written out"


def test_metrics_are_one_object_a_line(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [1, 2, 3]
    for line in logged:
        health = {"z_std", "z_std_sqrt_d", "effective_rank", "lidar", "uniformity", "alignment"}
        assert set(line) == {"step", "epoch", "loss", "terms", "lr", "images_per_second", *health}
        assert set(line["terms"]) == {"cross_entropy", "similarity"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
        assert line["epoch"] == pytest.approx(line["step"] / 3, abs=1e-4)  # 60 images, 16 a step: 3 steps an epoch
        assert line["images_per_second"] > 0
        assert 0 < line["z_std"] < 1 / np.sqrt(64) + 1e-6
    # half a cosine, from the recipe's lr
    assert [line["lr"] for line in logged] == pytest.approx([0.1 * (1 + np.cos(np.pi * n / 3)) / 2 for n in range(3)])
    (measured,) = [line for line in lines if "val" in line]
    assert measured["step"] == 3


def test_tensorboard_holds_the_same_numbers(trained):
    board = EventAccumulator(str(trained)).Reload()
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        flat = {
            key: value for key, value in line.items() if not isinstance(value, dict) and key not in ("step", "epoch")
        }
        flat |= {f"terms/{key}": value for key, value in line.get("terms", {}).items()}
        flat |= {f"val/{key}": value for key, value in line.get("val", {}).items()}
        for name, value in flat.items():
            (event,) = [event for event in board.Scalars(name) if event.step == line["step"]]
            assert event.value == pytest.approx(value, rel=1e-6), name


def test_checkpoints_hold_tensors_and_plain_values(trained):
    for name in ("last", "best"):
        state = torch.load(trained / "checkpoints" / f"{name}.pt", weights_only=True)
        assert set(state) == {"step", "optimizer", "run"}
        assert state["run"]["number"] == 3


def test_the_result_keeps_the_contract(trained):
    result = json.loads((trained / "result.json").read_text())
    assert {"recipe", "seed", "epochs", "git", "versions", "seconds", "images_per_second", "eval"} <= set(result)
    assert result["recipe"] == load_recipe("quickstart").title
    assert (result["seed"], result["epochs"], result["steps"]) == (0, 1.0, 3)
    assert result["git"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", result["git"])
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["versions"]["timm"] == timm.__version__
    assert result["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert result["seconds"] > 0
    assert result["images_per_second"] == pytest.approx(3 * 16 / result["seconds"], rel=0.2)
    assert result["views_per_image"] == 2
    assert result["skipped_images"] == []
    assert result["selected_by"] == "validation top1"
    assert result["eval_split"] == "test"
    assert set(result["eval"]) == {"top1", "top5", "class_mean", "loss", "knn"}
    assert all(0 <= result["eval"][name] <= 100 for name in ("top1", "top5", "class_mean", "knn"))


def test_the_result_is_what_the_checkpoint_predicts(trained):
    """Accuracy counted here, image by image, from the best checkpoint's class scores."""
    result = json.loads((trained / "result.json").read_text())
    recipe, step = load_recipe("quickstart", *TINY), Run(trained).step(load_recipe("quickstart", *TINY))
    splits = open_splits(recipe.data, recipe.seed)
    for images, measured in ((splits.test, result["eval"]), (splits.val, result["val"])):
        scores = torch.cat([step.predict(images.read(i)[None])["logits"] for i in range(len(images))]).double()
        labels = images.labels
        order = scores.argsort(dim=1, descending=True).numpy()
        assert measured["top1"] == pytest.approx(100 * np.mean(order[:, 0] == labels), abs=1e-4)
        assert measured["top5"] == pytest.approx(100 * np.mean((order[:, :5] == labels[:, None]).any(1)), abs=1e-4)
        each = [np.mean(order[labels == label, 0] == label) for label in np.unique(labels)]
        assert measured["class_mean"] == pytest.approx(100 * np.mean(each), abs=1e-4)
        chances = scores.softmax(1).numpy()[np.arange(len(labels)), labels]
        assert measured["loss"] == pytest.approx(-np.mean(np.log(chances)), rel=1e-4)


def test_quiet_prints_nothing(tmp_path):
    assert done("train", "quickstart", *TINY, "--out", tmp_path / "run", "--quiet") == ""
    assert (tmp_path / "run" / "result.json").is_file()


def test_paths_are_printed_whole(tmp_path):
    out = tmp_path / ("long " * 20).strip() / "[red]run"
    printed = done("train", "quickstart", *TINY, "--out", out)
    assert str(out / "result.json") in printed
    printed = done("views", "quickstart", "--count", 1, "--out", out / "views.png")
    assert str(out / "views.png") in printed


@pytest.mark.parametrize("inside", ["result.json", "notes.txt", ".hidden"])
def test_a_folder_in_use_is_left_untouched(refused, tmp_path, inside):
    out = tmp_path / "run"
    out.mkdir()
    (out / inside).write_text("precious")
    message = refused("train", "quickstart", *TINY, "--out", out)
    assert message == f"{out} is not empty; choose another --out, or continue with --resume"


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "run").mkdir()
    done("train", "quickstart", *TINY, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file()


def test_out_is_a_folder(refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert refused("train", "quickstart", *TINY, "--out", tmp_path / "file") == (
        f"{tmp_path / 'file'} is a file; --out names a folder"
    )
    message = refused("train", "quickstart", *TINY, "--out", tmp_path / "file" / "run")
    assert message.startswith(f"cannot write {tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epoch=3"], "recipe quickstart: train.epoch: unknown key 'epoch'; did you mean 'epochs'? "),
        (
            ["train.epochs=3", "train.steps=3"],
            "recipe quickstart: train: give the length of the run once, as epochs or ",
        ),
        (
            ["train.steps=3", "train.schedule.warmup=3 steps"],
            "train.schedule: cosine(warmup='3 steps'): a warm-up of 3 steps leaves nothing of a run of 3; "
            "shorten it, as in train.schedule.warmup=0.1",
        ),
        (
            [
                "branches.net.logits=predictor(h, 8, 10)",
                "train.optimizer.lr=0.1",
                "train.batch_size=4",
                "train.accumulate=4",
            ],
            "train.batch_size: a head with BatchNorm needs at least two images a part and process",
        ),
        (["data.limit=5"], "data.limit is 5, fewer than the 10 classes; give each at least one image"),
        (["data.limit=5000"], "data.limit is 5,000, but only "),
        (["data.labels_per_class=1000"], "data.labels_per_class is 1,000, but class "),
        (["data.source=digit"], "recipe quickstart: data.source: unknown source 'digit'; did you mean 'digits'? "),
        (
            ["branches.net.backbone=cresnet21"],
            "recipe quickstart: branches.net.backbone: unknown backbone 'cresnet21'; did you mean ",
        ),
        (
            ["branches.net.logits=linear(h, 7)"],
            "relations.0: cross_entropy(logits(a), logits(b)): logits(a) has 7 columns ",
        ),
        (["train.accumulate=3"], "recipe quickstart: train.accumulate: 3 does not divide batch_size 64"),
        (
            ["train.optimizer=sgd(lr=0.1, momentum='x')"],
            "recipe quickstart: train.optimizer: sgd: momentum must be a number, got 'x'",
        ),
    ],
)
def test_train_refuses_before_it_writes(refused, tmp_path, overrides, message):
    assert refused("train", "quickstart", *overrides, "--out", tmp_path / "run").startswith(message)


# ------------------------------------------------------------------------------------------------------------- resume


def test_resume_of_a_finished_run_changes_nothing(run):
    before, written = contents(run), {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert done("train", "quickstart", *TINY, "--out", run, "--resume") == f"{run} is finished; nothing to do\n"
    assert contents(run) == before
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == written


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=1", "seed: 0 -> 1"),
        ("train.steps=4", "train.steps: 3 -> 4; a new run goes on from its weights with "
         "branches.net.backbone.init={run}"),
        ("relations.similarity.weight=2", "relations.1: 'similarity(h(a), h(b), kind=\"mse\", weight=warmup(1))' -> "
         "\"similarity(h(a), h(b), kind='mse', weight=2)\""),
        ("views.c={like: a}", "views.c.source: None -> "),
        ("data.val_fraction=0.2", "data.val_fraction: 0.1 -> 0.2"),
    ],
)  # fmt: skip
def test_resume_with_another_recipe_shows_the_difference(refused, run, override, difference):
    message = refused("train", "quickstart", *TINY, override, "--out", run, "--resume")
    if override.startswith("views.c"):
        assert message.startswith(f"{run} was made by another recipe: views.c.")
    else:
        assert message == f"{run} was made by another recipe: {difference.replace('{run}', str(run))}"


@pytest.mark.parametrize("override", ["title=other", "data.workers=1", "train.log_every=7", "data.download=true"])
def test_resume_allows_what_changes_no_number(run, override):
    assert done("train", "quickstart", *TINY, override, "--out", run, "--resume").endswith("nothing to do\n")


def test_resume_in_a_folder_that_is_no_run(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("precious")
    message = refused("train", "quickstart", *TINY, "--out", tmp_path / "run", "--resume")
    assert message == f"{tmp_path / 'run'} is no run: it has no recipe.yaml"


def test_resume_refuses_other_images(tmp_path, pictures):
    out = tmp_path / "run"
    arguments = ("train", "quickstart", *FOLDER, f"data.root={pictures}", "--out", out)
    done(*arguments)
    (pictures / "train" / "cat" / "0.png").rename(pictures / "train" / "cat" / "9.png")
    before = contents(out)
    message = one_line(*manyview(*arguments, "--resume"))
    assert message == (
        f"{out}: the train images are not those the run began with; restore the data, or begin anew in another folder"
    )
    assert contents(out) == before


# --------------------------------------------------------------------------------------------------------------- eval


def table(printed: str) -> dict[str, float]:
    """The rows of a table of measures."""
    rows = [re.fullmatch(r"(.+?) {2,}([\d.]+(?:e[-+]\d+)?)( %)?\s*", line) for line in printed.splitlines()]
    return {row[1]: float(row[2]) for row in rows if row}


def test_eval_finds_the_numbers_of_the_result_again(judged):
    result = json.loads((judged / "result.json").read_text())
    before, kept = contents(judged), without_evaluations(judged)
    names = {"top-1": "top1", "top-5": "top5", "class mean": "class_mean", "loss": "loss", "kNN": "knn"}
    test = table(done("eval", judged, "--split", "test"))
    assert test == {name: pytest.approx(result["eval"][key], abs=0.0051) for name, key in names.items()}
    val = table(done("eval", judged))
    assert set(val) == set(names)
    assert {name: val[name] for name in names if name != "kNN"} == {
        name: pytest.approx(result["val"][key], abs=0.0051) for name, key in names.items() if name != "kNN"
    }
    assert without_evaluations(judged) == kept
    only_added(judged, before)


def test_eval_takes_protocols(judged):
    assert set(table(done("eval", judged, "classify"))) == {"top-1", "top-5", "class mean", "loss"}
    assert set(table(done("eval", judged, "knn(k=3)"))) == {"kNN"}
    own = Run(judged).recipe().evaluate[0]
    assert own.startswith("knn(k=")
    assert table(done("eval", judged, "knn")) == table(done("eval", judged, own))
    one, all_ = table(done("eval", judged, "knn(k=1)")), table(done("eval", judged, "knn(k=60, temperature=1e9)"))
    assert one != all_


def test_eval_probes(judged):
    """What the table shows is what the functions give; several of a kind are told apart; where all of it is written."""
    before = contents(judged)
    printed = done("eval", judged, "linear", "knn(k=9)", "knn(k=1)", "--split", "test")
    measured = {name: value for name, value in table(printed).items() if not re.match(r"[\d,.]+$", name)}
    assert list(measured) == ["linear probe", "linear probe's penalty", "kNN(k=9)", "kNN(k=1)"]
    run = Run(judged)
    recipe = run.recipe()
    features = Features(StepModel(run.step(recipe), run.classes()), run.splits(recipe))
    expected = evaluate(features, "test", parse_protocols(["linear_probe()"]))
    assert measured["linear probe"] == pytest.approx(expected["linear"], abs=0.0051)
    assert measured["linear probe's penalty"] == pytest.approx(expected["linear_weight"], rel=5e-3)
    added = only_added(judged, before)
    report = judged / "reports" / "linear_test.md"
    assert f"  {report}\n" in printed
    text = report.read_text()
    assert text.startswith(
        f"# linear on test\n\nModel: {judged}; fitted to 60 labels of train and the 144 on which its penalty was chosen"
        "\n\n## measures\n\n| measure | value |\n| --- | --- |\n"
    )
    _, _, penalties = text.partition("\n\n## penalties\n\n")
    assert penalties.startswith("| penalty | top1 on the rows held out |\n| --- | --- |\n")
    assert str(report.relative_to(judged)) in added
    stored = json.loads((judged / "result.json").read_text())["evaluations"]
    assert {"linear(metric='top1') on test", "knn(k=9, temperature=0.1) on test"} <= set(stored)
    entry = stored["linear(metric='top1') on test"]
    assert entry["measures"] == {"": expected["linear"], "weight": expected["linear_weight"]}
    assert entry["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert len(entry["tables"]["penalties"]["rows"]) == penalties.count("\n| ") - 1


def without_evaluations(run: Path) -> dict:
    result = json.loads((run / "result.json").read_text())
    return {name: value for name, value in result.items() if name != "evaluations"}


def only_added(run: Path, before: dict[str, bytes | None]) -> set[str]:
    """What eval added to a run: features and reports; all else but result.json is byte for byte as it was."""
    after = contents(run)
    assert {name: after.get(name) for name in before if name != "result.json"} == {
        name: data for name, data in before.items() if name != "result.json"
    }
    added = set(after) - set(before)
    assert all(name.partition("/")[0] in ("features", "reports") for name in added)
    return added


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["knnn"], "protocol.0: unknown protocol 'knnn'; did you mean 'knn'? protocols: "
         f"knn, finetune, invariance, … (docs/reference.md has all {len(PROTOCOLS)})"),
        (["classify", "knn(k=0)"], "protocol.1: knn(k=0): k must be a whole number of at least 1, got 0"),
        (["--split", "dev"], "--split: unknown split 'dev'; splits: test, val"),
    ],
)  # fmt: skip
def test_eval_refuses(refused, run, arguments, message):
    assert refused("eval", run, *arguments) == message


def test_eval_of_a_split_the_data_does_not_have(refused, tmp_path, pictures):
    done("train", "quickstart", *FOLDER, f"data.root={pictures}", "data.val_fraction=0", "--out", tmp_path / "run")
    message = refused("eval", tmp_path / "run")
    assert message.startswith("no split 'val'; this run has 16 train, no val, 8 test; 'val' taken for the test split (")


COMMANDS = {
    "eval": lambda run, tmp: ["eval", run],
    "predict": lambda run, tmp: ["predict", run, tmp / "image.png"],
    "replay": lambda run, tmp: ["replay", run, "--index", 0, "--epoch", 0, "--out", tmp / "out.png"],
    "export": lambda run, tmp: ["export", run, tmp / "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_what_is_no_run(refused, tmp_path, command):
    png(tmp_path / "image.png")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "missing", tmp_path / "empty", tmp_path / "image.png"):
        message = refused(*COMMANDS[command](folder, tmp_path))
        kinds = "neither a run (it has no recipe.yaml) nor an export (it has no config.json) nor a model of timm"
        assert message == (
            f"{folder} is {kinds}" if command == "eval" else f"{folder} is no run: it has no recipe.yaml"
        )


@pytest.mark.parametrize("command", ["eval", "predict", "export"])
def test_commands_on_a_recipe_that_is_no_text(refused, run, tmp_path, command):
    (run / "recipe.yaml").write_bytes(b"title: \xff")
    png(tmp_path / "image.png")
    told = f"recipe of a run {run}/recipe.yaml cannot be read: byte 7 is not UTF-8 text"
    assert refused(*COMMANDS[command](run, tmp_path)) == told


@pytest.mark.parametrize("command", ["eval", "predict", "export"])
def test_commands_on_a_run_without_checkpoint(refused, run, tmp_path, command):
    shutil.rmtree(run / "checkpoints")
    png(tmp_path / "image.png")
    assert refused(*COMMANDS[command](run, tmp_path)) == f"{run} has no checkpoint yet; train it first"


@pytest.mark.parametrize("command", ["eval", "predict", "export"])
def test_commands_on_a_damaged_checkpoint(refused, run, tmp_path, command):
    path = run / "checkpoints" / "best.pt"
    path.write_bytes(path.read_bytes()[:1000])
    png(tmp_path / "image.png")
    assert refused(*COMMANDS[command](run, tmp_path)).startswith(f"{path} is damaged")


# ------------------------------------------------------------------------------------------------------------ predict


def test_predict_gives_a_line_a_file(trained, tmp_path):
    recipe = load_recipe("quickstart", *TINY)
    images = open_splits(recipe.data, recipe.seed).test
    paths = []
    for position in range(70):  # more than are read at once
        path = tmp_path / "digits" / f"{position:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(images.read(position).permute(1, 2, 0).numpy()).save(path)
        paths.append(path)
    step = Run(trained).step(recipe)
    chances = torch.cat([step.predict(images.read(i)[None])["logits"] for i in range(70)]).softmax(1)
    expected = [(str(path), str(int(row.argmax())), float(row.max())) for path, row in zip(paths, chances, strict=True)]
    for given in ([tmp_path / "digits"], paths):
        lines = [line.split("\t") for line in done("predict", trained, *given).splitlines()]
        assert [(path, label) for path, label, _ in lines] == [(path, label) for path, label, _ in expected]
        assert [float(p) for _, _, p in lines] == pytest.approx([p for _, _, p in expected], abs=6e-5)


def test_predict_names_classes_and_takes_any_size(tmp_path, pictures):
    done(
        "train",
        "quickstart",
        *FOLDER,
        f"data.root={pictures}",
        "views.test.make=resize((16, 16))",
        "--out",
        tmp_path / "run",
    )
    odd = [png(tmp_path / "odd" / f"{h}.png", (h, w)) for h, w in ((9, 40), (30, 16), (16, 16))]
    lines = [line.split("\t") for line in done("predict", tmp_path / "run", *odd).splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in odd]
    assert {line[1] for line in lines} <= {"cat", "dog"}
    assert all(0.5 <= float(line[2]) <= 1 for line in lines)


def test_predict_refuses(refused, run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    good = png(tmp_path / "good.png")
    missing = tmp_path / "missing.png"
    assert refused("predict", run, missing, missing) == f"no such file: {missing}"
    message = refused("predict", run, tmp_path / "folder")
    assert message == f"no images in {tmp_path / 'folder'} (left out: 1 of other kinds (1 .txt))"
    message = refused("predict", run, good, "--aggregate")
    assert message == "nothing to aggregate: no head of this recipe tells the members of an orbit apart"


SLA = (
    "views.r={from: a, orbit: rotation}",
    "branches.net.joint=linear(h, orbit=r)",
    "relations=[joint_cross_entropy(joint(r))]",
)


def test_predict_aggregates_over_the_orbit(tmp_path):
    """SLA+AG by hand: the mean over turns t of the joint score of (class, t), one forward pass a turn."""
    out = tmp_path / "run"
    done("train", "quickstart", *TINY, *SLA, "--out", out)
    recipe = load_recipe("quickstart", *TINY, *SLA)
    step = Run(out).step(recipe)
    path = png(tmp_path / "image.png")
    pixels = torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        turned = [step.main.read(pixels.rot90(t, (2, 3)), ["joint"])["joint"].view(10, 4)[:, t] for t in range(4)]
        single = step.main.read(pixels, ["joint"])["joint"].view(10, 4)[:, 0].softmax(0)
    mean = torch.stack(turned).mean(0).softmax(0)
    for options, chances in (((), single), (("--aggregate",), mean)):
        _, label, chance = done("predict", out, path, *options).rstrip("\n").split("\t")
        assert label == str(int(chances.argmax()))
        assert float(chance) == pytest.approx(float(chances.max()), abs=6e-5)
    result = json.loads((out / "result.json").read_text())
    assert {"top1", "aggregated_top1", "aggregated_top5", "knn"} <= set(result["eval"])


# ------------------------------------------------------------------------------------------------------ views, replay


def cells(sheet: Path, side: int, rows: int, columns: int) -> list[np.ndarray]:
    """The top row of pictures of a contact sheet, at their own size (they were enlarged by a whole factor)."""
    picture = np.asarray(Image.open(sheet))
    scale = max(1, round(144 / side))
    cell = side * scale
    assert picture.shape[1] == GAP + columns * (cell + GAP)
    top = NAME + GAP
    return [picture[top : top + cell : scale, GAP + c * (cell + GAP) :][:, :cell:scale] for c in range(columns)]


def test_views_draws_what_the_recipe_makes(tmp_path):
    sheet = tmp_path / "sub" / "views.png"
    image = png(tmp_path / "image.png")
    printed = done("views", "quickstart", image, "seed=5", "--epoch", 3, "--out", sheet)
    assert printed == f"drew 1 image, epoch 3, seed 5: {sheet}\n"
    recipe = load_recipe("quickstart", "seed=5")
    source = torch.from_numpy(np.asarray(Image.open(image)).copy()).permute(2, 0, 1)[None]
    views = plan(recipe).step.views(source, index=[0], epoch=3)
    shown = cells(sheet, 16, 1, 3)
    assert np.array_equal(shown[0], source[0].permute(1, 2, 0).numpy())
    for got, name in zip(shown[1:], ("a", "b"), strict=True):
        expected = (views[name].pixels[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert np.array_equal(got, expected)


def test_views_shows_the_data_of_the_recipe(tmp_path):
    done("views", "quickstart", "--count", 3, "--out", tmp_path / "three.png")
    done("views", "quickstart", "--count", 1, "--out", tmp_path / "one.png")
    three, one = Image.open(tmp_path / "three.png"), Image.open(tmp_path / "one.png")
    assert three.width == one.width
    assert three.height > 2 * one.height
    assert np.array_equal(np.asarray(three)[: NAME + GAP + 128], np.asarray(one)[: NAME + GAP + 128])


def test_views_of_a_recipe_whose_heads_fit_no_data(tmp_path):
    """Only views are drawn: no network is built, so a head for seven classes is no obstacle."""
    done("views", "quickstart", "branches.net.logits=linear(h, 7)", "--count", 1, "--out", tmp_path / "views.png")
    assert (tmp_path / "views.png").is_file()


def test_views_refuses(refused, tmp_path):
    out, missing = tmp_path / "views.png", tmp_path / "missing.png"
    (tmp_path / "text.png").write_text("no picture")
    assert refused("views", "quickstart", missing, "--out", out) == f"no such file: {missing}"
    assert refused("views", "quickstart", tmp_path / "text.png", "--out", out).startswith(
        f"{tmp_path / 'text.png'}: not "
    )
    assert refused("views", "quickstart", "views.a.mak=flip", "--out", out).startswith(
        "recipe quickstart: views.a.mak: "
    )
    large = png(tmp_path / "large.png", (20, 20)), png(tmp_path / "small.png", (8, 8))
    message = refused("views", "quickstart", "views.a.make=flip", *large, "--out", out)
    assert message == "views: view 'a' leaves images of unlike sizes; begin it with a crop or a resize"
    assert refused("views", "tied_imagenet", "--out", out).startswith(
        "source 'folder' needs data.root; expected root/train"
    )
    (tmp_path / "taken").mkdir()
    message = refused("views", "quickstart", "--count", 1, "--out", tmp_path / "taken")
    assert message == f"cannot write {tmp_path / 'taken'}: Is a directory"


def test_replay_draws_what_the_network_saw(tmp_path):
    """The run is made again here with a hook on its first layer, and its pictures are compared pixel by pixel."""
    recipe_overrides = (*TINY, "branches.net.normalize=none", "train.steps=6")
    done("train", "quickstart", *recipe_overrides, "--out", tmp_path / "run")
    recipe = load_recipe("quickstart", *recipe_overrides)
    step = plan(recipe).step
    seen: list[torch.Tensor] = []
    step.main.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    splits = open_splits(recipe.data, recipe.seed)
    batches = Batches(splits.train, 16, 3, recipe.seed)
    for number in (1, 4):  # a batch of each epoch
        batch = batches[number]
        step(batch.images, batch.labels, index=batch.index, epoch=batch.epoch)
        rows = seen.pop()
        assert len(rows) == 32  # two views of sixteen images
        for position in (0, 15):
            index = int(batch.index[position])
            sheet = tmp_path / "replay.png"
            printed = done("replay", tmp_path / "run", "--index", index, "--epoch", batch.epoch, "--out", sheet)
            assert printed == f"drew digits row {index}, index {index}, epoch {batch.epoch}, seed 0: {sheet}\n"
            shown = cells(sheet, 16, 1, 3)
            for view in (0, 1):
                expected = (rows[16 * view + position] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                assert np.array_equal(shown[1 + view], expected)


def test_replay_refuses(refused, run, tmp_path):
    recipe = load_recipe("quickstart", *TINY)
    splits = open_splits(recipe.data, recipe.seed)
    low, high = splits.train.index.min(), splits.train.index.max()
    held_out = int(splits.val.index[len(splits.val) // 2])
    for index in (held_out, 99999, -1):
        message = refused("replay", run, "--index", index, "--epoch", 0, "--out", tmp_path / "out.png")
        told, _, near = message.rpartition("; the nearest that epoch 0 saw is ")
        assert told == f"no training image has index {index}; this run trained on 60 images between {low} and {high}"
    done("replay", run, "--index", near, "--epoch", 0, "--out", tmp_path / "near.png")


# ------------------------------------------------------------------------------------------------------------- export


def test_export_is_what_timm_loads(trained, tmp_path):
    out = tmp_path / "exported"
    printed = done("export", trained, out)
    assert f"wrote {out / 'model.safetensors'}, config.json and cresnet20.py: cresnet20, 10 classes" in printed
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "cresnet20.py"}
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    config = json.loads((out / "config.json").read_text())
    assert config["label_names"] == [str(digit) for digit in range(10)]

    recipe = load_recipe("quickstart", *TINY)
    images = open_splits(recipe.data, recipe.seed).test
    batch = torch.stack([images.read(i) for i in range(8)])
    step = Run(trained).step(recipe)
    pixels = step.test_pixels(batch)
    assert config["pretrained_cfg"]["input_size"] == list(pixels.shape[1:])
    mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model((pixels - mean) / std), step.predict(batch)["logits"], rtol=1e-4, atol=1e-5)


def test_export_refuses(refused, run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("precious")
    assert refused("export", run, tmp_path / "full") == f"{tmp_path / 'full'} is not empty; choose another folder"
    assert refused("export", run, tmp_path / "new", "--to", "tflite") == (
        "--to: unknown format 'tflite'; formats: hub, onnx, timm, torchscript"
    )


# -------------------------------------------------------------------------------------------------------- folder data


def test_folders_that_hold_no_data(refused, tmp_path, pictures):
    train = lambda root: refused("train", "quickstart", *FOLDER, *root, "--out", tmp_path / "run")  # noqa: E731
    layout = (
        "expected root/train/CLASS/*.jpg (val and test beside train are optional), or root/CLASS/*.jpg; "
        "without labels root/train/*.jpg or root/*.jpg"
    )
    say = "say data.source=folder data.root=DIR"
    assert train([]) == f"source 'folder' needs data.root; {layout}; {say}"
    assert train([f"data.root={tmp_path / 'missing'}"]) == f"no folder {tmp_path / 'missing'}; {layout}; {say}"

    (tmp_path / "empty").mkdir()
    assert train([f"data.root={tmp_path / 'empty'}"]) == f"no class folders in {tmp_path / 'empty'}; {layout}"

    (tmp_path / "bare" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "bare" / "train" / "cat" / "notes.txt").write_text("no picture")
    message = train([f"data.root={tmp_path / 'bare'}"])
    cat = tmp_path / "bare" / "train" / "cat"
    assert message == f"no images in {cat} (left out: 1 of other kinds (1 .txt)); {layout}"

    png(tmp_path / "single" / "train" / "cat" / "0.png")
    message = train([f"data.root={tmp_path / 'single'}"])
    assert message == (
        "train has only one class ('cat'); at least two are needed, or no labels at all: folder(labels=None), "
        "hf(label=None)"
    )

    png(pictures / "val" / "cow" / "0.png")
    message = train([f"data.root={pictures}"])
    assert message.startswith(
        f"{pictures / 'val'} has classes that train has not: cow; to leave out what is no class, "
    )
    assert message.endswith("""say data.source="folder(ignore='cow')\"""")


def damage(pictures: Path, how: str, split: str = "train") -> Path:
    path = pictures / split / "cat" / "2.png"
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no picture", "truncated": data[: len(data) // 2]}[how])
    return path


BAD = {
    "empty": "the file is empty",
    "text": "not an image in a format that Pillow reads",
    "truncated": "image file is trunc",
}


# what is wrong with a file is found alike in a worker, which has to bring it home
HOW = pytest.mark.parametrize(("how", "workers"), [*((how, 0) for how in BAD), ("text", 1)])


@HOW
def test_an_image_that_cannot_be_read_is_named(tmp_path, pictures, how, workers):
    path, out = damage(pictures, how), tmp_path / "run"
    arguments = ("train", "quickstart", *FOLDER, f"data.root={pictures}", f"data.workers={workers}", "--quiet")
    message = one_line(*manyview(*arguments, "--out", out))
    assert message.startswith(f"{path}: {BAD[how]}")
    assert not (out / "result.json").exists()
    assert not (out / "checkpoints").exists()
    png(path, seed=2)  # put right, the run goes on where it was
    done(*arguments, "--out", out, "--resume")
    assert json.loads((out / "result.json").read_text())["skipped_images"] == []


@HOW
def test_an_image_that_cannot_be_read_is_skipped_and_listed(tmp_path, pictures, how, workers):
    path, out = damage(pictures, how), tmp_path / "run"
    overrides = (f"data.root={pictures}", "data.on_bad_image=skip", f"data.workers={workers}")
    printed = done("train", "quickstart", *FOLDER, *overrides, "--out", out)
    (line,) = json.loads((out / "result.json").read_text())["skipped_images"]
    assert line.startswith(f"{path}: {BAD[how]}")
    assert "1 image could not be read and was skipped:\n" in printed
    assert f"  {line}\n" in printed


def test_an_image_of_the_validation_split_that_cannot_be_read(tmp_path, pictures):
    path, out = damage(pictures, "truncated", "val"), tmp_path / "run"
    arguments = ("train", "quickstart", *FOLDER, f"data.root={pictures}", "--quiet", "--out", out)
    assert one_line(*manyview(*arguments)).startswith(f"{path}: image file is truncated")
    shutil.rmtree(out)
    done(*arguments, "data.on_bad_image=skip")
    result = json.loads((out / "result.json").read_text())
    (line,) = result["skipped_images"]
    assert line.startswith(f"{path}: image file is truncated")
    right = round(result["eval"]["top1"] / 100 * 7, 6)
    assert right == int(right), "accuracy is over the seven images that could be read"
    assert result["n"]["test"] == 7


def test_images_of_unlike_sizes_need_a_crop(tmp_path, pictures):
    png(pictures / "train" / "cat" / "2.png", (20, 12))
    arguments = ("train", "quickstart", *FOLDER, f"data.root={pictures}", "views.a.make=flip", "--quiet")
    for workers in (0, 1):
        message = one_line(*manyview(*arguments, f"data.workers={workers}", "--out", tmp_path / f"run{workers}"))
        assert message == "views: view 'a' leaves images of unlike sizes; begin it with a crop or a resize"
    done(*arguments, "views.a.make=crop(16)", "--out", tmp_path / "good")
