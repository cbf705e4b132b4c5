"""MixUp and CutMix of images without labels: their pseudo-labels mix as the images do, row by row, in families too."""

import numpy as np
import pytest
import torch

import manyview
import references as ref
from commands import manyview as command
from commands import one_line
from manyview.data.batch import Batch
from manyview.errors import BatchError, RecipeError
from manyview.relations import Port, Reading
from manyview.relations.pseudo_label import PseudoLabel
from manyview.views.ops.mix import CutMix
from manyview.views.view import View

RECIPE = """
data: {source: digits, labels_per_class: 4, unlabeled: all}
views:
  x: {from: image}
  weak: {from: unlabeled, make: "pad_crop(8, padding=1)"}
  strong: {from: unlabeled, make: "MAKE"}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(strong), toward=stop(logits(weak)), threshold=0.2)
train: {steps: 10, batch_size: 4, unlabeled_per_labeled: 2}
"""
ROWS = 8


def parsed(make, **replaced):
    text = RECIPE.replace("MAKE", make)
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return manyview.parse_recipe(text)


def given():
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4 + ROWS, 3, 8, 8), generator=drawn, dtype=torch.uint8)
    other = Batch(images[4:], None, range(ROWS), 0)
    return Batch(images[:4], torch.arange(4), range(4), 1, streams={"unlabeled": other})


def by_hand(log_p, labels, sure, shares):
    """Row by row. shares: for each row [(row shown, share)]; labels [rows], or soft [rows, C]."""
    total = 0.0
    for row, shown in enumerate(shares):
        for other, share in shown:
            target = labels[other] if np.ndim(labels) == 2 else np.eye(log_p.shape[1])[labels[other]]
            total -= share * sure[other] * float(target @ log_p[row])
    return total / len(shares)


def shown_by(drawn, shares):
    """What each row shows after one op more. drawn: its parameters; shares: what each row showed before."""
    found = []
    for row, before in enumerate(shares):
        partner, lam = int(drawn["partner"][row]), float(drawn["lam"][row])
        found.append([(o, lam * s) for o, s in before] + [(o, (1 - lam) * s) for o, s in shares[partner]])
    return found


@pytest.mark.parametrize(
    "make",
    [
        "mixup(1.0)",
        "mixup(1.0, per='image', p=0.6)",
        "pad_crop(8) | cutmix(1.0, per='image')",
        "cutmix(1.0, partner='reversed') | rotate(20) | mixup(0.5, per='image')",
    ],
)
@pytest.mark.parametrize("sharpen", [None, 0.5])
def test_a_step_is_the_sum_row_by_row(make, sharpen):
    more = {} if sharpen is None else {"sharpen": ("threshold=0.2", f"threshold=0.2, sharpen={sharpen}")}
    step, batch = manyview.Step(parsed(make, **more), 10).train(), given()
    views = step.views(batch.streams["unlabeled"].images, index=range(ROWS), epoch=0, stream="unlabeled")
    shares = [[(row, 1.0)] for row in range(ROWS)]
    for name in [name for name in views["strong"].params if name.partition("_")[0] in ("mixup", "cutmix")]:
        shares = shown_by(views["strong"].params[name], shares)
    assert any(0.02 < share < 0.98 for shown in shares for _, share in shown)
    with torch.no_grad():
        weak, strong = (
            step.main.read(views[v].pixels, ["logits"])["logits"].double().numpy() for v in ("weak", "strong")
        )
    p = np.array(ref.softmax_rows(weak))
    limit = step.relations["pseudo_label"].rule.threshold = float(np.median(p.max(1)))
    sure = p.max(1) >= limit
    assert sure.sum() == ROWS / 2
    found = step(batch)["terms"]["pseudo_label"]
    labels = p.argmax(1) if sharpen is None else np.array(ref.softmax_rows(weak / sharpen))
    want = by_hand(np.array(ref.log_softmax(strong)), labels, sure, shares)
    assert float(found) == pytest.approx(want, rel=1e-5)


def test_members_of_a_family_mix_with_their_own():
    """Rows i*m + t: member t of image i was mixed with member t of its partner."""
    op, members, rows, classes = CutMix(), 3, 4, 5
    drawn = torch.Generator().manual_seed(1)
    strong, weak = torch.randn(2, rows * members, classes, generator=drawn, dtype=torch.float64)
    partner = torch.tensor([2, 0, 3, 1]).repeat_interleave(members)
    lam = torch.rand(rows * members, generator=drawn, dtype=torch.float64)
    params = {"cutmix": {"partner": partner, "lam": lam, "applied": torch.ones(len(lam), dtype=torch.bool)}}

    def port(name, **more):
        return Port(f"logits({name})", classes, members, classes, **more)

    own = {"ops": {"cutmix": op}, "mixed": (("strong", "cutmix", ""),)}
    module = PseudoLabel(port("strong", **own), toward=port("weak"), threshold=0.5)
    strong.requires_grad_()
    found = module(Reading(strong, None, params, members), toward=Reading(weak, None, {}, members))
    p = np.array(ref.softmax_rows(weak.numpy()))
    shares = [
        [(row, float(lam[row])), (int(partner[row]) * members + row % members, 1 - float(lam[row]))]
        for row in range(rows * members)
    ]
    want = by_hand(np.array(ref.log_softmax(strong.detach().numpy())), p.argmax(1), p.max(1) >= 0.5, shares)
    assert float(found) == pytest.approx(want, rel=1e-6)
    reading = Reading(weak, None, {}, members)
    assert torch.autograd.gradcheck(lambda x: module(Reading(x, None, params, members), toward=reading), (strong,))


def test_families_in_a_recipe():
    """Each of two draws of the strong view has its own mixture, of labels that a family of weak ones said."""
    more = {
        "weak": ('make: "pad_crop(8, padding=1)"', 'make: "pad_crop(8, padding=1)", count: 2'),
        "strong": ('make: "mixup(1.0)"', 'make: "mixup(1.0)", count: 2'),
        "threshold": ("threshold=0.2", "threshold=0.01"),
    }
    step, batch = manyview.Step(parsed("mixup(1.0)", **more), 10).train(), given()
    found = step(batch)["terms"]["pseudo_label"]
    views = step.views(batch.streams["unlabeled"].images, index=range(ROWS), epoch=0, stream="unlabeled")
    with torch.no_grad():
        weak, strong = (step.main.read(views[v].pixels, ["logits"])["logits"].double() for v in ("weak", "strong"))
    total = 0.0
    for member in range(2):
        drawn = {name: value[member::2] for name, value in views["strong"].params["mixup"].items()}
        shares = shown_by(drawn, [[(row, 1.0)] for row in range(ROWS)])
        labels = weak[member::2].argmax(1).numpy()
        total += by_hand(np.array(ref.log_softmax(strong[member::2].numpy())), labels, np.ones(ROWS), shares) / 2
    assert float(found) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("how", ["derives", "shares"])
def test_two_views_of_one_mixture_are_labelled_as_they_are_seen(how):
    """The network says what it sees in the mixed image, and nothing is left to mix."""
    weak = ('make: "pad_crop(8, padding=1)"', 'make: "mixup(1.0)"')
    strong = {
        "derives": ('{from: unlabeled, make: "rotate(20)"}', '{from: weak, make: "rotate(20)"}'),
        "shares": ('{from: unlabeled, make: "rotate(20)"}', "{like: weak, same: [mixup]}"),
    }[how]
    step = manyview.Step(parsed("rotate(20)", strong=strong, weak=weak), 10)
    assert step.relations["pseudo_label"].mixings == ()


REFUSED = {
    "weak alone": ({"weak": ('make: "pad_crop(8, padding=1)"', 'make: "mixup(1.0)"')}, "mixed otherwise than those of"),
    "each its own": (
        {
            "weak": ('make: "pad_crop(8, padding=1)"', 'make: "mixup(1.0)"'),
            "strong": ('{from: unlabeled, make: "rotate(20)"}', "{like: weak}"),
        },
        "mixed otherwise than those of",
    ),
    "in a view above": (
        {
            "above": ("  strong:", '  m: {from: unlabeled, make: "cutmix"}\n  strong:'),
            "strong": ('{from: unlabeled, make: "rotate(20)"}', '{from: m, make: "rotate(20)"}'),
        },
        "labels are mixed by the own mixup or cutmix of the strong view",
    ),
    "logits, not labels": (
        {
            "mix": ("toward=stop(logits(weak))", "toward=stop(mix(logits(weak), like=strong))"),
            "strong": ('make: "rotate(20)"', 'make: "mixup(1.0)"'),
        },
        "and toward reads what that mixes, without mix(…)",
    ),
    "fairness": (
        {
            "free": ("threshold=0.2", "threshold=free(), fairness=0.01"),
            "strong": ('make: "rotate(20)"', 'make: "mixup(1.0)"'),
        },
        "fairness counts which class each row shows, and rows of logits(strong) show two; drop fairness, or mixup",
    ),
    "softened": (
        {"strong": ('make: "rotate(20)"', 'make: "crop(8) | soften"')},
        "views.strong.make: soften softens the labels of a view, and the stream unlabeled has none; drop it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_mix_is_one_line(tmp_path, case):
    replaced, told = REFUSED[case]
    text = RECIPE.replace("MAKE", "rotate(20)")
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(RecipeError) as error:
        manyview.parse_recipe(text)
    assert told in str(error.value)
    (tmp_path / "recipe.yaml").write_text(text)
    assert told in one_line(*command("train", tmp_path / "recipe.yaml", "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_views_of_ones_own_tell_what_was_mixed():
    step, batch = manyview.Step(parsed("mixup(1.0)"), 10).train(), given()
    images = batch.streams["unlabeled"].images
    views = {"weak": View(images), "strong": View(images)}
    other = Batch(views, None, None, None)
    with pytest.raises(
        BatchError, match=r"the strong view was mixed by mixup; give what that drew, as View\(params=…\)"
    ):
        step(Batch(batch.images, batch.labels, batch.index, batch.epoch, streams={"unlabeled": other}))
