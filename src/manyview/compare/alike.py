"""What recipes of a comparison must have in common, and in what else they differ than in what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manyview.branches.origin import without_origin
from manyview.branches.spec import SETTINGS
from manyview.compare.comparison import Draft
from manyview.errors import RecipeError
from manyview.evaluate.aggregate import Aggregate
from manyview.evaluate.protocols import measure_names, parse_protocols
from manyview.foundation.words import cut_alike
from manyview.recipe.flat import changed
from manyview.recipe.recipe import Recipe, difference
from manyview.recipe.within import parted
from manyview.show.plan import describe
from manyview.training.run import INCIDENTAL
from manyview.views.plan import TEST

# settings of data that say how images are reached, not which they are
ANYWHERE = ("data.download", "data.memory", "data.render", "data.workers")
# what the budget sets, and what is made equal elsewhere
SET_ELSEWHERE = ("train.epochs", "train.steps", "train.keep", "train.evaluate_every")
MOST = 60  # letters of a value that a line shows

Parts = dict[str, str]  # place -> what differs there


def check_alike(recipes: Mapping[str, Recipe]) -> None:
    """Raises RecipeError unless all recipes have the same data, and a protocol that several name the same settings."""
    (reference, first), *others = recipes.items()
    for name, recipe in others:
        lines = [line for line in difference(first, recipe, dict.fromkeys(ANYWHERE)) if line.startswith("data.")]
        if lines:
            raise RecipeError(
                f"{reference} and {name} are not trained on the same data: {'; '.join(lines)}; give one value for all"
            )
    protocols: dict[str, tuple[str, object]] = {}
    for name, recipe in recipes.items():
        for protocol, label in measure_names(parse_protocols(recipe.evaluate, words=recipe.words)).items():
            other, known = protocols.setdefault(label, (name, protocol))
            if known != protocol:
                raise RecipeError(
                    f"evaluate: {label} has other settings in {other} than in {name}: {known} and {protocol}; "
                    "give the same to all, as in evaluate=['knn(k=20)']"
                )


def unlike(drafts: Sequence[Draft]) -> list[str]:
    """A line for all recipes that differ from the reference in the same settings, beside relations, views and heads.

    That is in networks and their settings, in optimiser, schedule, batch size and the like, in ops that only one of
    both has, and in the view that is looked at to evaluate. A difference of results is then not the method's alone.
    """
    reference, groups = drafts[0], dict[tuple[str, ...], dict[str, Parts]]()
    for draft in drafts[1:]:
        found = {**_networks(reference, draft), **_training(reference.recipe, draft.recipe)}
        found |= _augmentations(reference, draft)
        if found:
            groups.setdefault(tuple(found), {})[draft.name] = found
    return [
        f"{', '.join(group)} differ{'s' if len(group) == 1 else ''} from {reference.name} in more than relations and "
        f"views, which may be what is measured: {'; '.join(_part(key, group) for key in keys)}."
        for keys, group in groups.items()
    ]


def _part(key: str, group: Mapping[str, Parts]) -> str:
    """What of one setting is other in a group of recipes, each value once, with whose it is."""
    said: dict[str, list[str]] = {}
    for name, parts in group.items():
        said.setdefault(parts[key], []).append(name)
    told = [text + (f" ({', '.join(names)})" if len(said) > 1 else "") for text, names in said.items()]
    return f"{key}: {', '.join(told)}"


def several_passes(drafts: Sequence[Draft]) -> list[str]:
    """A line where only some recipes have scores that are averaged over several views of an image."""
    having = [draft.name for draft in drafts if _aggregates(draft)]
    if not having or len(having) == len(drafts):
        return []
    return [
        f"Scores averaged over views are of {', '.join(having)} alone, cost several passes a prediction, and are "
        "compared with nothing; give all recipes the same, as in evaluate=[\"aggregate(orbit='mirror')\"]."
    ]


def _aggregates(draft: Draft) -> bool:
    protocols = parse_protocols(draft.recipe.evaluate, words=draft.recipe.words)
    return draft.step.can_aggregate or any(isinstance(protocol, Aggregate) for protocol in protocols)


def _networks(reference: Draft, other: Draft) -> Parts:
    ours, theirs = (without_origin(draft.step.main.spec.backbone) for draft in (reference, other))
    return _parts({"network": (ours, theirs), **changed(_of_main(reference), _of_main(other))})


def _of_main(draft: Draft) -> dict[str, object]:
    """What a recipe says of its first trained branch beside network and heads, whatever that is called."""
    said = draft.recipe.branches[draft.step.main.spec.name]
    return {key: said[key] for key in SETTINGS if key != "backbone" and key in said}


def _training(reference: Recipe, other: Recipe) -> Parts:
    skipped = tuple(f"{key}." for key in (*INCIDENTAL, *SET_ELSEWHERE))
    left, right = (
        {k: v for k, v in recipe.flat.items() if k.startswith("train.") and not f"{k}.".startswith(skipped)}
        for recipe in (reference, other)
    )
    return _parts(changed(left, right))


def _parts(differing: Mapping[str, tuple[object, object]]) -> Parts:
    inside = {place: pair for key, (old, new) in differing.items() for place, pair in parted(key, old, new).items()}
    return {place: " -> ".join(cut_alike(str(old), str(new), MOST)) for place, (old, new) in inside.items()}


def _augmentations(reference: Draft, other: Draft) -> Parts:
    ours, theirs = _ops(reference.recipe), _ops(other.recipe)
    only = {
        "without": [op for op in ours if op not in theirs],
        "with": [op for op in theirs if op not in ours],
    }
    told = [f"{where} {', '.join(ops)}" for where, ops in only.items() if ops]
    return {"augmentation": ", ".join(told)} if told else {}


def _ops(recipe: Recipe) -> list[str]:
    """The ops of all views that are read, and of that which evaluation looks at, each once."""
    test = {TEST: recipe.view_plan[TEST]} if TEST in recipe.view_plan else {}
    named = {**recipe.seen_views, **test}
    return list(
        dict.fromkeys(
            describe(planned.op) + (" to evaluate" if name == TEST else "")
            for name, view in named.items()
            for planned in view.ops
        )
    )
