"""Arms, settings and phases of docs/evidence.md: a line of a recipe each, fixed before the first run.

An arm is what it changes of base.yaml. Weights are those that the search on validation begins with, see `trials`.
"""

from __future__ import annotations

from dataclasses import dataclass

BASELINES = ("two_views", "one_view")
BOTH = "cross_entropy(logits(a), logits(b))"
FOUR = ("views.c={like: a}", "views.d={like: a}")
OF_FOUR = "cross_entropy(logits(a), logits(b), logits(c), logits(d))"


def _relations(*lines: str) -> str:
    return "relations=[" + ", ".join(f"'{line}'" for line in lines) + "]"


SGD = "sgd(lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)"
ORBIT = "views.r={from: a, orbit: rotation}"

ARMS: dict[str, tuple[str, ...]] = {
    # ------------------------------------------------------------------------------------------------- baselines
    "two_views": (),
    "one_view": (_relations("cross_entropy(logits(a))"), "train.batch_size=128"),
    # ---------------------------------------------------------------------------------------------- as published
    "tied_mse": (_relations(BOTH, 'similarity(h(a), h(b), kind="mse", weight=warmup(1))'),),
    "tied_cosine": (_relations(BOTH, 'similarity(h(a), h(b), kind="cosine", weight=warmup(1))'),),
    "agmax": (_relations(BOTH, "agmax(logits(a), logits(b), hidden=128, divergence_weight=4)"),),
    "jsd": (_relations(BOTH, "jensen_shannon(logits(a), logits(b), weight=4)"),),
    "rdrop": (_relations(BOTH, 'agreement(logits(a), logits(b), kind="kl", weight=0.3, swapped=True)'),),
    "sla": (ORBIT, "branches.net.joint=linear(h, orbit=r)", _relations("joint_cross_entropy(joint(r))")),
    "sla_sd": (
        ORBIT,
        "branches.net.joint=linear(h, orbit=r)",
        "branches.net.logits=linear(h)",
        _relations(
            "joint_cross_entropy(joint(r))",
            "cross_entropy(logits(r.0))",
            "distill(logits(r.0), toward=stop(aggregate(joint(r))), temperature=1)",
        ),
    ),
    "sam": (f"train.optimizer=sam({SGD}, rho=0.05)",),
    "tied_sam": (
        f"train.optimizer=sam({SGD}, rho=0.05)",
        _relations(BOTH, 'similarity(h(a), h(b), kind="cosine", weight=warmup(1))'),
    ),
    "augself": (_relations(BOTH, "augself(h(a), h(b), crop=0.1, flip=0.1)"),),
    "supcon": (
        "branches.net.z=projector(h, 64)",
        _relations(BOTH, "supervised_contrastive(z(a), z(b), temperature=0.1, weight=0.5)"),
    ),
    # --------------------------------------------------------------------------------------------- rules of our own
    "antithetic": ("views.b={like: a, anti: [flip, pad_crop]}",),
    "weak_teaches": (
        "views.a={from: image, make: resize(16)}",
        "views.b={from: image, make: 'resize(16) | pad_crop(16, padding=2) | flip(0.5)'}",
        _relations("cross_entropy(logits(a))", "distill(logits(b), toward=stop(logits(a)), weight=warmup(1))"),
    ),
    "tied_where_right": (
        _relations(BOTH, 'similarity(h(a), h(b), kind="cosine", where=stop(logits(a)), threshold="right", weight=1)'),
    ),
    "soft_targets": (
        "views.a={from: image, make: 'resize(16) | pad_crop(16, padding=4) | flip(0.5) | soften(k=2)'}",
        "views.b={like: a}",
    ),
    "ema_teacher": (
        "branches.teacher=ema(net, momentum=0.99)",
        _relations(BOTH, 'agreement(logits(a), teacher.logits(a), kind="kl", weight=warmup(1))'),
    ),
    "four_views": (*FOUR, "train.batch_size=32", _relations(OF_FOUR)),
    "four_views_jsd": (
        *FOUR,
        "train.batch_size=32",
        _relations(OF_FOUR, "jensen_shannon(logits(a), logits(b), logits(c), logits(d), weight=4)"),
    ),
    "apart_but_agreed": (
        _relations(
            BOTH,
            "jensen_shannon(logits(a), logits(b), weight=4)",
            'similarity(h(a), h(b), kind="cosine", weight=-0.1)',
        ),
    ),
    # ------------------------------------------------------------------------------------------------- to explain
    "one_view_longer": (_relations("cross_entropy(logits(a))"),),
}

WEIGHTS: dict[str, tuple[str, tuple[str, str]]] = {
    "tied_mse": ("relations.similarity.weight", ("warmup(1)", "warmup(0.3)")),
    "tied_cosine": ("relations.similarity.weight", ("warmup(1)", "warmup(0.3)")),
    "agmax": ("relations.agmax.weight", ("1", "0.3")),
    "jsd": ("relations.jensen_shannon.weight", ("4", "1.3")),
    "four_views_jsd": ("relations.jensen_shannon.weight", ("4", "1.3")),
    "rdrop": ("relations.agreement.weight", ("0.3", "0.1")),
    "tied_sam": ("relations.similarity.weight", ("warmup(1)", "warmup(0.3)")),
    "augself": ("relations.augself.weight", ("1", "0.3")),
    "supcon": ("relations.supervised_contrastive.weight", ("0.5", "0.15")),
    "weak_teaches": ("relations.distill.weight", ("warmup(1)", "warmup(0.3)")),
    "tied_where_right": ("relations.similarity.weight", ("1", "0.3")),
    "ema_teacher": ("relations.agreement.weight", ("warmup(1)", "warmup(0.3)")),
    "apart_but_agreed": ("relations.similarity.weight", ("-0.1", "-0.03")),
}
"""Where an arm's weight stands, and the two that are tried. All others have three rates to try in their place."""


def trials(arm: str) -> dict[str, tuple[str, ...]]:
    """The three settings that an arm is tuned over, by name: what each overrides of the arm."""
    if arm in WEIGHTS:
        place, (usual, weak) = WEIGHTS[arm]
        tried = [("0.1", usual), ("0.1", weak), ("0.2", usual)]
        return {
            f"{arm}.{number}": (f"train.optimizer.lr={rate}", f"{place}={weight}")
            for number, (rate, weight) in enumerate(tried)
        }
    return {f"{arm}.{number}": (f"train.optimizer.lr={rate}",) for number, rate in enumerate(("0.1", "0.05", "0.2"))}


@dataclass(frozen=True)
class Phase:
    """split: where it is read. seeds: how many, and the first of them."""

    split: str
    seeds: int
    first: int


PHASES = {
    "tune": Phase("val", 1, 100),
    "screen": Phase("val", 5, 200),
    "claim": Phase("test", 12, 0),
    "claim_close": Phase("test", 24, 0),
}


@dataclass(frozen=True)
class Setting:
    """What a setting changes of base.yaml.

    data: the folder of ROOT. tuned_in, arms_of: the setting whose trials choose each arm's, and the one whose claims,
    or else whose screening, choose the arms; None where it is this one.
    """

    overrides: tuple[str, ...]
    data: str = "cifar10"
    tuned_in: str | None = None
    arms_of: str | None = None


LONG = ("train.epochs=60", "train.evaluate_every=60")
OVERFITTED = ("data.limit=1000", *LONG)
UNDERFITTED = ("data.limit=5000", "train.epochs=15", "train.evaluate_every=15")
HEAVY = "views.a.make=resize(16) | pad_crop(16, padding=2) | flip(0.5) | randaugment(2, 9)"
SETTINGS: dict[str, Setting] = {
    "overfitted": Setting(OVERFITTED),
    "underfitted": Setting(UNDERFITTED, arms_of="overfitted"),
    "overfitted_heavy": Setting((*OVERFITTED, HEAVY), tuned_in="overfitted", arms_of="overfitted"),
    "tiny20": Setting(("data.source=hf", *OVERFITTED), data="tiny-20", tuned_in="overfitted", arms_of="overfitted"),
}
