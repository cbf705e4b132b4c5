"""Images and labels: sources, splits, decoding."""

from manyview.data.decode import BadImage, Stored, decode, scale_for, size_of
from manyview.data.given import given_splits
from manyview.data.huggingface import TableImages
from manyview.data.images import ArrayImages, FolderImages, Images, Subset, labelled, preload
from manyview.data.indexed import Indexed, collate, with_index
from manyview.data.sources import SOURCES, open_splits
from manyview.data.splits import RawSplits, Splits, check_labels, hold_out, make_splits
from manyview.data.stamp import stamp

__all__ = [
    "SOURCES",
    "ArrayImages",
    "BadImage",
    "FolderImages",
    "Images",
    "Indexed",
    "RawSplits",
    "Splits",
    "Stored",
    "Subset",
    "TableImages",
    "check_labels",
    "collate",
    "decode",
    "given_splits",
    "hold_out",
    "labelled",
    "make_splits",
    "open_splits",
    "preload",
    "scale_for",
    "size_of",
    "stamp",
    "with_index",
]
