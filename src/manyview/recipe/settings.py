"""What a recipe says about data and training: frozen, typed, strict."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from manyview.data.decode import Stored
from manyview.data.reading import PATIENCE
from manyview.data.stored import MOST_CHANNELS
from manyview.errors import RecipeError, unknown
from manyview.foundation.grammar import Call, parse_call
from manyview.foundation.vocabulary import NONE, Words
from manyview.views.ops.op import COUNTABLE
from manyview.views.streams import UNLABELED

PER_LABELED = 7  # as in FixMatch
TRACKERS = ("tensorboard", "trackio", "mlflow", "wandb")


class Frozen(BaseModel):
    """A part of a recipe: nothing is changed after loading, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    _words: Words = PrivateAttr(default=NONE)

    def model_post_init(self, context: Any) -> None:
        """Takes the words of one's own from `model_validate(…, context={"words": words})`."""
        self._words = (context or {}).get("words", NONE)

    @property
    def words(self) -> Words:
        """Words of one's own that its calls may name. They come from whoever loads it, never from its text."""
        return self._words

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {"__pydantic_private__": state["__pydantic_private__"], **state}  # words before what is made of them


class Data(Frozen, strict=True):
    """Where images come from and which of them are used; every choice is a function of the recipe's seed.

    source: digits, folder, hf, listed, torchvision, or a data set by name (cifar10, …); images may be without labels,
    as of folder(labels=None) or stl10(split='train+unlabeled'). root: its folder. val_fraction: the share of training
    images, of the labelled where there are any, held out to choose by, where the source has no validation set.
    labels_per_class, imbalance (largest class / smallest, exponential; both leave images without labels alone), limit:
    which training images remain. unlabeled: opens the stream of that name beside `image`, for views `from: unlabeled`:
    all training images without their labels; the rest, whose label is not kept or that have none; or another source's,
    as in stl10(split='unlabeled'), in unlabeled_root (by default root). unlabeled_limit: so many of them. on_bad_image:
    raise, or skip and list; in training another image takes its place. So it is with one that keeps a worker longer
    than timeout, in seconds, or that ends it twice; with workers=0 nothing can end it. channels: images are taken as
    they are stored, 8-bit or deeper, and must have this many channels; null makes them 8-bit RGB. Either way they stand
    upright, and colour profiles are not applied. reduced: JPEGs are decoded at each reading, no larger than their crops
    need, faster but not to the same grey levels (see `data.decode`). memory: GiB that the decoded images of a split may
    take; where they fit, they stay in memory. workers: processes that read ahead what does not lie in memory, to train
    on and to be judged on alike. render: where views are made (see `data.render`): by the loader's "workers"; by
    threads from images in "memory", ahead of the step; or on the "device"; "auto" chooses, and the run says why.
    """

    source: str = "folder"
    root: str | None = None
    download: bool = False
    val_fraction: float = Field(0.1, ge=0, lt=1)
    labels_per_class: int | None = Field(None, ge=1, le=COUNTABLE)
    imbalance: float | None = Field(None, ge=1)
    limit: int | None = Field(None, ge=1, le=COUNTABLE)
    unlabeled: str | None = None
    unlabeled_root: str | None = None
    unlabeled_limit: int | None = Field(None, ge=1, le=COUNTABLE)
    on_bad_image: Literal["raise", "skip"] = "raise"
    timeout: float = Field(PATIENCE, gt=0)
    channels: int | None = Field(None, ge=1, le=MOST_CHANNELS)
    reduced: bool = False
    memory: float = Field(1.0, ge=0)
    workers: int = Field(0, ge=0)
    render: Literal["auto", "workers", "memory", "device"] = "auto"

    @property
    def call(self) -> Call:
        """The source, parsed."""
        return parse_call(self.source, "data.source")

    @field_validator("unlabeled")
    @classmethod
    def _opens(cls, text: str | None) -> str | None:
        if text is not None:
            parse_call(text, "data.unlabeled")
        return text

    @property
    def stored(self) -> Stored | None:
        """How images are taken, see `data.decode`."""
        return None if self.channels is None else Stored(self.channels)


class Train(Frozen, strict=True):
    """How long, how fast, with what. epochs or steps, not both. batch_size: images an update, over all processes;
    an epoch is as many whole batches as the images fill. unlabeled_per_labeled: images of the stream `unlabeled` that
    go with one of `batch_size`; an epoch is then one of the stream with more images.

    accumulate: parts a batch is cut into to save memory. clip: largest gradient norm. ema: decay of the averaged
    weights that are evaluated. sync_batchnorm: BatchNorm's moments are those of all processes' images together.
    shard: weights, gradients and the optimiser's state are shared out over the processes (FSDP2), for networks
    that one device has no room for. checkpointing: activations of each block of a backbone are computed again in
    the backward pass in the place of being kept. micro_batch: images, of all views, that pass a backbone at once:
    their readouts are joined, the loss is that of the whole batch, and in the backward pass each piece is computed
    again, so that only its activations lie in memory; with BatchNorm refused. compile: by torch's compiler,
    networks and the rendering on devices.
    on_collapse: what happens when the embeddings of a recipe without a classifier collapse, or a classifier gives all
    images one answer: warn, stop or ignore.
    keep: which weights are measured and taken out in the end, the best on validation images or the last. By default the
    best; of a recipe that learns nothing from labels the last, for to choose by them is to learn from them.
    untrained: whether what nothing classifies is judged before the first update, too, which is what training has to
    beat; it passes the training images through the network once more.
    evaluate_every: epochs. checkpoint_every: "1 epoch" or "500 steps". checkpoints: how many of the last are kept, so
    that where one is damaged the one before is gone on from. log_every: steps. track: where measures go beside
    metrics.jsonl: tensorboard, trackio, mlflow, wandb (see `training.trackers`).
    """

    epochs: int | None = Field(None, ge=1, le=COUNTABLE)
    steps: int | None = Field(None, ge=1, le=COUNTABLE)
    batch_size: int = Field(128, ge=1, le=COUNTABLE)
    unlabeled_per_labeled: int = Field(PER_LABELED, ge=1, le=COUNTABLE)
    optimizer: str = "sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)"
    schedule: str = "cosine()"
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = Field(1, ge=1, le=COUNTABLE)
    clip: float | None = Field(None, gt=0)
    compile: bool = False
    ema: float | None = Field(None, gt=0, lt=1)
    sync_batchnorm: bool = False
    shard: bool = False
    checkpointing: bool = False
    micro_batch: int | None = Field(None, ge=1, le=COUNTABLE)
    on_collapse: Literal["warn", "stop", "ignore"] = "warn"
    keep: Literal["best", "last"] | None = None
    untrained: bool = True
    evaluate_every: int = Field(1, ge=1, le=COUNTABLE)
    checkpoint_every: str = "1 epoch"
    checkpoints: int = Field(2, ge=1, le=COUNTABLE)
    log_every: int = Field(10, ge=1, le=COUNTABLE)
    track: tuple[str, ...] = Field(("tensorboard",), strict=False)

    def batch_of(self, stream: str) -> int:
        """Images an update of a stream, over all processes."""
        return self.batch_size * (self.unlabeled_per_labeled if stream == UNLABELED else 1)

    @field_validator("optimizer", "schedule")
    @classmethod
    def _is_call(cls, text: str, field: ValidationInfo) -> str:
        parse_call(text, f"train.{field.field_name}")
        return text

    @field_validator("track")
    @classmethod
    def _are_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for number, name in enumerate(names):
            if name not in TRACKERS:
                raise RecipeError(f"train.track: {unknown('tracker', name, TRACKERS)}")
            if name in names[:number]:
                raise RecipeError(f"train.track: {name} stands there twice")
        return names
