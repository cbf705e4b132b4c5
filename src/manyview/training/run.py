"""A run's folder: what lies where, and how it is opened, continued, and read again.

recipe.yaml  splits.json  networks.json  metrics.jsonl  checkpoints/{last,best}.pt  events.out.tfevents…  result.json
predictions/{val,test}.safetensors  words/
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from manyview.branches.given import Given, given_networks
from manyview.branches.origin import anywhere
from manyview.branches.start import Start
from manyview.branches.teacher import Absent
from manyview.branches.weights import kept_checkpoint
from manyview.data import Splits, open_splits
from manyview.data.mark import exchanged, is_same, looks_of, marks_of
from manyview.errors import ManyviewWarning, RecipeError, RunError, reason, shown, warn
from manyview.foundation.files import at_home, read_mapping, read_state, write_json, write_text
from manyview.foundation.lock import others
from manyview.foundation.taken import check_overrides, taken_path
from manyview.foundation.words import few
from manyview.load import parse_recipe
from manyview.recipe.find import text_of_run
from manyview.recipe.method import SHOWN, in_a_line
from manyview.recipe.recipe import Recipe, check_recipe, difference
from manyview.recipe.settings import Data, Train
from manyview.recipe.streams import read_of
from manyview.step import Step
from manyview.training.kept_words import FOLDER, check_words, keep_words
from manyview.training.networks import Note, check_networks, needed, note_of, trained
from manyview.training.noted import read_noted, read_result
from manyview.training.saving import kept
from manyview.views.engine.program import RENDERER
from manyview.words.load import Use, words_of

# Settings that change where and how fast a run goes, or where it gives up, not what it computed so far.
INCIDENTAL = (
    *("title", "data.root", "data.unlabeled_root", "data.download", "data.workers", "data.on_bad_image", "data.test"),
    *("data.timeout", "train.log_every", "train.checkpoint_every", "train.checkpoints", "train.on_collapse"),
    *("train.untrained", "train.track", "train.shard", "train.checkpointing"),
)
# What says nothing of how a trained network looks at images.
ELSEWHERE = (*INCIDENTAL, *(f"data.{key}" for key in Data.model_fields if key != "channels"), "evaluate", "seed",
             *(f"train.{key}" for key in Train.model_fields if key != "ema"))  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A folder that holds a run. Nothing is read or written until a method is called.

    use: words of one's own, as for `load_recipe`; those that it was made with must be among them.
    """

    folder: Path
    use: Use | Sequence[Use] = ()

    def __post_init__(self) -> None:
        """Take a path that is written as text."""
        object.__setattr__(self, "folder", taken_path(self.folder, "Run: folder"))

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation score, where there is one and `Train.keep` asks for it."""
        return self.folder / "checkpoints" / "best.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.folder / "metrics.jsonl"

    @property
    def result(self) -> Path:
        """Written at the end; its presence means the run is finished."""
        return self.folder / "result.json"

    def begin(
        self,
        recipe: Recipe,
        splits: Splits,
        resume: bool,
        processes: int = 1,
        networks: Note | None = None,
        starts: Mapping[str, Start] = MappingProxyType({}),
    ) -> None:
        """Makes the folder, or checks that it can be continued. Raises RunError, and then has written nothing.

        networks: of what was given in the place of the recipe's backbones, see `networks`. starts: where weights came
        from that the run begins with, see `Step.starts`.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise RunError(f"{self.folder} is a file; --out names a folder")
        found = others(self.folder)
        if found and not resume:
            raise RunError(f"{self.folder} is not empty; choose another --out, or continue with --resume")
        # a run that was killed while these were written has none that comes later, or a temporary file
        if {name for name in found if not name.endswith(".tmp")} - {"splits.json", "networks.json", FOLDER}:
            self.check_same(recipe, splits)
            check_networks(self.folder, self.networks(), networks or {}, begins=not kept(self.last))
            self._check_starts(starts)
            self.tell_renderer()
            for torn in (*self.folder.glob(".*.tmp"), *self.last.parent.glob(".*.tmp")):
                torn.unlink(missing_ok=True)  # of a run that was killed while it wrote, each as large as what it wrote
            if recipe.data.on_bad_image == "skip":
                self._skips_from_here()
            return
        noted = {"classes": list(splits.classes), "note": splits.note, "processes": processes, "renderer": RENDERER}
        if starts:
            noted["starts"] = {part: start.noted for part, start in starts.items()}
        if not splits.given:  # whose marks are of pixels, too
            noted["looks"] = looks_of(splits)
        write_json(self.folder / "splits.json", {**noted, **marks_of(splits)})
        if networks:
            write_json(self.folder / "networks.json", networks)
        text = placed(recipe).to_yaml()
        keep_words(self.folder, recipe.words.used_in(text))
        write_text(self.folder / "recipe.yaml", text)

    def _skips_from_here(self) -> None:
        """Its recipe says skip where it said raise: true of what is done, too, for all that was met could be read."""
        recipe = self.recipe(exact=True)
        if recipe.data.on_bad_image == "raise":
            data = recipe.data.model_copy(update={"on_bad_image": "skip"})
            write_text(self.folder / "recipe.yaml", recipe.model_copy(update={"data": data}).to_yaml())
            warn(f"{self.folder}: images that cannot be read are replaced from here on; until now there were none")

    @property
    def is_new(self) -> bool:
        """Whether nothing lies in its folder yet."""
        return not self.folder.is_dir() or not others(self.folder)

    def withdraw(self) -> None:
        """Takes back what `begin` and what came after it wrote, unless there is a checkpoint to go on from."""
        if kept(self.last) or self.best.is_file():
            return
        names = (
            "recipe.yaml",
            "splits.json",
            "networks.json",
            "metrics.jsonl",
            "trackers.json",
            "events.out.tfevents.*",
        )
        for path in [each for name in names for each in self.folder.glob(name)]:
            path.unlink()
        for path in [*(self.folder / FOLDER).glob("*")]:
            path.unlink()
        for folder in (self.folder / FOLDER, self.last.parent, self.folder):  # the last goes with its lock, see `held`
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def check_same(self, recipe: Recipe, splits: Splits | None = None) -> None:
        """Raises RunError if the folder was made by another recipe or other data, and shows the difference."""
        own = self.recipe(exact=True)
        changed = difference(own, placed(recipe), dict.fromkeys(INCIDENTAL))
        if changed:
            more = f"; its own is {self.folder / 'recipe.yaml'}" if len(changed) > SHOWN else ""
            more += self._further(own) if all(each.startswith("train.") for each in changed) else ""
            raise RunError(f"{self.folder} was made by another recipe: {in_a_line(changed)}{more}")
        if splits is not None:
            stored = self._noted()
            for split, mark in marks_of(splits).items():
                before = stored.get(split)
                if split == "test" and not (own.data.test and recipe.data.test):
                    continue  # one of them was made without, which changes nothing of the others
                if not is_same(before, mark):
                    same = before and mark and before.get("images") == mark["images"]
                    raise RunError(
                        f"{self.folder}: the {'labels of the ' if same else ''}{split} images are not those the run "
                        f"began with; restore {'them' if same else 'the data'}, "
                        f"or begin anew in another folder"
                    )
            if changed := exchanged(stored.get("looks", {}), splits):
                warn(
                    f"{self.folder}: {shown(few(changed))}: other pixels than when the run began; files were "
                    "exchanged, or are decoded otherwise here"
                )

    def _further(self, recipe: Recipe) -> str:
        """What to say where a run should be trained in another way, or longer, than it was."""
        main = next(iter(recipe.branches))
        return f"; a new run goes on from its weights with branches.{main}.backbone.init={self.folder}"

    def starts(self) -> dict[str, dict[str, Any]]:
        """What the run began with that was not drawn: part -> {source, told, digest}, and columns of a teacher."""
        return dict(self._noted().get("starts", {}))

    def _check_starts(self, starts: Mapping[str, Start]) -> None:
        """Raises RunError where a run that has no checkpoint yet would begin with other weights than it did."""
        for part, noted in self.starts().items() if starts else ():
            if part in starts and starts[part].digest != noted["digest"]:
                raise RunError(
                    f"{self.folder}: {noted['source']} no longer holds the weights with which {part} began; restore "
                    "them, or begin anew in another folder"
                )

    def recipe(self, *overrides: str, exact: bool = False) -> Recipe:
        """The recipe the run was made with, resolved. Overrides may say where data are, not what was trained.

        Raises RunError where words of its own are not given. exact: also where they have changed, which else is a
        ManyviewWarning.
        """
        check_overrides(overrides, "overrides")
        for override in overrides:
            if override.partition("=")[0] not in INCIDENTAL:
                key, _, value = override.partition("=")
                cure = f"; write {meant}={value}" if (meant := f"data.{key.strip()}") in INCIDENTAL else ""
                if key.startswith("train."):
                    cure = self._further(self.recipe())
                raise RunError(
                    f"override {override!r}: a trained run is fixed; what may differ: {', '.join(INCIDENTAL)}{cure}"
                )
        text, words = text_of_run(self.folder), words_of(self.use)
        check_words(self.folder, words, exact)
        try:
            return parse_recipe(text, *overrides, use=words)
        except RecipeError as error:
            if not overrides:
                raise RecipeError(f"{self.folder / 'recipe.yaml'}: {error}") from None
            self.recipe(exact=exact)  # where the fault is the file's own, it is told of that
            raise

    def classes(self) -> list[str]:
        """Class names, in the order of labels."""
        return list(self._noted()["classes"])

    def networks(self) -> Note:
        """What is noted of networks that were given from Python; empty where the recipe names all."""
        return self._read("networks.json") if (self.folder / "networks.json").is_file() else {}

    def check_given(self, backbone: Given | None) -> None:
        """Raises RunError where the run needs a network from Python, and there is none."""
        if backbone is None and (stored := trained(self.networks())):
            raise RunError(needed(self.folder, stored))

    def processes(self, step: int = 0) -> int:
        """How many processes made an update, counted from 0: each mixes the images of its own part of a batch."""
        noted = self._noted()
        later = [count for first, count in noted.get("continued", []) if first <= step]
        return int([noted.get("processes", 1), *later][-1])

    def continue_on(self, step: int, processes: int) -> int:
        """Notes that from an update on the run goes on on so many processes; returns on how many it was before."""
        noted = self._noted()
        known = noted.get("continued", [])
        kept = [[first, count] for first, count in known if first < step]
        before = kept[-1][1] if kept else int(noted.get("processes", 1))
        if processes != before:
            kept.append([step, processes])
        if kept != known:
            write_json(self.folder / "splits.json", {**noted, "continued": kept})
        return before

    def tell_renderer(self) -> None:
        """Warns where another renderer makes pixels of its draws than the one it began under."""
        own = self._noted().get("renderer", 1)
        if own != RENDERER:
            warn(
                f"{self.folder} began under renderer {own}, and this is renderer {RENDERER}: crops, resizing and blur "
                "of grey levels may be a level beside what it saw, and what follows with it; all draws are the same"
            )

    def splits(self, recipe: Recipe, data: Mapping[str, Any] | None = None) -> Splits:
        """The run's data, checked to be the same as when it began. data: the data sets, if it was given any."""
        recipe = recipe if data is None else recipe.on_given_data()
        splits = read_of(recipe, open_splits(recipe.data, recipe.seed, data))
        self.check_same(recipe, splits)
        return splits

    def step(self, recipe: Recipe, device: str = "cpu", *, backbone: Given | None = None) -> Step:
        """The trained step, in evaluation mode: the checkpoint that was kept, see `Train.keep`.

        backbone: as it was given to `train`; its weights become the trained ones. Raises RunError without it. Frozen
        teachers are neither needed nor opened; to train, make a step with `Step`.
        """
        path = kept_checkpoint(self.folder)
        self.check_given(backbone)
        self._check_networks_of(recipe)
        read = {read.branch for plan in recipe.relation_plan for read in plan.all_reads}
        given = {**given_networks(backbone, recipe.branch_plan, read), **self._absent(recipe)}
        step = Step(recipe, len(self.classes()), backbone=given, pretrained=False)
        check_networks(self.folder, trained(self.networks()), trained(note_of(step)), begins=False)
        try:
            step.load_state_dict(read_state(path)["step"])
        except RuntimeError as error:
            raise RunError(
                f"{path} does not fit {self.folder / 'recipe.yaml'}: {str(error).splitlines()[1].strip()[:200]}"
            ) from None
        return step.eval().to(device)

    def _check_networks_of(self, recipe: Recipe) -> None:
        """Raises RunError for a recipe that makes other networks of images than the run's own, or is none."""
        check_recipe(recipe, "Run.step")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ManyviewWarning)  # who loaded the recipe was told
            own = parse_recipe(text_of_run(self.folder), use=recipe.words)
        if changed := difference(own, placed(recipe), dict.fromkeys(ELSEWHERE)):
            told = in_a_line(changed)
            raise RunError(f"the recipe given is another than that of {self.folder}, Run(folder).recipe(): {told}")

    def _absent(self, recipe: Recipe) -> dict[str, Absent]:
        """What stands in for frozen teachers, by branch."""
        notes = {part.removesuffix(".backbone"): start for part, start in self.starts().items()} | dict(self.networks())
        still = [name for name, spec in recipe.branch_plan.items() if spec.frozen is not None and name in notes]
        return {name: Absent(notes[name]["columns"]) for name in still}

    def finished(self) -> dict[str, Any] | None:
        """What result.json holds, or None while the run is not finished."""
        return read_result(self.result) if self.result.is_file() else None

    def _noted(self) -> dict[str, Any]:
        """What splits.json holds."""
        path = self.folder / "splits.json"
        if not path.is_file():
            raise RunError(f"{self.folder} is no run: it has no splits.json")
        return read_noted(path)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            raise RunError(f"{self.folder} is no run: it has no {name}")
        try:
            return read_mapping(path)
        except (OSError, ValueError) as error:  # of JSON, and of bytes that are no text
            raise RunError(f"{path} is damaged: {reason(error)}") from None


def run_of(given: Run | str | Path, use: Use | Sequence[Use] = (), where: str = "run") -> Run:
    """A run, or the run in a folder. use: words of one's own, see `Run`. Raises ManyviewError for what is neither."""
    if isinstance(given, Run):
        return replace(given, use=use) if use else given
    return Run(taken_path(given, where), use)


def placed(recipe: Recipe) -> Recipe:
    """The recipe with the paths of data and weights made absolute, so that the run can be read from any folder."""
    if (branches := anywhere(recipe.branches)) != recipe.branches:
        recipe = recipe.model_copy(update={"branches": branches})
    roots = {key: getattr(recipe.data, key) for key in ("root", "unlabeled_root")}
    here = {key: str(at_home(root).resolve()) for key, root in roots.items() if root and at_home(root).exists()}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=here)}) if here else recipe
