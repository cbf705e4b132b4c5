"""The plan's promises, counted in a real step: rows through the networks, parameters, what is not rendered."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from commands import done, manyview, one_line, png
from manyview.data.batch import Batch
from manyview.load import load_recipe, packaged_recipes, parse_recipe
from manyview.show.graph import save_graph
from manyview.show.plan import describe, layout, plan, svg
from manyview.views.plan import plan_views
from small import small

ROWS = {  # images that pass each network for each image of a batch, read off the papers
    "agmax_cifar10": {"net": 2},
    "agmax_cifar10_autoaugment": {"net": 2},
    "agmax_cifar10_cutmix": {"net": 2},
    "agmax_cifar10_cutmix_autoaugment": {"net": 2},
    "agmax_cifar10_cutout": {"net": 2},
    "agmax_cifar10_cutout_autoaugment": {"net": 2},
    "agmax_cifar10_mixup": {"net": 2},
    "agmax_cifar10_mixup_autoaugment": {"net": 2},
    "agmax_cifar100": {"net": 2},
    "agmax_imagenet": {"net": 2},
    "agmax_imagenet_resnet101": {"net": 2},
    "augself_cifar10": {"net": 2},
    "barlow_twins_cifar10": {"online": 2},
    "baseline_cifar10": {"net": 2},
    "byol_augself_cifar10": {"online": 2, "teacher": 2},
    "byol_augself_imagenet": {"online": 2, "teacher": 2},
    "byol_augself_stl10": {"online": 2, "teacher": 2},
    "byol_cifar10": {"online": 2, "teacher": 2},
    "byol_dssl_cifar10": {"online": 4, "teacher": 2},
    "byol_dssl_imagenet": {"online": 4, "teacher": 2},
    "byol_imagenet": {"online": 2, "teacher": 2},
    "distill_cifar10": {"net": 1, "teacher": 1},
    "distill_digits": {"net": 1, "teacher": 1},
    "distill_features_cifar10": {"net": 1, "teacher": 1},
    "distill_views_cifar10": {"net": 2, "teacher": 2},
    "dino_cifar10": {"online": 10, "teacher": 2},
    "dino_imagenet": {"online": 10, "teacher": 2},
    "fixmatch_cifar10": {"net": 3},
    "fixmatch_digits": {"net": 3},
    "flexmatch_cifar10": {"net": 3},
    "freematch_cifar10": {"net": 3},
    "jsd_cifar10": {"net": 3},
    "lejepa_cifar10": {"online": 2},
    "lejepa_imagenet": {"online": 8},
    "mean_teacher_cifar10": {"net": 2, "teacher": 1},
    "moco_augself_cifar10": {"online": 1, "teacher": 1},
    "moco_augself_imagenet": {"online": 1, "teacher": 1},
    "moco_augself_imagenet100": {"online": 1, "teacher": 1},
    "moco_augself_stl10": {"online": 1, "teacher": 1},
    "moco_cifar10": {"online": 1, "teacher": 1},
    "moco_imagenet": {"online": 1, "teacher": 1},
    "quickstart": {"net": 2},
    "rdrop_cifar10": {"net": 2},
    "few_images_cifar10": {"net": 2},
    "sam_cifar10": {"net": 1},
    "simclr_augself_cifar10": {"online": 2},
    "simclr_augself_imagenet": {"online": 2},
    "simclr_augself_stl10": {"online": 2},
    "simclr_cifar10": {"online": 2},
    "simclr_digits": {"online": 2},
    "simclr_dssl_cifar10": {"online": 4},
    "simclr_dssl_imagenet": {"online": 4},
    "simclr_imagenet": {"online": 2},
    "simsiam_augself_cifar10": {"online": 2},
    "simsiam_augself_imagenet": {"online": 2},
    "simsiam_augself_imagenet100": {"online": 2},
    "simsiam_augself_stl10": {"online": 2},
    "simsiam_cifar10": {"online": 2},
    "simsiam_dssl_augself_cifar10": {"online": 4},
    "simsiam_dssl_cifar10": {"online": 4},
    "simsiam_dssl_imagenet": {"online": 4},
    "simsiam_imagenet": {"online": 2},
    "sla_cifar10": {"net": 4},
    "sla_cifar100": {"net": 4},
    "sla_da_cifar10": {"net": 4},
    "sla_mt_cifar10": {"net": 4},
    "sla_sd_cifar10": {"net": 4},
    "softmatch_cifar10": {"net": 3},
    "supcon_cifar10": {"net": 2},
    "supervised_augself_imagenet100": {"net": 2},
    "swav_augself_cifar10": {"online": 2},
    "swav_augself_imagenet": {"online": 8},
    "swav_augself_stl10": {"online": 2},
    "swav_cifar10": {"online": 2},
    "swav_imagenet": {"online": 8},
    "tied_cifar10": {"net": 2},
    "tied_cifar10_reduced": {"net": 2},
    "tied_cifar10_wrn28_10": {"net": 2},
    "tied_fixmatch_cifar10": {"net": 3},
    "tied_imagenet": {"net": 2},
    "tied_mixup_cifar10": {"net": 2},
    "uda_cifar10": {"net": 3},
    "tied_sam_cifar10": {"net": 2},
    "vicreg_cifar10": {"online": 2},
}
FAMILIES = """
data: {source: digits}
views:
  a: {from: image, make: flip(0.5)}
  b: {like: a}
  spare: {like: a}
  r: {from: a, orbit: rotation}
  many: {from: image, make: flip(0.5), count: 3}
branches:
  net: {backbone: cresnet20, normalize: half, joint: "linear(h, orbit=r)"}
  other: {backbone: cresnet20, normalize: half, forward: separate}
relations: [RELATIONS]
train: {steps: 3, batch_size: 4}
"""


def rows_seen(step, batch=2, side=32) -> dict[str, int]:
    """Rows that reach each backbone in one real step, for each image of the batch, and of each stream's."""
    seen = dict.fromkeys(step.branches, 0)
    step.total_steps = step.total_steps or 10  # a plan knows no number of images

    def count(name):
        def hook(module, inputs):
            seen[name] += len(inputs[0])

        return hook

    hooks = [step.branch(name).backbone.register_forward_pre_hook(count(name)) for name in step.branches]
    images = torch.randint(
        0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    streams = {stream: Batch(images, None, [4, 7], 0) for stream in step.rows if stream != "image"}
    out = step(images, torch.tensor([0, 1]), index=[4, 7], epoch=0, streams=streams)
    assert torch.isfinite(out["loss"])
    for hook in hooks:
        hook.remove()
    assert all(rows % batch == 0 for rows in seen.values())
    return {name: rows // batch for name, rows in seen.items()}


def test_every_packaged_recipe_is_counted_here():
    assert set(ROWS) == set(packaged_recipes())


@pytest.mark.parametrize("name", packaged_recipes())
def test_rows_of_packaged_recipes(name):
    recipe = load_recipe(name, *small(name))
    made = plan(recipe)
    looks = 2 if "sam" in name.split("_") else 1
    rows = looks * sum(ROWS[name].values())
    assert sum(made.step.rows.values()) == rows
    batch, others = recipe.train.batch_size, made.step.rows.get("unlabeled", 0)
    length = f"{recipe.train.epochs:,} epochs" if recipe.train.epochs else f"{recipe.train.steps:,} steps"
    passes = ", in 2 passes" if looks == 2 else ""
    cost = f"a step: {batch:,} images, {batch * rows:,} through the networks ({rows} an image{passes})"
    if others:
        more = batch * recipe.train.unlabeled_per_labeled
        passed = batch * (rows - others) + more * others
        cost = f"a step: {batch:,} images and {more:,} unlabeled, {passed:,} through the networks"
    assert f"{length}; {cost}" in made.summary()
    assert rows_seen(made.step) == ROWS[name]


@pytest.mark.parametrize(
    ("relations", "rows"),
    [
        ("cross_entropy(net.logits(a))", {"net": 1}),
        ("'cross_entropy(net.logits(a), net.logits(b))'", {"net": 2}),
        ("cross_entropy(net.logits(a)), 'similarity(net.h(a), net.h(b))'", {"net": 2}),
        ("cross_entropy(net.logits(r))", {"net": 4}),
        ("cross_entropy(net.logits(r.0))", {"net": 1}),
        ("cross_entropy(net.logits(r.0)), cross_entropy(net.logits(r.3))", {"net": 2}),
        ("cross_entropy(net.logits(r.0)), joint_cross_entropy(joint(r))", {"net": 4}),
        ("cross_entropy(net.logits(a)), cross_entropy(net.logits(r))", {"net": 5}),
        ("cross_entropy(net.logits(many)), cross_entropy(net.logits(many.2))", {"net": 3}),
        ("'similarity(net.h(a), other.h(b))'", {"net": 1, "other": 1}),
        ("'similarity(net.h(a), other.h(a))', cross_entropy(other.logits(r))", {"net": 1, "other": 5}),
    ],
)
def test_rows_of_families_members_and_branches(relations, rows):
    made = plan(parse_recipe(FAMILIES.replace("RELATIONS", relations)))
    assert rows_seen(made.step, side=8) == rows
    assert made.step.rows_per_image == sum(rows.values())


RESNET18 = 11_689_512 - 513_000  # He et al., as in torchvision and timm, without the classifier
RESNET18_SMALL = RESNET18 - 64 * 3 * (7 * 7 - 3 * 3)
RESNET50 = 25_557_032 - 2_049_000


def two(inputs: int, hidden: int, out: int, last: bool = True) -> int:
    """Parameters of linear, BatchNorm, ReLU, linear; last: the second layer has a bias."""
    return inputs * hidden + 2 * hidden + hidden * out + (out if last else 0)


def teller(width: int) -> int:
    """Parameters of AugSelf's net for four numbers: three layers, 512 hidden units."""
    return 2 * width * 512 + 2 * 512 + two(512, 512, 4)


def numbers(text: str) -> int:
    return int(text.split()[0].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "classes", "backbone", "heads", "relations"),
    [
        # He et al. 2016, table 6, without the classifier: 16-16x6, 32x6, 64x6 with their norms
        ("quickstart", 10, 269_722 - 650, {"logits": 64 * 10 + 10}, 0),
        ("sla_cifar10", 10, 464_154 - 650, {"joint": 64 * 40 + 40}, 0),
        ("sla_cifar10", 100, 464_154 - 650, {"joint": 64 * 400 + 400}, 0),
        ("sla_sd_cifar10", 10, 464_154 - 650, {"joint": 64 * 40 + 40, "logits": 650}, 0),
        ("sla_mt_cifar10", 10, 464_154 - 650, {"turn": 64 * 4 + 4, "logits": 650}, 0),
        # Q: Linear(2C, 128), Linear(128, C)
        ("agmax_cifar10", 10, None, {"logits": 128 * 10 + 10}, 20 * 128 + 128 + 128 * 10 + 10),
        # without labels, heads as in the papers' own runs
        ("simsiam_cifar10", 10, RESNET18_SMALL, {"z": two(512, 2048, 2048, last=False), "p": two(2048, 512, 2048)}, 0),
        (
            "simsiam_augself_stl10",  # the last BatchNorm of its projector has an affine
            10,
            RESNET18,
            {"z": two(512, 2048, 2048, last=False) + 2 * 2048, "p": two(2048, 512, 2048)},
            2 * teller(512),
        ),
        (
            "byol_dssl_cifar10",
            10,
            RESNET18_SMALL,
            {"z": two(512, 4096, 256), "p": two(256, 4096, 256)},
            0,
        ),
        ("moco_augself_stl10", 10, RESNET18, {"z": two(512, 512, 128)}, 2 * teller(512)),
        ("simclr_augself_stl10", 10, RESNET18, {"z": two(512, 512, 128)}, 2 * teller(512)),
        ("swav_augself_stl10", 10, RESNET18, {"z": two(512, 2048, 128)}, 100 * 128 + 2 * teller(512)),
        ("vicreg_cifar10", 10, RESNET18_SMALL, {"z": 512 * 2048 + 4096 + two(2048, 2048, 2048)}, 0),
        (
            "simsiam_imagenet",
            1000,
            RESNET50,
            {"z": 2048 * 2048 + 4096 + two(2048, 2048, 2048, last=False), "p": two(2048, 512, 2048)},
            0,
        ),
        ("moco_imagenet", 1000, RESNET50, {"z": 2048 * 2048 + 2048 + 2048 * 128 + 128}, 0),
        ("swav_imagenet", 1000, RESNET50, {"z": two(2048, 2048, 128)}, 3000 * 128),
    ],
)
def test_parameters(name, classes, backbone, heads, relations):
    made = plan(load_recipe(name), classes)
    branch = made.step.main
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    if backbone is not None:
        assert count(branch.backbone) == backbone
    assert {head: count(module) for head, module in branch.heads.items()} == heads
    assert sum(count(module) for module in made.step.relations.values()) == relations
    total = count(branch.backbone) + sum(heads.values()) + relations
    assert numbers(made.summary()) == total
    assert made.summary().startswith(f"{total:,} parameters for {classes:,} classes; ")


def test_averaged_weights_are_no_parameters_of_the_run():
    plain, averaged = plan(load_recipe("quickstart")), plan(load_recipe("quickstart", "train.ema=0.99"))
    assert numbers(plain.summary()) == numbers(averaged.summary())


def test_ops_are_described_as_a_recipe_would_write_them():
    """What the plan prints can be put into a recipe again, and gives the same op."""
    texts = [
        "crop(32, scale=(0.2, 1))",
        "flip(0.5)",
        "vflip(0.1)",
        "jitter(0.4, 0.4, 0.4, 0.1, p=0.8)",
        "grayscale(0.2)",
        "pad_crop(16, padding=2)",
        "randaugment(2, 14)",
        "cutout(16)",
        "resize((16, 8))",
        "center_crop(8)",
        "blur()",
        "solarize()",
    ]
    for text in texts:
        op = plan_views(parse_recipe(view_recipe(text)).views)["a"].ops[0].op
        again = plan_views(parse_recipe(view_recipe(describe(op))).views)["a"].ops[0].op
        assert again == op


def view_recipe(make: str) -> str:
    return f"""
data: {{source: digits}}
views: {{a: {{from: image, make: "{make}"}}}}
branches: {{net: {{backbone: cresnet20}}}}
relations: [cross_entropy(logits(a))]
train: {{steps: 1}}
"""


def test_the_plan_says_what_is_mixed_and_like_what():
    made = plan(load_recipe("tied_mixup_cifar10", "branches.net.backbone=cresnet20", "train.accumulate=4"))
    console = Console(width=250, record=True, file=StringIO())
    console.print(made.render())
    lines = console.export_text().splitlines()
    (a,) = (line for line in lines if line.startswith("a "))
    assert "| mixup(partner='reversed') (mixed among 32 images, targets too)" in a
    (b,) = (line for line in lines if line.startswith("b "))
    assert "mixed" not in b
    assert any("h(a), mix(h(b), like=a)" in line for line in lines)
    drawn = svg(made.recipe)
    # image to views, views to readouts, readouts to relations; and from a to the relation that mixes b like it
    assert drawn.count("<path") == 2 + 4 + 4 + 1
    assert drawn.count("stroke-dasharray") == 1


def test_classes_are_the_datas_where_they_can_be_seen(tmp_path):
    for label in ("cat", "cow", "dog"):
        for number in range(4):
            png(tmp_path / "photos" / label / f"{number}.png", seed=number)
    small = ("branches.net.backbone=cresnet20", "train.batch_size=2", "train.epochs=1")
    printed = " ".join(done("plan", "tied_imagenet", f"data.root={tmp_path / 'photos'}", *small).split())
    assert " parameters for 3 classes; 1 epoch; a step: 2 images, " in printed
    assert "data: 10 train, 1 val" in printed
    assert "run: 5 steps, 1 epoch of 5" in printed
    asked = done("plan", "tied_imagenet", f"data.root={tmp_path / 'photos'}", *small, "--classes", 7)
    assert " parameters for 7 classes; " in " ".join(asked.split())
    unseen = " ".join(done("plan", "tied_imagenet", *small).split())
    assert " parameters for 10 classes; " in unseen
    assert "data: not seen (source 'folder' needs data.root); heads are for 10 classes, or those of --classes" in unseen


@pytest.mark.parametrize(
    ("name", "begins"), [("a.svg", b"<svg "), ("a.png", b"\x89PNG"), ("a.PNG", b"\x89PNG"), ("a.pdf", b"%PDF")]
)
def test_the_graph_is_written_as_its_name_says(tmp_path, name, begins):
    made = plan(load_recipe("quickstart"))
    save_graph(made.recipe, tmp_path / name)
    save_graph(made.recipe, tmp_path / f"again.{name}")
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again.{name}").read_bytes()


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.jpg", "svg"])
def test_a_name_that_says_no_format_is_refused(tmp_path, name):
    message = one_line(*manyview("plan", "quickstart", "--svg", tmp_path / name))
    assert message.startswith(f"--svg: '{name}' does not say what to write; end it in .svg, .png or .pdf, as in ")
    assert list(tmp_path.iterdir()) == []


def test_a_long_title_keeps_within_the_figure():
    made = plan(load_recipe("quickstart", f"title={'a long title ' * 12}"))
    assert layout(made.recipe).width >= 7 * len(made.recipe.title)
