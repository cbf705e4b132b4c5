"""Twenty classes of Tiny ImageNet, the data set on which nothing is tuned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from manyview.foundation.files import write_atomically

EVERY, TRAINED = 10, 60


def tiny20(root: Path, out: Path) -> None:
    """Writes out/train.parquet and out/test.parquet of root's, once.

    Every tenth class, and of each the first `TRAINED` images to train on; what is left of them goes to the few test
    images, since a difference of a point needs more of these than of those. The tables name these classes alone, as
    many as a network has outputs for.
    """
    from datasets import ClassLabel, Dataset, concatenate_datasets
    from pyarrow.parquet import read_table

    if (out / "test.parquet").exists():
        return
    whole = {split: Dataset(read_table(root / f"{split}.parquet")) for split in ("train", "test")}
    named = ClassLabel(names=whole["train"].features["label"].names[::EVERY])
    places: dict[str, list[int]] = {"train": [], "rest": [], "test": []}
    for split, images in whole.items():
        seen = Counter[int]()
        for at, label in enumerate(images["label"]):
            if label % EVERY == 0:
                seen[label] += 1
                places["rest" if split == "train" and seen[label] > TRAINED else split].append(at)
    rest = whole["train"].select(places["rest"])
    made = {
        "train": whole["train"].select(places["train"]),
        "test": concatenate_datasets([whole["test"].select(places["test"]), rest]),
    }
    out.mkdir(parents=True, exist_ok=True)
    for split, images in made.items():
        labels = [label // EVERY for label in images["label"]]
        few = images.remove_columns("label").add_column("label", labels).cast_column("label", named)
        write_atomically(out / f"{split}.parquet", lambda path, few=few: few.to_parquet(str(path)))
