"""Arms, settings and phases of docs/evidence.md, a line of a recipe each: what was fixed before the first run and what
was added stands there.

An arm is what it changes of its setting's base. Weights are those that the search on validation begins with, see
`trials`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    "alternating": ("views.a.alternate=[flip, pad_crop]", "views.b={like: a, alternate: [flip, pad_crop]}"),
    "antithetic_alternating": ("views.a.alternate=[flip, pad_crop]", "views.b={like: a, anti: [flip, pad_crop]}"),
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
    # ---------------------------------------------------------------- the two best on validation by then, together
    "rdrop_supcon": (
        "branches.net.z=projector(h, 64)",
        _relations(
            BOTH,
            'agreement(logits(a), logits(b), kind="kl", weight=0.3, swapped=True)',
            "supervised_contrastive(z(a), z(b), temperature=0.1, weight=0.5)",
        ),
    ),
    # ------------------------------------------------------------------------------------------------- to explain
    "one_view_longer": (_relations("cross_entropy(logits(a))"),),
}

TIE = 'similarity(h(weak), h(strong), kind="cosine", weight=1)'
LABELLED = "cross_entropy(logits(x))"
FIXED, FREE = "threshold=0.95", "threshold=free(), fairness=0.001"


def _semi(threshold: str, *more: str) -> str:
    return _relations(LABELLED, f"pseudo_label(logits(strong), toward=stop(logits(weak)), {threshold})", *more)


SEMISUPERVISED: dict[str, tuple[str, ...]] = {
    "fixmatch": (),
    "freematch": (_semi(FREE),),
    "labels": ("views.weak={like: x}", _relations("cross_entropy(logits(x), logits(weak))")),
    "tied_fixmatch": (_semi(FIXED, TIE),),
    "tied_freematch": (_semi(FREE, TIE),),
}
"""Of base_semi.yaml, the first three are baselines: two views of what has a label, too, with all of the FLOPs."""

SIMSIAM = "cosine(p(a), toward=stop(z(b)), weight=0.5, swapped=True)"
LEJEPA = "lejepa(z(a), z(b), sketch=0.02, directions=1024)"
AUGSELF = "augself(h(a), h(b), crop=1, color=1)"
OF_LEJEPA = (
    "branches.net.z=projector(h, 64, hidden=256, layers=3, norm_last=False)",
    "train.optimizer=adamw(lr=2e-3, weight_decay=5e-4, decay_norms=False)",
)
HEAVY_VIEWS = (
    "views.heavy_a={from: a, make: \"randaugment(2, 9, ops='dssl')\"}",
    "views.heavy_b={like: heavy_a, from: b}",
)
SELFSUPERVISED: dict[str, tuple[str, ...]] = {
    "simsiam": (),
    "lejepa": (*OF_LEJEPA, _relations(LEJEPA)),
    "simsiam_augself": (_relations(SIMSIAM, AUGSELF),),
    "simsiam_dssl": (
        *HEAVY_VIEWS,
        _relations(
            SIMSIAM,
            "cosine(p(heavy_a), toward=stop(z(a)), weight=0.45)",
            "cosine(p(a), toward=stop(z(heavy_a)), weight=0.05)",
            "cosine(p(heavy_b), toward=stop(z(b)), weight=0.45)",
            "cosine(p(b), toward=stop(z(heavy_b)), weight=0.05)",
        ),
    ),
    "lejepa_augself": (*OF_LEJEPA, _relations(LEJEPA, AUGSELF)),
    "lejepa_dssl": (
        *HEAVY_VIEWS,
        *OF_LEJEPA,
        _relations(
            LEJEPA,
            "cosine(z(heavy_a), toward=stop(z(a)), weight=0.45)",
            "cosine(z(heavy_b), toward=stop(z(b)), weight=0.45)",
        ),
    ),
}
"""Of base_self.yaml, the first two are baselines, each of the arms that bear its name."""

WEIGHTS: dict[str, dict[str, tuple[str, str]]] = {
    "tied_mse": {"relations.similarity.weight": ("warmup(1)", "warmup(0.3)")},
    "tied_cosine": {"relations.similarity.weight": ("warmup(1)", "warmup(0.3)")},
    "agmax": {"relations.agmax.weight": ("1", "0.3")},
    "jsd": {"relations.jensen_shannon.weight": ("4", "1.3")},
    "four_views_jsd": {"relations.jensen_shannon.weight": ("4", "1.3")},
    "rdrop": {"relations.agreement.weight": ("0.3", "0.1")},
    "tied_sam": {"relations.similarity.weight": ("warmup(1)", "warmup(0.3)")},
    "augself": {"relations.augself.weight": ("1", "0.3")},
    "supcon": {"relations.supervised_contrastive.weight": ("0.5", "0.15")},
    "weak_teaches": {"relations.distill.weight": ("warmup(1)", "warmup(0.3)")},
    "tied_where_right": {"relations.similarity.weight": ("1", "0.3")},
    "ema_teacher": {"relations.agreement.weight": ("warmup(1)", "warmup(0.3)")},
    "apart_but_agreed": {"relations.similarity.weight": ("-0.1", "-0.03")},
    "rdrop_supcon": {
        "relations.agreement.weight": ("0.3", "0.1"),
        "relations.supervised_contrastive.weight": ("0.5", "0.15"),
    },
    "tied_fixmatch": {"relations.similarity.weight": ("1", "0.3")},
    "tied_freematch": {"relations.similarity.weight": ("1", "0.3")},
}
"""Where an arm's weights stand, and the two that are tried of each. All others have three rates to try instead."""


RATES = ("0.1", "0.05", "0.2")
EDGE = "train.optimizer.lr=0.4"  # twice the largest, for the phase `edge`: whether the best lies beyond


def trials(arm: str) -> dict[str, tuple[str, ...]]:
    """The three settings that an arm is tuned over, by name: what each overrides of the arm."""
    tried: list[tuple[str, tuple[str, ...]]] = [(rate, ()) for rate in RATES]
    if arm in WEIGHTS:
        usual, weak = (tuple(f"{at}={each[which]}" for at, each in WEIGHTS[arm].items()) for which in range(2))
        tried = [(RATES[0], usual), (RATES[0], weak), (RATES[2], usual)]
    return {f"{arm}.{number}": (f"train.optimizer.lr={rate}", *weights) for number, (rate, weights) in enumerate(tried)}


@dataclass(frozen=True)
class Phase:
    """split: where it is read. seeds: how many, and the first of them."""

    split: str
    seeds: int
    first: int


PHASES = {
    "tune": Phase("val", 1, 100),
    "screen": Phase("val", 5, 200),
    "edge": Phase("val", 5, 200),
    "claim": Phase("test", 12, 0),
    "claim_close": Phase("test", 24, 0),
    "claim_few": Phase("test", 6, 0),
}


@dataclass(frozen=True)
class Setting:
    """What a setting changes of its base, a recipe beside this file.

    data: the folder of ROOT. tuned_in, arms_of: the setting whose trials choose each arm's, and the one whose claims,
    or else whose screening, choose the arms; None where it is this one. tunes: False where every arm is as published.
    screens: whether it chooses its arms itself; where neither does, all of them claim. measure: the primary one, and
    what it is called. against: of an arm that is a baseline and a line more, that one; all others are compared with
    the better of the baselines.
    """

    overrides: tuple[str, ...]
    base: str = "base.yaml"
    data: str = "cifar10"
    tuned_in: str | None = None
    arms_of: str | None = None
    tunes: bool = True
    screens: bool = False
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ARMS)
    baselines: tuple[str, ...] = BASELINES
    measure: tuple[str, str] = ("top1", "top-1")
    against: Mapping[str, str] = field(default_factory=dict)


LONG = ("train.epochs=60", "train.evaluate_every=60")
OVERFITTED = ("data.limit=1000", *LONG)
UNDERFITTED = ("data.limit=5000", "train.epochs=15", "train.evaluate_every=15")
HEAVY = "views.a.make=resize(16) | pad_crop(16, padding=2) | flip(0.5) | randaugment(2, 9)"
SETTINGS: dict[str, Setting] = {
    "overfitted": Setting(OVERFITTED, screens=True),
    "underfitted": Setting(UNDERFITTED, arms_of="overfitted"),
    "overfitted_heavy": Setting((*OVERFITTED, HEAVY), tuned_in="overfitted", arms_of="overfitted"),
    "tiny20": Setting(("data.source=hf", *OVERFITTED), data="tiny-20", tuned_in="overfitted", arms_of="overfitted"),
    "semisupervised": Setting(
        (),
        base="base_semi.yaml",
        arms=SEMISUPERVISED,
        baselines=("fixmatch", "freematch", "labels"),
        against={"tied_fixmatch": "fixmatch", "tied_freematch": "freematch"},
    ),
    "selfsupervised": Setting(
        (),
        base="base_self.yaml",
        tunes=False,
        arms=SELFSUPERVISED,
        baselines=("simsiam", "lejepa"),
        measure=("linear", "linear probe"),
        against={arm: arm.partition("_")[0] for arm in SELFSUPERVISED if "_" in arm},
    ),
}


def setting_of(name: str) -> Setting:
    """A setting by its name; one that is not known has the arms and baselines of most."""
    return SETTINGS.get(name, Setting(()))
