"""Twenty classes of Tiny ImageNet, the data set on which nothing is tuned."""

from __future__ import annotations

from pathlib import Path

from manyview.foundation.files import write_atomically

CLASSES, TRAINED = 20, 60


def tiny20(root: Path, out: Path) -> None:
    """Writes out/train.parquet and out/test.parquet of root's, once.

    Of each of the first classes the first `TRAINED` images are there to train on; what is left of them goes to the few
    test images, since a difference of a point needs more of these than of those. The tables name these classes alone,
    as many as a network has outputs for.
    """
    from datasets import ClassLabel, Dataset, concatenate_datasets
    from pyarrow.parquet import read_table

    if (out / "test.parquet").exists():
        return
    whole = {split: Dataset(read_table(root / f"{split}.parquet")) for split in ("train", "test")}
    named = ClassLabel(names=whole["train"].features["label"].names[:CLASSES])
    places: dict[str, list[int]] = {"train": [], "rest": [], "test": []}
    for split, images in whole.items():
        seen = [0] * CLASSES
        for at, label in enumerate(images["label"]):
            if label < CLASSES:
                seen[label] += 1
                places["rest" if split == "train" and seen[label] > TRAINED else split].append(at)
    rest = whole["train"].select(places["rest"])
    made = {
        "train": whole["train"].select(places["train"]),
        "test": concatenate_datasets([whole["test"].select(places["test"]), rest]),
    }
    out.mkdir(parents=True, exist_ok=True)
    for split, images in made.items():
        table = images.cast_column("label", named)
        write_atomically(out / f"{split}.parquet", lambda path, table=table: table.to_parquet(str(path)))
