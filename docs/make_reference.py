"""Writes docs/reference.md from the tables and their docstrings:  python docs/make_reference.py

A test holds the file to what this prints, so the reference cannot fall behind the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.branches.heads import HEADS
from manyview.branches.initial import INITS
from manyview.branches.spec import NORMALIZATIONS
from manyview.data import SOURCES
from manyview.evaluate.protocols import PROTOCOLS
from manyview.optimize.optimize import SCHEDULES
from manyview.optimize.wrapping import WRAPPERS
from manyview.recipe.readouts import FUNCTIONS
from manyview.recipe.settings import Data, Train
from manyview.relations import RELATIONS
from manyview.views.ops import OPS
from manyview.views.ops.op import turnable
from manyview.views.ops.orbit import ORBITS, orbit_size

HEADER = """# Reference

Every word of a recipe. Made by `docs/make_reference.py` from the code's own docstrings.

Overrides reach everywhere: `train.epochs=10`, `train.optimizer.lr=0.05`, `relations.similarity.weight=2`,
`views.a.make.randaugment.m=9`, `branches.net.backbone=resnet18`.
"""


def reference() -> str:
    """The whole text."""
    parts = [
        HEADER,
        "## Views\n",
        '`{from: image | view | family.0, make: "op | op"}`, or `{like: view}`: the same ops with draws of their own; '
        "`{like: view, from: other}` puts them on another view. `orbit: name` or `count: n` make a family of views; "
        "`same: [op]` shares draws with the view it is like, or `same: [a.op]` with view `a`. The view `test` is what "
        "evaluation looks at; nothing in it is drawn.\n",
        "`anti: [op]`, or `anti: [a.op]`, takes the opposite of the other view's draws, u -> 1 - u: the opposite flip, "
        "the crop in its mirrored place. A coin of one half falls on its other side; one of another p is true as often "
        "as ever, in both views at once max(0, 2p - 1) of the time. Numbers lie about the middle of their range; what "
        "an op does not turn (the size of a crop, the order of `jitter`, which ops a policy takes) is as in the other "
        "view. "
        "Turned are, op by op: "
        + "; ".join(f"`{name}` {', '.join(turnable(op))}" for name, op in OPS.items() if turnable(op))
        + ".\n",
        "`alternate: [op]`: in every second epoch, the second, the fourth and so on, the op takes the opposite of what "
        "it drew for an image in the epoch before: of `flip(0.5)` two epochs show an image once each way, where both "
        "show it (an epoch leaves out the images of an incomplete batch). `{like: view}` does not take it over, for "
        "its draws are its own; `same` and `anti` of an op that alternates follow it. Two flips on one way that both "
        "alternate cancel each other.\n",
        "### Ops\n",
        "[All of them at three strengths](ops.png), drawn by `docs/make_ops.py`.\n",
        *entries(OPS),
        "### Orbits\n",
        *(f"- `{name}`: {orbit_size(name)} members" for name in ORBITS),
        "\n## Branches\n",
        "`name: {backbone: …, forward: joint | separate, normalize: …, head: call, …}`. The backbone is any timm name "
        "with timm's arguments, and `small=True` for the 3x3 stem without max-pool (`small=2`: padded by two, as "
        "solo-learn's); manyview adds `cresnet8`, `cresnet20`, "
        "`cresnet32`, `cresnet56`, `wrn28_2`, `wrn28_10`, `wrn40_2`. `normalize` is "
        + ", ".join(f"`{name}`" for name in NORMALIZATIONS)
        + " or `[[means], [stds]]`, one a channel; by default the backbone's own, 0.5 for channels other than RGB. "
        "`init='PLACE'` of a backbone or a head is where its weights come from: a run, an export or a file, see "
        "[starting_from.md](starting_from.md). `h` is the pooled feature; `logits` is "
        "`linear(h)` unless declared. "
        "`pool('layer')` reads a layer inside the backbone averaged over its places, `maps('layer')` all of it, "
        "[B, C*h*w]. `init:` says how all other weights start, of backbone, heads and the nets of relations that read "
        "the branch: "
        + "; ".join(f"`{name}`: {inspect.getdoc(start)}" for name, start in INITS.items())
        + " Without it they are timm's and torch's. "
        "`teacher: ema(online, momentum=0.996, schedule='constant')` is a branch whose weights follow those of "
        "`online` after every update, without gradients; its readouts are named with it, as in `teacher.z(b)`. With "
        "`schedule='cosine'` the momentum rises to 1 by the end of the run. "
        "`teacher: frozen(resnet50(pretrained=True), precision=None, normalize=None, keep=False)` is a network that "
        "was trained before and stands still: timm's, or `frozen('PLACE')` of a run, an export or a run's checkpoint, "
        "or `frozen()` of a module from Python; its readouts are `h` and, where it has a classifier, `logits`. "
        "`keep=True` keeps what it says of each image on disk, where its views draw nothing. "
        "`width_of=teacher` in place of a head's `out` makes it as wide as the teacher's `h`.\n",
        "### Heads\n",
        *entries(HEADS, first="h"),
        "## Relations\n",
        "`relation(readout(view), …, option=…, weight=…)`. Functions of readouts: "
        + "; ".join(f"`{name}` ({what})" for name, what in FUNCTIONS.items())
        + ". Weights: a number (a negative one pushes apart), or a schedule of the run: "
        + "; ".join(f"`{name}(w)` {what}" for name, what in WEIGHTS_ARE.items())
        + ". `swapped=True` adds the same line once more with its two views exchanged, where one asks something of the "
        "other. Logged terms carry their weight and sum to the loss.\n",
        *entries(RELATIONS),
        "## Data\n",
        fields(Data),
        "Sources: " + ", ".join(f"`{name}`" for name in SOURCES) + ".\n",
        *entries({name: SOURCES[name] for name in ("digits", "folder", "hf", "listed", "torchvision")}),
        "## Train\n",
        fields(Train),
        "Optimisers are timm's, by name and with timm's arguments: `sgd(lr=0.1, momentum=0.9)`. What is left out is as "
        "in torch and in the optimiser's own code, not as timm's factory has it: `sgd(lr=0.1)` has no momentum and no "
        "Nesterov's, `lars` no momentum, `rmsprop` an alpha of 0.99, `muon` a momentum of 0.95; weight decay alone is "
        "0 for all, `adamw` too. `per=128` says what batch size lr is for: a run of another has lr * batch_size / 128, "
        "and the schedule's floor likewise; without it lr is taken as it is, and an override of `train.optimizer.lr` "
        "alone is for the run's own batches: `per` goes with the old lr. `decay_norms=False` leaves biases and "
        "norms out of weight decay, and with `lars` out of its layer-wise rates too. `constant='p'` keeps the lr of a "
        "part of the networks as it is through warm-up and schedule (SimSiam's predictor), and "
        "`scale={'backbone': 0.1}` multiplies a part's lr; a part with 0 is fixed, and stays in evaluation mode. A "
        "part is `backbone` or a head, in all branches or, as `online.p`, in one; a relation's own modules have the "
        "relation's name. `layer_decay=0.75` gives each layer of a backbone 0.75 of the lr of the next, from the heads "
        "down, as timm's models tell their layers (`group_matcher`).\n",
        "### Around an optimiser\n",
        "An override reaches the optimiser inside with every argument that is not of the call around it: "
        "`train.optimizer.rho=0.1` is sam's, `train.optimizer.lr=0.05` sgd's; `train.optimizer.sgd.lr` says it by "
        "name.\n",
        *entries(WRAPPERS, first="sgd(…)", hidden=("of",)),
        "### Schedules\n",
        *entries(SCHEDULES),
        "## Evaluate\n",
        *entries({name: protocol for name, protocol in PROTOCOLS.items() if name != "linear_probe"}, hidden=("words",)),
    ]
    return "\n".join(parts).rstrip() + "\n"


WEIGHTS_ARE = {
    "warmup": "rises from 0 to w over the first tenth (`fraction=0.1`), then stays",
    "linear": "rises from 0 to w over the whole run",
    "random": "is drawn from [-w, w] at each step",
    "random_sign": "is w or -w at each step",
    "alternating": "is w and -w in turn (from -w on with `alternating(-w)`)",
}
HIDDEN = ("self", "inputs", "classes", "members", "optimizer", "clock", "download", "root", "stored", "params", "words")


def entries(
    table: Mapping[str, Callable[..., Any]], first: str | None = None, hidden: Sequence[str] = HIDDEN
) -> list[str]:
    """One item a name: its call with defaults, and its docstring. hidden: arguments that no user gives."""
    lines = []
    for name, factory in table.items():
        shown = [first] if first else []
        for key, parameter in inspect.signature(factory).parameters.items():
            if key in hidden:
                continue
            star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
            default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
            shown.append(f"{star}{key}{default}")
        text = " ".join((inspect.getdoc(factory) or "").replace("``", "`").split())
        lines.append(f"- **`{name}({', '.join(shown)})`** {text}")
    return [*lines, ""]


def fields(model: Any) -> str:
    """A table of keys with their defaults, after the model's docstring."""
    rows = [f"| `{key}` | `{field.default!r}` |" for key, field in model.model_fields.items()]
    return "\n".join([inspect.getdoc(model) or "", "", "| key | default |", "| --- | --- |", *rows, ""])


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference(), encoding="utf-8")
