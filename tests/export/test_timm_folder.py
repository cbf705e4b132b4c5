"""What is exported is loaded by timm alone and gives the same scores."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from manyview import parse_recipe
from manyview.cli import app
from manyview.errors import RunError
from manyview.export.timm import export_timm
from manyview.foundation.files import read_state
from manyview.judge.models import exported as exported_model
from manyview.training.run import Run
from manyview.training.train import train
from subjects import TIED, run_of, trained

RECIPE = """
title: to be exported
data: {source: folder, val_fraction: 0}
views:
  a: {from: image, make: "resize(32) | pad_crop(32, padding=2)"}
  b: {like: a}
  test: {from: image, make: resize(32)}
branches: {net: {backbone: BACKBONE, normalize: cifar10}}
relations: ["cross_entropy(logits(a), logits(b))"]
train: {steps: 2, batch_size: 16, optimizer: "sgd(lr=0.01)"}
"""
SLA = """
title: SLA+SI
data: {source: folder, val_fraction: 0}
views:
  a: {from: image, make: "resize(16) | center_crop(16)"}
  r: {from: a, orbit: rotation}
  test: {from: image, make: resize(16)}
branches: {net: {backbone: cresnet20, normalize: half, joint: "linear(h, orbit=r)"}}
relations: ["joint_cross_entropy(joint(r))"]
train: {steps: 2, batch_size: 16, optimizer: "sgd(lr=0.01)"}
"""
SLA_SD = SLA.replace("SLA+SI", "SLA+SD").replace(
    'relations: ["joint_cross_entropy(joint(r))"]',
    'relations: ["joint_cross_entropy(joint(r))", "cross_entropy(logits(r.0))", '
    '"distill(logits(r.0), toward=stop(aggregate(joint(r))))"]',
)
FEATURES = "cross_entropy(logits(a), logits(b))", "similarity(h(a), h(b))"
CASES = {
    "resnet18": RECIPE.replace("BACKBONE", "resnet18"),
    "averaged": RECIPE.replace("BACKBONE", "cresnet20").replace("train: {", "train: {ema: 0.7, "),
    "features": RECIPE.replace("BACKBONE", "cresnet20").replace(*FEATURES),
    "sla": SLA,
    "sla_sd": SLA_SD,
    "vit": RECIPE.replace("BACKBONE", "'test_vit(img_size=32, patch_size=8)'").replace("cifar10", "imagenet"),
    "dropout": RECIPE.replace("BACKBONE", "'cresnet20(drop_rate=0.5)'"),
    "cresnet20": RECIPE.replace("BACKBONE", "cresnet20"),
    "wrn28_2": RECIPE.replace("BACKBONE", "wrn28_2"),
    "small": RECIPE.replace("BACKBONE", "'resnet18(small=True)'"),
}
# No line of this is manyview's: what a user without it runs.
LOADER = """
import importlib, json, sys
from pathlib import Path
import timm, torch
from safetensors.torch import load_file, save_file
root, cases = Path(sys.argv[1]), sys.argv[2:]
outputs = {}
for case in cases:
    for beside in (root / case).glob("*.py"):
        sys.path.insert(0, str(root / case))
        importlib.import_module(beside.stem)
    model = timm.create_model(f"local-dir:{root / case}", pretrained=True).eval()
    config = json.loads((root / case / "config.json").read_text())["pretrained_cfg"]
    images = load_file(root / "images.safetensors")[case]
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        outputs[case] = model((images.float() / 255 - mean) / std)
    assert list(model.pretrained_cfg["mean"]) == config["mean"]
    assert model.num_classes == config["num_classes"]
    assert list(model.pretrained_cfg["input_size"]) == [3, *images.shape[-2:]]
assert not [name for name in sys.modules if name.startswith("manyview")]
save_file(outputs, root / "outputs.safetensors")
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """root/train/{cat,cow,dog}/N.png, 16x16."""
    root, drawn = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, name in enumerate(("cat", "cow", "dog")):
        (root / "train" / name).mkdir(parents=True)
        for number in range(8):
            pixels = drawn.integers(0, 150, size=(16, 16, 3)) + 50 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / "train" / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory, images):
    """Runs and exports of all cases: root/CASE and root/runs/CASE; gives (root, case -> printed lines)."""
    root, lines = tmp_path_factory.mktemp("exported"), {}
    for case, text in CASES.items():
        train(parse_recipe(text, f"data.root='{images}'"), root / "runs" / case, quiet=True)
        lines[case] = export_timm(Run(root / "runs" / case), root / case)
    return root, lines


def step_of(root, case):
    run = Run(root / "runs" / case)
    return run.step(run.recipe())


def pictures(case, count=5):
    """Images of the size the network looks at, so that the test view changes nothing."""
    size = 16 if case.startswith("sla") else 32
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def expected(root, case):
    out = step_of(root, case).predict(pictures(case))
    return out["h"] if case == "features" else out["logits"]


@pytest.fixture(scope="module")
def loaded(exported):
    """What timm gives in a process without manyview: case -> scores."""
    from safetensors.torch import save_file

    root, _ = exported
    save_file({case: pictures(case) for case in CASES}, root / "images.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(root), *CASES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return load_file(root / "outputs.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_timm_alone_gives_the_same_scores(exported, loaded, case):
    wanted = expected(exported[0], case)
    assert wanted.std() > 1e-3
    assert loaded[case].shape == wanted.shape
    torch.testing.assert_close(loaded[case], wanted, rtol=1e-4, atol=1e-5)


def test_averaged_weights_leave_and_not_the_trained_ones(exported):
    root, lines = exported
    state = read_state(root / "runs" / "averaged" / "checkpoints" / "last.pt")["step"]
    weights = load_file(root / "averaged" / "model.safetensors")
    assert torch.equal(weights["conv1.weight"], state["average.module.backbone.conv1.weight"])
    assert torch.equal(weights["fc.weight"], state["average.module.heads.logits.weight"])
    assert not torch.equal(weights["conv1.weight"], state["branches.net.backbone.conv1.weight"])
    assert json.loads((root / "averaged" / "config.json").read_text())["manyview"]["weights_of"] == "averaged"
    assert json.loads((root / "resnet18" / "config.json").read_text())["manyview"]["weights_of"] == "trained"
    assert any('timm.create_model("local-dir:' in line for line in lines["averaged"])


def test_sla_exports_the_upright_rows_of_the_joint_head(exported):
    state = read_state(exported[0] / "runs" / "sla" / "checkpoints" / "last.pt")["step"]
    weights = load_file(exported[0] / "sla" / "model.safetensors")
    joint = state["branches.net.heads.joint.weight"]
    assert joint.shape[0] == 12
    assert torch.equal(weights["fc.weight"], joint.view(3, 4, -1)[:, 0])


def test_sla_sd_exports_the_single_head(exported):
    state = read_state(exported[0] / "runs" / "sla_sd" / "checkpoints" / "last.pt")["step"]
    weights = load_file(exported[0] / "sla_sd" / "model.safetensors")
    assert torch.equal(weights["fc.weight"], state["branches.net.heads.logits.weight"])


def test_config(exported):
    config = json.loads((exported[0] / "resnet18" / "config.json").read_text())
    assert config["architecture"] == "resnet18"
    assert config["num_classes"] == 3
    assert config["num_features"] == 512
    assert config["label_names"] == ["cat", "cow", "dog"]
    assert config["model_args"] == {}
    assert config["manyview"] == {"recipe": "to be exported", "small": False, "weights_of": "trained"}
    pretrained = config["pretrained_cfg"]
    assert pretrained["interpolation"] == "bilinear"
    assert pretrained["crop_pct"] == 1.0
    assert pretrained["mean"] == pytest.approx([0.4914, 0.4822, 0.4465])
    assert pretrained["std"] == pytest.approx([0.2470, 0.2435, 0.2616])
    assert pretrained["input_size"] == [3, 32, 32]
    assert pretrained["num_classes"] == 3
    features = json.loads((exported[0] / "features" / "config.json").read_text())
    assert features["num_classes"] == features["pretrained_cfg"]["num_classes"] == 0
    vit = json.loads((exported[0] / "vit" / "config.json").read_text())
    assert vit["model_args"] == {"img_size": 32, "patch_size": 8}
    assert vit["pretrained_cfg"]["classifier"] == "head"


@pytest.mark.parametrize(
    ("case", "name"), [("cresnet20", "cresnet20"), ("wrn28_2", "wrn28_2"), ("small", "small_resnet18")]
)
def test_networks_of_ours_have_a_file_beside_them(exported, case, name):
    root, lines = exported
    out = root / case
    files = [path.name for path in out.iterdir() if path.is_file()]  # python puts a folder there when it imports one
    assert sorted(files) == sorted([f"{name}.py", "config.json", "model.safetensors"])
    text = (out / f"{name}.py").read_text()
    assert "import manyview" not in text
    assert "from manyview" not in text
    assert json.loads((out / "config.json").read_text())["architecture"] == name
    assert lines[case][1] == f'{name}.py registers it with timm: import sys; sys.path.insert(0, "{out}"); import {name}'
    assert lines[case][2] == f'load it with timm.create_model("local-dir:{out}", pretrained=True)'


def test_networks_of_ours_are_read_again_without_their_file(exported):
    for case in ("cresnet20", "small"):
        model = exported_model(exported[0] / case)
        found = model.read(model.prepare(pictures(case)))["logits"]
        torch.testing.assert_close(found, expected(exported[0], case), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("logits: 'mlp(h, 16)'", r"^head 'logits' is no linear layer on h"),
        ("z: 'mlp(h, 16, 8)', logits: 'linear(z)'", r"^head 'logits' is no linear layer on h"),
    ],
)
def test_heads_that_timm_has_no_place_for(tmp_path, images, heads, message):
    text = RECIPE.replace("BACKBONE", "cresnet20").replace("normalize: cifar10", f"normalize: cifar10, {heads}")
    train(parse_recipe(text, f"data.root='{images}'"), tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match=message) as caught:
        export_timm(Run(tmp_path / "run"), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_backbone_arguments_that_timm_is_given_anyway(tmp_path, images):
    text = RECIPE.replace("BACKBONE", "'cresnet20(num_classes=0, pretrained=False)'")
    train(parse_recipe(text, f"data.root='{images}'"), tmp_path / "run", quiet=True)
    export_timm(Run(tmp_path / "run"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_args"] == {}


def test_folders_in_use_and_runs_without_weights(tmp_path, exported):
    run = Run(exported[0] / "runs" / "cresnet20")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"used is not empty; choose another folder$"):
        export_timm(run, tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]
    with pytest.raises(RunError, match=r"is no run: it has no recipe.yaml$"):
        export_timm(Run(tmp_path / "used"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    export_timm(run, tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == [
        *("config.json", "cresnet20.py", "model.safetensors")
    ]


def test_command_line(tmp_path, exported):
    run = exported[0] / "runs" / "cresnet20"
    done = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out"), "--to", "timm"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "cresnet20, 3 classes" in done.output
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    ("make", "resized", "told"),
    [
        ("resize(36) | center_crop(32)", 36, ""),
        ("resize((32, 32))", (32, 32), ""),
        ("center_crop(32)", 32, "timm's transform cannot do what the view 'test' does (CenterCrop(size=32))"),
    ],
)
def test_timm_prepares_images_as_the_test_view_does(tmp_path, make, resized, told):
    run = run_of(trained(TIED.replace("resize(12)", f'"{make}"'), 3), tmp_path / "run")
    lines = export_timm(run, tmp_path / "out")
    assert [line for line in lines if told in line] or not told
    assert told or not [line for line in lines if "cannot do" in line]
    prepared = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    names = ("input_size", "interpolation", "crop_pct", "crop_mode")
    transform = timm.data.create_transform(**{name: prepared[name] for name in names})
    assert transform.transforms[0].size == resized
    if not told:  # and so does an evaluation of what left
        images = torch.randint(256, (2, 3, 40, 50), generator=torch.Generator().manual_seed(1)).byte()
        own = run.step(run.recipe()).test_pixels(images)
        assert torch.equal(exported_model(tmp_path / "out").prepare(images), own)
