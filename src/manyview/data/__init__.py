"""Images and labels: sources, splits, decoding."""

from manyview.data.decode import BadImage, decode
from manyview.data.huggingface import TableImages
from manyview.data.images import ArrayImages, FolderImages, Images, Subset, preload
from manyview.data.sources import SOURCES, open_splits
from manyview.data.splits import RawSplits, Splits, hold_out, make_splits

__all__ = [
    "SOURCES",
    "ArrayImages",
    "BadImage",
    "FolderImages",
    "Images",
    "RawSplits",
    "Splits",
    "Subset",
    "TableImages",
    "decode",
    "hold_out",
    "make_splits",
    "open_splits",
    "preload",
]
