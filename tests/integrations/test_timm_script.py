"""timm's train.py with a recipe: its arguments, the lines that change, and the script itself where it is at hand."""

import ast
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from PIL import Image

import own_words
from pictures import Pictures, coloured

timm = pytest.importorskip("timm", minversion="1.0.29")

from timm.data import create_loader, resolve_data_config  # noqa: E402
from timm_recipes import MOCO, SYSTEMS, TIED  # noqa: E402

from manyview.errors import RecipeError  # noqa: E402
from manyview.integrations.timm import from_args  # noqa: E402

PATCH = Path(__file__).parents[2] / "examples" / "timm_train.patch"
SCRIPT = os.environ.get("TIMM_TRAIN_SCRIPT", "")
CPU = torch.device("cpu")
# what timm's parser gives where nothing is asked, of releases 1.0.29 to 1.0.31
IDLE = {
    "no_aug": False, "train_crop_mode": None, "scale": [0.08, 1.0], "ratio": [3.0 / 4.0, 4.0 / 3.0], "hflip": 0.5,
    "vflip": 0.0, "color_jitter": 0.4, "color_jitter_prob": None, "grayscale_prob": None, "gaussian_blur_prob": None,
    "aa": None, "aug_repeats": 0, "aug_splits": 0, "jsd_loss": False, "bce_loss": False, "bce_sum": False,
    "bce_target_thresh": None, "bce_pos_weight": None, "loss": None, "task": "classification", "reprob": 0.0,
    "remode": "pixel", "recount": 1, "resplit": False, "mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None,
    "mixup_prob": 1.0, "mixup_switch_prob": 0.5, "mixup_mode": "batch", "mixup_off_epoch": 0, "smoothing": 0.1,
    "train_interpolation": "random", "kd_model_name": None, "model_dtype": None, "naflex_loader": False,
    "train_img_sizes": None, "use_multi_epochs_loader": False, "split_bn": False, "torchscript": False,
    "save_images": False, "layer_decay": None,
}  # fmt: skip


def arguments(recipe, **given):
    asked = {
        "recipe": recipe, "model": "test_resnet", "num_classes": 3, "device": "cpu", "rank": 0, "distributed": False,
        "val_split": "validation", "grad_accum_steps": 1, "sched": "cosine", "epochs": 2, "warmup_epochs": 0, "lr": 0.1,
        "img_size": 16, "input_size": None, "in_chans": None, "mean": None, "std": None, "crop_pct": None,
        "interpolation": "", "log_interval": 50, "opt": "sgd",
    }  # fmt: skip
    return Namespace(**{**IDLE, **asked, **given})


def loader_of(pictures, **options):
    return create_loader(
        pictures, (3, 16, 16), 8, is_training=True, num_workers=0, device=CPU, **{"mean": (0.5,) * 3, **options}
    )


@pytest.fixture(autouse=True)
def _last_word(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # as it was, afterwards


@pytest.fixture
def recipe_file(tmp_path):
    def write(text):
        (tmp_path / "own.yaml").write_text(text)
        return [str(tmp_path / "own.yaml")]

    return write


@pytest.mark.parametrize("text", SYSTEMS.values(), ids=SYSTEMS)
def test_the_script_trains_the_systems(text, recipe_file):
    """The heart of its loop: accumulated parts, channels last, autocast, gradients checkpointed."""
    args = arguments(recipe_file(text), grad_accum_steps=2)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3, drop_path_rate=0.1)
    model.set_grad_checkpointing(True)
    model.to(memory_format=torch.channels_last)
    loader, task = from_args(args, model, loader_of(coloured(count=40), use_prefetcher=False))
    assert task.model is model
    assert task.step.total_steps == 2 * 3
    optimizer = timm.optim.create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=0.02, weight_decay=1e-4)
    task.step.attach(optimizer)
    for epoch in range(2):
        loader.dataset.set_epoch(epoch)
        task.get_trainable_module().train()
        for number, (input, target) in enumerate(loader):
            input, target = input.to(device=CPU, dtype=None), target.to(device=CPU)
            input = input.contiguous(memory_format=torch.channels_last)
            assert input.shape[0] == 8
            with torch.autocast("cpu", torch.bfloat16):
                loss = task(input, target)["loss"] / 2
            assert loss.isfinite()
            loss.backward()
            if number % 2 or number == 4:
                optimizer.step()
                optimizer.zero_grad()
                task.update_ema()
    assert task.step.updates == 6


@pytest.mark.parametrize(
    ("given", "updates"),
    [
        ({}, 10),
        ({"grad_accum_steps": 2, "cooldown_epochs": 1}, 9),
        ({"warmup_epochs": 3, "warmup_prefix": True}, 25),
        ({"sched": "step"}, 10),
        ({"sched": "none"}, 10),
    ],
    ids=["plain", "parts", "warmup", "step", "none"],
)
def test_the_run_is_as_long_as_timms_schedule(given, updates, recipe_file):
    model = timm.create_model("test_resnet", num_classes=3)
    _, task = from_args(arguments(recipe_file(TIED), **given), model, loader_of(coloured(count=40)))
    assert task.step.total_steps == updates


def test_normalisation_is_timms(recipe_file, caplog):
    caplog.set_level("INFO")
    model = timm.create_model("test_resnet", num_classes=3)
    args = arguments(recipe_file(TIED), mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3], img_size=32)
    _, task = from_args(args, model, loader_of(coloured(count=40)))
    config = resolve_data_config(vars(args), model=model)
    for key in ("mean", "std"):
        assert task.normalization[key] == pytest.approx(config[key])
    lines = [record.message for record in caplog.records if record.message.startswith("manyview: ")]
    assert lines[1:] == [
        "manyview: timm's augmentation, label smoothing 0.1 and criterion have no part in it, nor the recipe's data, "
        "train and backbone",
        "manyview: pixels are normalised by timm's mean 0.4 0.5 0.6 and std 0.1 0.2 0.3, not the recipe's normalize",
        "manyview: views are 16x16, and timm validates at 32x32; --input-size 3 16 16 makes them one size",
    ]
    assert lines[0].startswith(
        f"manyview: {args.recipe[0]} on test_resnet, 10 updates, draws by seed 2: views a, b; cross_entropy(logits"
    )


def test_a_recipe_may_bring_words_of_its_own_and_other_channels(recipe_file, tmp_path):
    words = tmp_path / "mine.py"
    words.write_text("\n".join([own_words.IMPORTS, own_words.SPECKLE, "OPS = {'speckle': Speckle}\n"]))
    overrides = ["views.a.make=speckle(0.2)", "views.b.make=flip", "data.channels=1", f"use={words}"]
    model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    grey = Pictures([image[..., 0] for image in coloured().images], coloured().targets)
    args = arguments([*recipe_file(TIED), *overrides], in_chans=1)
    loader, task = from_args(args, model, loader_of(grey))
    assert next(iter(loader))[0].shape == (8, 1, 16, 16)
    assert len(task.normalization["mean"]) == 1


def test_the_seed_is_timms_unless_one_stands_behind_the_recipe(recipe_file, caplog):
    caplog.set_level("INFO")
    steps, recipe = [], recipe_file(MOCO)
    for said, more in ((42, []), (43, []), (43, ["seed=42"])):
        args = arguments([*recipe, *more], val_split="", seed=said)
        _, task = from_args(args, timm.create_model("test_resnet", num_classes=3), loader_of(coloured()))
        steps.append(task.step)
    assert [step.recipe.seed for step in steps] == [42, 43, 42]
    heads = [next(step.main.head("z").parameters()) for step in steps]
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])
    told = "order and dropout are by timm's --seed 43, draws and heads by the recipe's"
    assert [told in record.message for record in caplog.records].count(True) == 1
    assert "draws by seed 42" in caplog.text


def test_synchronised_norms_are_those_of_heads_and_teachers_too(recipe_file):
    model = timm.layers.convert_sync_batchnorm(timm.create_model("test_resnet", num_classes=3))
    args = arguments(recipe_file(MOCO), val_split="", distributed=True, sync_bn=True)
    _, task = from_args(args, model, loader_of(coloured()))
    norms = [each for each in task.step.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 2
    assert all(isinstance(each, torch.nn.SyncBatchNorm) for each in norms)
    assert task.model is model


def test_a_file_of_arguments_may_say_one_name():
    args = arguments("jsd_cifar10", img_size=32)
    _, task = from_args(args, timm.create_model("test_resnet", num_classes=3), loader_of(coloured(size=32)))
    assert task.step.rendered_views == ["clean", "m1", "m2"]


def refusal(args, capsys, classes=3):
    with pytest.raises(SystemExit) as caught:
        from_args(args, timm.create_model("test_resnet", num_classes=classes), loader_of(coloured(count=40)))
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("manyview: ")
    assert told.count("\n") == 1
    return told


OTHERS = {
    "scale": [0.2, 1.0], "ratio": [1.0, 1.0], "smoothing": 0.2, "loss": "bce", "task": "multilabel",
    "train_crop_mode": "rkrc", "aa": "rand-m9", "remode": "const", "mixup_mode": "elem", "train_interpolation": "none",
    "kd_model_name": "resnet18", "model_dtype": "bfloat16", "train_img_sizes": [32, 64], "cutmix_minmax": [0.2, 0.8],
}  # fmt: skip


def test_flags_that_a_recipe_replaces_are_refused(recipe_file, capsys):
    recipe = recipe_file(TIED)
    for name, idle in IDLE.items():
        if name != "layer_decay":
            other = OTHERS[name] if name in OTHERS else not idle if isinstance(idle, bool) else (idle or 0) + 0.3
            assert f"drop --{name.replace('_', '-')}" in refusal(arguments(recipe, **{name: other}), capsys)
    several = refusal(arguments(recipe, mixup=0.2, aa="v0", smoothing=0.3), capsys)
    assert several == (
        "manyview: the recipe's views are its augmentation: drop --aa --mixup, or say it in the recipe, "
        "views.NAME.make=…; the recipe's relations are its losses: drop --smoothing, or say it in the recipe, "
        "relations\n"
    )


def test_what_cannot_be_meant_ends_the_script_in_one_line(recipe_file, capsys):
    assert "did you mean 'tied_cifar10'" in refusal(arguments(["tied_cifar"]), capsys)
    assert "this recipe trains no classifier" in refusal(arguments(recipe_file(MOCO)), capsys)
    assert "has no classifier for this recipe" in refusal(arguments(recipe_file(TIED)), capsys, classes=0)
    assert "the model takes images of 3 channels, the recipe's have 1; add data.channels=3 behind its name" in refusal(
        arguments([*recipe_file(TIED.replace("jitter(0.4, 0.4, 0.4, 0.1)", "flip")), "data.channels=1",
                   "views.b.make=flip"]), capsys)  # fmt: skip
    _, task = from_args(
        arguments(recipe_file(MOCO), val_split=""),
        timm.create_model("test_resnet", num_classes=3),
        loader_of(coloured()),
    )
    assert not task.classifies


def test_mistakes_that_the_script_meets_later_have_no_traceback(recipe_file, capsys, monkeypatch):
    others = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error))
    from_args(arguments(recipe_file(TIED)), timm.create_model("test_resnet", num_classes=3), loader_of(coloured()))
    ours = sys.excepthook
    from_args(arguments(recipe_file(TIED)), timm.create_model("test_resnet", num_classes=3), loader_of(coloured()))
    assert sys.excepthook is ours
    for error in (RecipeError("of another recipe"), KeyError("theirs")):
        sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == "manyview: of another recipe\n"
    assert [kind for kind, _, _ in others] == [KeyError]


# ------------------------------------------------------------------------------------------------- the patch


def hunks():
    """(lines before, lines after) of each part of the patch."""
    parts = re.split(r"^@@ .*@@.*\n", PATCH.read_text(), flags=re.MULTILINE)[1:]
    for part in parts:
        lines = part.splitlines(keepends=True)
        yield (
            [line[1:] or "\n" for line in lines if line[0] != "+"],
            [line[1:] or "\n" for line in lines if line[0] != "-"],
        )


def patched(script):
    for before, after in hunks():
        old = "".join(before)
        assert script.count(old) == 1, old
        script = script.replace(old, "".join(after))
    return script


def excerpt(shift):
    """A file with the lines around the patch where it has them, or further down; the rest is filler of ours."""
    lines = [f"# line {number}\n" for number in range(1, 1400)]
    for place, (before, _) in zip(
        re.findall(r"^@@ -(\d+)", PATCH.read_text(), flags=re.MULTILINE), hunks(), strict=True
    ):
        start = int(place) - 1 + shift
        lines[start : start + len(before)] = before
    return "".join(lines)


TOOLS = {"git": ["git", "apply", str(PATCH)], "patch": ["patch", "train.py", str(PATCH)]}


@pytest.mark.parametrize("shift", [0, 30], ids=["there", "further down"])
@pytest.mark.parametrize("tool", TOOLS)
def test_the_patch_is_one_that_tools_take(tool, shift, tmp_path):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    (tmp_path / "train.py").write_text(excerpt(shift))
    outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}  # whatever repository the folder lies in
    ended = subprocess.run(TOOLS[tool], cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "train.py").read_text() == patched(excerpt(shift)) != excerpt(shift)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".rej", ".orig")] in ([], ["train.py.orig"])


def test_six_lines_change():
    lines = PATCH.read_text().splitlines()[2:]
    assert len([line for line in lines if line.startswith("+")]) == 6
    assert not [line for line in lines if line.startswith("-")]


def test_the_lines_in_the_docs_are_those_of_the_patch():
    docs = (PATCH.parents[1] / "docs" / "timm.md").read_text()
    added = [line[1:].strip() for line in PATCH.read_text().splitlines()[2:] if line.startswith("+")]
    assert all(line in docs for line in added)


@pytest.mark.skipif(not SCRIPT, reason="TIMM_TRAIN_SCRIPT does not name timm's train.py (of release 1.0.29 or later)")
@pytest.mark.slow(reason="timm's script itself, in a process of its own")
def test_the_patched_script_trains_and_resumes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(patched(Path(SCRIPT).read_text()))
    ast.parse(script.read_text())
    for split in ("train", "validation"):
        pictures = coloured(count=32, size=32)
        for number, image in enumerate(pictures.images):
            folder = tmp_path / "images" / split / str(pictures.targets[number])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    flags = (
        f"--data-dir {tmp_path}/images --device cpu --model test_resnet --num-classes 3 --img-size 32 -b 8 -j 1 "
        f"--epochs 2 --warmup-epochs 0 --lr 0.02 --model-ema --output {tmp_path} --recipe tied_cifar10"
    ).split()
    for more in (["--experiment", "one"], ["--experiment", "two", "--resume", f"{tmp_path}/one/checkpoint-0.pth.tar"]):
        ended = subprocess.run(
            [sys.executable, str(script), *flags, *more], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
    one, two = (
        torch.load(tmp_path / name / "last.pth.tar", weights_only=False) for name in ("one", "two")
    )  # timm's own arguments are a Namespace
    assert one["task_state"]["step"]["_extra_state"] == two["task_state"]["step"]["_extra_state"] == 8
    assert list(one["state_dict"]) == list(timm.create_model("test_resnet", num_classes=3).state_dict())
