"""The loop, from top to bottom: data, step, optimiser; update, log, evaluate, checkpoint; result."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from manyview.data import check_labels, open_splits
from manyview.data.loader import Batches
from manyview.data.loader import stream as open_stream
from manyview.data.render import choose_rendering
from manyview.errors import Interrupted, ManyviewWarning, RecipeError, RunError
from manyview.evaluate.evaluate import check_model, check_protocols, evaluate, while_training, with_accuracy
from manyview.evaluate.features import Features
from manyview.evaluate.model import StepModel
from manyview.evaluate.on_one_set import Measure
from manyview.evaluate.protocols import parse_protocols
from manyview.foundation.distributed import anywhere, mean_of, union
from manyview.foundation.environment import git_commit, versions
from manyview.foundation.files import read_state, write_json, write_state
from manyview.optimize.optimize import clock_of, fixed_parts, make_optimizer, make_schedule, steps_of, sync_batchnorm
from manyview.recipe.recipe import Recipe
from manyview.relations import LEARN_FROM_LABELS
from manyview.show.display import Display
from manyview.step import Step
from manyview.training.doubts import doubts
from manyview.training.failure import earliest, largest_weight, note_failure, report_failure
from manyview.training.health import PATIENCE, collapse_message, grown, health, steps_low, told_apart
from manyview.training.interrupt import interruptible
from manyview.training.log import Metrics
from manyview.training.prepare import images_together, in_memory, rehearse
from manyview.training.run import Run
from manyview.training.surroundings import left_as_found
from manyview.views.draws import key_of


@left_as_found()
def train(recipe: Recipe, out: str | Path, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Trains a recipe into the folder `out` and returns what its result.json holds.

    resume: continue a run that was interrupted, as if nothing had happened; also starts one that has not begun.
    Raises ManyviewError, before anything is written, for all that can be known to be wrong beforehand.
    """
    run, config = Run(Path(out)), recipe.train
    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        gradient_accumulation_steps=config.accumulate,
        step_scheduler_with_optimizer=False,
        # the others wait while the main process evaluates, which may take longer than NCCL's usual 10 minutes
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
        cpu=torch.backends.mps.is_available(),  # which lacks the float64 that draws and boxes are made in
    )
    world, main = accelerator.num_processes, accelerator.is_main_process
    display = Display(quiet=quiet or not main)
    if accelerator.distributed_type == DistributedType.FSDP:
        raise RunError("manyview does not shard parameters yet; run without FSDP")

    # ---------------------------------------------------------------------------------------------- data
    splits = open_splits(recipe.data, recipe.seed)
    protocols = parse_protocols(recipe.evaluate)
    check_labels(splits, recipe.learns_from_labels, recipe.evaluate)
    check_protocols(protocols, splits)
    part = images_together(config, len(splits.train), world)
    clock = clock_of(config, len(splits.train))

    # ---------------------------------------------------------------------------------------------- step
    step = Step(recipe, len(splits.classes), clock.steps)
    if step.classifier:
        check_labels(splits, (), ["classify"])
    check_model(protocols, StepModel(step, splits.classes), splits)
    if part == 1 and any(isinstance(module, torch.nn.BatchNorm1d) for module in step.modules()):
        raise RecipeError("train.batch_size: a head with BatchNorm needs at least two images a part and process")
    if config.sync_batchnorm:
        sync_batchnorm(step, world, accelerator.device)
    optimizer = make_optimizer(config, step)
    step.hold(fixed_parts(config))
    set_lr = make_schedule(config, optimizer, clock)
    with display.busy("drawing a first view; on a machine's first run the renderer is compiled, some 20 s"):
        rehearse(step, splits, part)
    checkpoint_every = max(1, steps_of(config.checkpoint_every, clock, "checkpoint_every"))
    splits = in_memory(splits, recipe.data, display)
    rendering = choose_rendering(recipe.data.render, splits.train, accelerator.device.type)
    if main:
        run.begin(recipe, splits, resume, world)
    accelerator.wait_for_everyone()
    if resume and (finished := run.finished()) is not None:
        display.say(f"{run.folder} is finished; nothing to do")
        return finished

    state: dict[str, Any] = {"number": 0, "best": [-math.inf, -math.inf], "low": 0, "skipped": []}
    state |= {"seconds": 0.0, "waited": 0.0, "untrained": {}}
    if resume and run.last.is_file():
        saved = read_state(run.last)
        step.load_state_dict(saved["step"])
        optimizer.load_state_dict(saved["optimizer"])
        state |= saved["run"]
        display.say(f"resumed at step {state['number']} of {clock.steps}")
    if main and resume and (before := run.continue_on(state["number"], world)) != world:
        parts = f"of {part} images, until now of {config.batch_size // (before * config.accumulate)}"
        told = f"resumed on {world} processes, begun on {before}: BatchNorm and mixing see parts {parts}"
        warnings.warn(told, ManyviewWarning, stacklevel=2)
    wrapped, optimizer = accelerator.prepare(step, optimizer)
    step = accelerator.unwrap_model(wrapped)
    if config.compile:
        step.compile_parts()

    # ------------------------------------------------------------------------------------------- batches
    batches = Batches(
        images=splits.train,
        batch_size=config.batch_size,
        steps_per_epoch=clock.steps_per_epoch,
        seed=recipe.seed,
        accumulate=config.accumulate,
        rank=accelerator.process_index,
        world=world,
        views=None if rendering.place == "device" else recipe.seen_views,
        classes=step.num_classes,
        skip=recipe.data.on_bad_image == "skip",
        reduced=recipe.data.reduced,
    )
    first, stop = state["number"] * config.accumulate, clock.steps * config.accumulate
    stream = open_stream(
        batches, first, stop, rendering.place, recipe.data.workers, pin=accelerator.device.type == "cuda"
    )
    metrics = Metrics(run.metrics, state["number"]) if main else None
    protocols = with_accuracy(protocols, step)
    images_per_step = min(config.batch_size, len(splits.train))
    choice, chooses = while_training(protocols, step, splits)

    def save(path: Path) -> None:
        if main:
            spent = {**state, "seconds": state["seconds"] + time.perf_counter() - began}
            spent["waited"] += waited
            write_state(path, {"step": step.state_dict(), "optimizer": optimizer.state_dict(), "run": spent})

    def features() -> Features:
        """With the weights of now."""
        model = StepModel(step, splits.classes)
        skipped: list[str] | None = [] if batches.skip else None
        return Features(
            model,
            splits,
            seed=recipe.seed,
            skipped=skipped,
            watch=display.evaluating,
            workers=recipe.data.workers,
        )

    def measure(
        frozen: Features,
        split: str,
        chosen: Sequence[Measure],
        failed: dict[str, str] | None = None,
        notes: dict[str, str] | None = None,
    ) -> dict[str, float]:
        measures = evaluate(frozen, split, chosen, failed, notes)
        state["skipped"] = sorted({*state["skipped"], *(frozen.skipped or ())})
        return measures

    # -------------------------------------------------------------------------------------------- train
    for doubt in doubts(recipe, step, clock, len(splits.train)) if main else ():
        warnings.warn(doubt, ManyviewWarning, stacklevel=2)
    labelled = [plan.name for plan in recipe.relation_plan if plan.factory in LEARN_FROM_LABELS]
    display.start(recipe, splits.note, rendering, clock, state["number"], step)
    marked, stopped, waited, failed, ending = state["number"], False, 0.0, 0, ""
    terms: dict[str, float] = {}
    spread: dict[str, float] = {}
    first_bad = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    flushed = contextlib.nullcontext() if metrics is None else contextlib.closing(metrics)
    with interruptible() as interrupted, display.training(), flushed, contextlib.closing(stream):
        if state["number"] == 0 and step.classifier is None and chooses:
            if metrics is not None:  # what training has to beat
                frozen = features()
                held = {"val": splits.val, "test": splits.test}
                state["untrained"] = {name: measure(frozen, name, chooses) for name in held if held[name] is not None}
                if val := state["untrained"].get("val"):
                    metrics.write(0, 0.0, val=val)
                    display.epoch(0, val)
            accelerator.wait_for_everyone()
        step.train()
        began = mark = time.perf_counter()
        for number in range(state["number"], clock.steps):
            lr = set_lr(number)
            # what is random inside the networks (dropout) follows the step and process, like all other draws
            torch.manual_seed(key_of(recipe.seed, number, accelerator.process_index, "networks")[0])
            sums: list[torch.Tensor] = []
            for _ in range(config.accumulate):
                asked = time.perf_counter()
                batch = next(stream).to(accelerator.device)
                waited += time.perf_counter() - asked
                with accelerator.accumulate(wrapped):
                    output = wrapped(batch.images, batch.targets, index=batch.index.tolist(), epoch=batch.epoch)
                    accelerator.backward(output["loss"])
                    if config.clip and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)
                    optimizer.step()
                    optimizer.zero_grad()
                first_bad = note_failure(first_bad, output["loss"], number + 1)
                sums.append(torch.stack([value.detach() for value in output["terms"].values()]))
                state["skipped"] = sorted({*state["skipped"], *batch.skipped})
            step.after_step()
            done = state["number"] = number + 1
            last_of_epoch = done % clock.steps_per_epoch == 0 or done == clock.steps
            logs = done % config.log_every == 0 or last_of_epoch
            # on several processes, all must stop at the same step
            stopped = interrupted() if world == 1 else logs and anywhere(interrupted(), accelerator)
            keeps = done % checkpoint_every == 0 or done == clock.steps or stopped

            if logs or keeps:
                means = accelerator.reduce(reduce(torch.add, sums) / len(sums), "mean")
                terms = dict(zip(output["terms"], means.tolist(), strict=True))
                loss = sum(terms.values())
                first_bad = note_failure(first_bad, largest_weight(step), done)
                if failed := earliest(first_bad, accelerator):
                    break
            if logs:
                now = time.perf_counter()
                speed = (done - marked) * images_per_step / (now - mark)
                spread = mean_of(health(output["z"]), accelerator)
                if metrics is not None:
                    measured = {"images_per_second": round(speed, 1), **spread}
                    metrics.write(done, done / clock.steps_per_epoch, loss=loss, terms=terms, lr=lr, **measured)
                display.advance(done, speed, loss, terms, spread)
                mark, marked = now, done
                if config.on_collapse != "ignore" and (step.classifier is None or output["output"] is not None):
                    answers = None if step.classifier is None else told_apart(output["output"])
                    looks = spread if answers is None else mean_of({"told_apart": answers}, accelerator)
                    late = grown(done, clock.steps, clock.steps_per_epoch)
                    state["low"] = steps_low(state["low"], looks, late)
                    told = collapse_message(looks, done, terms, labelled)
                    if state["low"] >= PATIENCE and config.on_collapse == "stop":
                        keeps, ending = True, f"{told}; stopped, as train.on_collapse says"
                    elif state["low"] == PATIENCE and main:
                        warnings.warn(told, ManyviewWarning, stacklevel=2)
            else:
                display.advance(done)

            if last_of_epoch and (done == clock.steps or (done // clock.steps_per_epoch) % config.evaluate_every == 0):
                paused, val = time.perf_counter(), {}
                if splits.val is not None and metrics is not None:
                    val = measure(features(), "val", chooses)
                    if val:
                        metrics.write(done, done / clock.steps_per_epoch, val=val)
                    score = [val.get(choice, -math.inf), -val.get("loss", 0.0)]  # of equals, the surer one
                    if val and recipe.keeps_best and score > state["best"]:
                        state["best"] = score
                        save(run.best)
                display.epoch(done // clock.steps_per_epoch, val, terms, spread)
                accelerator.wait_for_everyone()
                pause = time.perf_counter() - paused
                began, mark = began + pause, mark + pause
            if keeps:
                state["skipped"] = union(state["skipped"], accelerator)
                save(run.last)
            if stopped or ending:
                break
    if failed:
        ending = f"step {failed} was not finite; the main process tells more"
        if main:
            ending = report_failure(run, step, batches, failed, state["number"], terms, accelerator.device)
    accelerator.wait_for_everyone()  # a launcher ends the others with the first that leaves
    if ending:
        raise RunError(ending)
    if stopped:
        raise Interrupted(f"stopped at step {state['number']}; continue with the same command and --resume")

    # ------------------------------------------------------------------------------------------- result
    seconds = state["seconds"] + time.perf_counter() - began
    result: dict[str, Any] = {}
    if main:
        if run.best.is_file():
            step.load_state_dict(read_state(run.best)["step"])
        result = {
            "recipe": recipe.title,
            "seed": recipe.seed,
            "epochs": round(clock.steps / clock.steps_per_epoch, 4),
            "steps": clock.steps,
            "git": git_commit(),
            "versions": versions(),
            "device": str(accelerator.device),
            "seconds": round(seconds, 2),
            "images_per_second": round(clock.steps * images_per_step / seconds, 1),
            "waiting": round(100 * (state["waited"] + waited) / seconds, 2),
            "rendering": rendering.place,
            "views_per_image": step.rows_per_image,
            "data": splits.note,
            "selected_by": f"validation {choice}" if run.best.is_file() else "the last step",
        }
        frozen = features()
        unmeasured: dict[str, str] = {}  # a protocol that fails must not cost the run its end
        notes: dict[str, str] = {}
        if splits.val is not None:
            result["val"] = measure(frozen, "val", protocols if splits.test is None else chooses, unmeasured, notes)
        result["eval"] = (
            measure(frozen, "test", protocols, unmeasured, notes) if splits.test is not None else result.get("val", {})
        )
        result["eval_split"] = "test" if splits.test is not None else "val" if splits.val is not None else None
        if state["untrained"]:
            result["untrained"] = state["untrained"]
        result["skipped_images"] = state["skipped"]
        if notes:
            result["notes"] = notes
        if unmeasured:
            result["not_measured"] = unmeasured
            warnings.warn(f"not measured: {'; '.join(unmeasured.values())}", ManyviewWarning, stacklevel=2)
        write_json(run.result, result)
        display.summary(run.folder, result)
    accelerator.wait_for_everyone()
    return result
