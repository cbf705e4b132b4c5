"""The one search for image files: of training, `predict`, `views` and evaluation alike, with links and odd files.

What is read is what decodes: files by the extensions that Pillow knows, and files without such an extension by their
first bytes. What is left out is counted by its reason, so that a note can tell.
"""

from __future__ import annotations

import heapq
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import final

from PIL import Image

from manyview.errors import DataError, shown
from manyview.foundation.files import open_regular

ARRAYS = (".npy",)  # read where images are taken as they are stored
# Formats that Pillow names without decoding them, and one for which it would start another program.
_STUBS = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"}
# What is known to be no picture, a copy of one, or raw data of which Pillow would show the thumbnail, is not opened.
_OTHERS = re.compile(
    r"txt|xml|jsonl?|[ct]sv|md|rst|html?|ya?ml|ini|cfg|log|db|py|ipynb|sh|pdf|docx?|zip|tar|t?gz|bz2|xz|zst|7z|rar|mat|np[yz]|"
    r"pkl|pth?|h5|hdf5|parquet|arrow|lmdb|tfrecord|mp[34]|avi|mov|mkv|webm|wav|svg|hei[cf]|jxl|dcm|nii|dng|nef|cr[23]|"
    r"arw|orf|rw2|raf|bak|orig|tmp|part|partial|crdownload|swp"
)
_SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
_Key = tuple[int, int]


@final
@dataclass(frozen=True)
class Found:
    """What a search found in each of its roots.

    files: paths of images relative to the root, sorted. folders: names of the folders in the root, sorted, with images
    or without. left_out: (reason, detail) -> how many.
    """

    files: tuple[list[str], ...]
    folders: tuple[list[str], ...]
    left_out: Counter[tuple[str, str]]

    def note(self) -> str:
        """What was left out, by reason, in one line; empty for nothing."""
        reasons: dict[str, Counter[str]] = {}
        for (reason, detail), count in sorted(self.left_out.items()):
            reasons.setdefault(reason, Counter())[detail] += count
        parts = []
        for reason, details in reasons.items():
            total, named = sum(details.values()), [f"{n:,} {detail}" for detail, n in details.most_common(4) if detail]
            more = f" ({', '.join(named)}{', …' * (len(details) > 4)})" if named else ""
            parts.append(f"{total:,} {reason.format(s='' if total == 1 else 's')}{more}")
        return f"left out: {', '.join(parts)}" if parts else ""


def find(roots: Sequence[Path], arrays: bool = False, ignore: Sequence[str] = (), any_one: bool = False) -> Found:
    """Images below folders, searched recursively; links are followed.

    Each real folder is read once, whatever links lead to it, also from one root into another, and so is each real file
    that a link names; what is real goes before its links, and those in the order of their paths. Only regular files are
    images. Left out, and counted, are: what begins with a dot, folders of operating systems, folders whose name fits a
    pattern of `ignore`, what is no image, links to nothing, to a folder above, or to what is read already, folders that
    cannot be read. arrays: `.npy` files count as images. any_one: the search may end where there is an image. Raises
    `DataError` if a root itself cannot be read.
    """
    walk = _Walk(roots, arrays, ignore, any_one, [[] for _ in roots], [set() for _ in roots])
    for number, root in enumerate(roots):
        if root.is_symlink():
            heapq.heappush(walk.waiting, (number, "", str(root)))
        else:
            walk.folder(number, "", str(root))
    walk.links()
    files, folders = ([sorted(found) for found in part] for part in (walk.files, walk.folders))
    return Found(tuple(files), tuple(folders), walk.left_out)


def has_images(folder: Path, arrays: bool = False, ignore: Sequence[str] = ()) -> bool:
    """Whether `find` would find any image there; not in a folder that cannot be read."""
    with suppress(DataError):
        return any(find([folder], arrays, ignore, any_one=True).files[0])
    return False


def folders_in(root: Path, ignore: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Names of the folders right in a folder that a search enters, and of links to what is read already; both sorted.

    Raises `DataError` if it cannot be read.
    """
    names: list[str] = []
    links: list[str] = []
    repeated: list[str] = []
    with _entries(str(root)) as entries:
        for entry in entries:
            if _is_folder(entry) and not _passed_over(entry.name, ignore):
                (links if entry.is_symlink() else names).append(entry.name)
    known = {_key_or_none(str(root / name)) for name in names}
    for name in sorted(links):
        key = _key_or_none(str(root / name))
        (repeated if key in known or _leads_up(str(root / name)) else names).append(name)
        known.add(key)
    return sorted(names), repeated


def images_in(folder: Path, arrays: bool = False) -> int:
    """How many images lie right in a folder."""
    walk = _Walk([folder], arrays, (), False, [[]], [set()])
    with _entries(str(folder)) as entries:
        for entry in entries:
            walk.entry(0, entry.name, entry)
    return len(walk.files[0]) + len(walk.file_links)


def is_image(path: str, arrays: bool = False) -> bool:
    """Whether a regular file is an image: by its extension, or, if that is none that is known, by its bytes.

    Raises OSError if these cannot be read.
    """
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in extensions() or (arrays and suffix in ARRAYS):
        return True
    return not (_OTHERS.fullmatch(suffix[1:]) or name.endswith("~")) and _opens(path)


@lru_cache(maxsize=1)
def extensions() -> frozenset[str]:
    """The extensions of all files that Pillow decodes, with the dot, in lower case."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN and kind not in _STUBS)


def _opens(path: str) -> bool:
    """Whether Pillow knows a file by its first bytes and can read its header. Raises OSError if it cannot be opened."""
    extensions()
    kinds = [kind for kind, (_, accepts) in Image.OPEN.items() if accepts and kind not in _STUBS]
    with open_regular(Path(path)) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(file, formats=kinds)
        except Image.DecompressionBombError:
            return True
        except Exception:  # whatever a reader makes of bytes that are not its own
            return False
    return True


@dataclass
class _Walk:
    roots: Sequence[Path]
    arrays: bool
    ignore: Sequence[str]
    any_one: bool
    files: list[list[str]]
    folders: list[set[str]]
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    read: set[_Key] = field(default_factory=set)
    waiting: list[tuple[int, str, str]] = field(default_factory=list)  # a heap of links to folders
    file_links: list[tuple[int, str, str]] = field(default_factory=list)

    def folder(self, number: int, below: str, start: str) -> None:
        """Reads a folder and all real ones in it; links are kept for later. below: its path under root `number`."""
        stack, known = [(below, start)], extensions()
        while stack and not (self.any_one and self.files[number]):
            relative, place = stack.pop()
            top = relative != "" and os.sep not in relative
            try:
                key = _key(place)
                if key in self.read:
                    self._leave("link{s} to what is read already", shown(relative))
                    continue
                self.read.add(key)
                with os.scandir(place) as entries:
                    inside = list(entries)
            except OSError as error:
                if not relative:
                    raise _unreadable(place, error) from None
                self.folders[number].update([relative] if top else [])
                self._leave("folder{s} that cannot be read", f"{shown(relative)}: {error.strerror or error}")
                continue
            self.folders[number].update([relative] if top else [])
            for entry in inside:
                name = entry.name
                path = f"{relative}{os.sep}{name}" if relative else name
                # of a million files most are such, and need no second look
                if name[name.rfind(".") :].lower() in known and name[0] != "." and entry.is_file(follow_symlinks=False):
                    self.files[number].append(path)
                elif self.entry(number, path, entry):
                    stack.append((path, entry.path))

    def links(self) -> None:
        """Follows the links to folders that were met, and those met behind them; then the links to files."""
        while self.waiting:
            number, below, place = heapq.heappop(self.waiting)
            if below and _leads_up(place):
                self._leave("link{s} to a folder above", shown(below))
            else:
                self.folder(number, below, place)
        if not self.file_links:
            return
        real = (os.path.join(root, file) for root, files in zip(self.roots, self.files, strict=True) for file in files)
        known = {_key_or_none(path) for path in real}
        for number, below, place in sorted(self.file_links):
            if (key := _key_or_none(place)) in known:
                self._leave("link{s} to what is read already", "files")
            else:
                known.add(key)
                self.files[number].append(below)

    def entry(self, number: int, path: str, entry: os.DirEntry[str]) -> bool:
        """Takes in one entry of a folder; whether it is a folder to read now."""
        folder = _is_folder(entry)
        if reason := _passed_over(entry.name, self.ignore if folder else ()):
            self._leave(reason, shown(entry.name) if reason == "ignored" else "")
        elif folder and entry.is_symlink():
            heapq.heappush(self.waiting, (number, path, entry.path))
        elif folder:
            return True
        elif not _is_file(entry):
            self._leave("neither file nor folder" if os.path.exists(entry.path) else "broken link{s}")
        elif why := self._no_image(entry):
            self._leave(*why)
        elif entry.is_symlink():
            self.file_links.append((number, path, entry.path))
        else:
            self.files[number].append(path)
        return False

    def _no_image(self, entry: os.DirEntry[str]) -> tuple[str, str] | None:
        """Why a file is no image, and which."""
        try:
            if is_image(entry.path, self.arrays):
                return None
        except OSError as error:
            return "file{s} that cannot be read", f"{shown(entry.name)}: {error.strerror or error}"
        return "of other kinds", shown(os.path.splitext(entry.name)[1].lower()) or "without extension"

    def _leave(self, reason: str, detail: str = "") -> None:
        self.left_out[reason, detail] += 1


def _passed_over(name: str, ignore: Sequence[str]) -> str:
    """Why an entry is left out for its name; empty if it is not."""
    if name.startswith("."):
        return "hidden"
    if name.lower() in _SYSTEM:
        return "of an operating system"
    return "ignored" if any(fnmatchcase(name, pattern) for pattern in ignore) else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _key(path: str) -> _Key:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _key_or_none(path: str) -> _Key | None:
    try:
        return _key(path)
    except OSError:
        return None


def _leads_up(link: str) -> bool:
    """Whether a link leads to the folder that holds it, or to one above."""
    target, holder = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.join(holder, "").startswith(os.path.join(target, ""))


def _entries(folder: str) -> os._ScandirIterator[str]:
    try:
        return os.scandir(folder)
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: str, error: OSError) -> DataError:
    return DataError(f"{shown(folder)} cannot be read: {error.strerror or error}")
