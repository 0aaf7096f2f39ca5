"""A folder of pictures as a source: read one by one, brought to one size, with sub-folders or a CSV as classes.

What is decided on opening is decided from every file's header and said by `describe`: which files are pictures, their classes,
the size, the channels, the bits. The pixels are read when they are asked for, so a folder may be larger than memory; only the
names are held, end to end in one string of bytes. Pictures are numbered from 0, in the order of their names.
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from undrift.codecs.labels import read_classes, read_labels
from undrift.codecs.pictures import SUFFIXES, Header, Layout, header, pixels, rounded_size
from undrift.codecs.sources import checked_labels, pieces
from undrift.errors import DataError

__all__ = ["PictureFolder"]

CAP = 64
"""Longest side, in pixels, that pictures are brought to if no size is asked for."""

HASHED, END = 2**27, 2**16
"""Bytes of content that a digest reads of a folder, and at most at either end of a file."""

LOOKED_AT = 256
"""Pictures with a channel of transparency that are decoded on opening, to see whether any uses it."""


class Names:
    """Many names in little memory: their bytes end to end, and where each ends."""

    def __init__(self, names: Iterable[str] = ()):
        self._bytes = bytearray()
        self._ends = array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """One more."""
        self._bytes += os.fsencode(name)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        return os.fsdecode(bytes(self._bytes[self._ends[i] : self._ends[i + 1]]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class PictureFolder:
    """Pictures in a folder and the folders inside it, in the order of their names.

    Classes: the sub-folders, where every picture lies in one of at least two; or a table `labels.csv` inside or beside the
    folder with a column of files and a column of classes; or the labels that are given.

    Size: that of the pictures, if they are all of one size of at most 64 pixels a side. Else the size of more than half of
    them, or a square of their middle short side; at most 64, in whole eights where anything is scaled. Give `size` to decide.

    Channels: one if all are gray (16 bits if any has them), else three; four if any picture looked at is not opaque; as many as
    an array's last axis or a gray .tif's pages.

    Args:
        folder: where they are.
        labels: the path of a table of classes (.csv); one label a picture in the order of names, as a list or the path of a
            .npy; None to find out; False for none.
        size: (H, W), or one number for a square, in pixels.
        channels: 1 gray, 3 colour, 4 colour and transparency.
        skip_bad: leave out files that cannot be decoded; every file is then decoded once on opening, which takes time.
        least: how many pictures there must be.

    Attributes:
        name: what errors call it.
        layout: what every picture is brought to.

    Raises:
        DataError: no pictures, damaged ones, some that do not go together, or a table that does not fit them.

    Checked by: tests/codecs/test_folder.py
    """

    def __init__(
        self,
        folder: str | Path,
        labels: Any = None,
        *,
        size: Any = None,
        channels: Any = None,
        skip_bad: bool = False,
        least: int = 2,
    ):
        self.folder = Path(folder)
        self.name = f"{self.folder.name}/"
        self._notes: list[tuple[str, str]] = []
        found = self._scan()
        self._names, headers = self._checked(found, skip_bad)
        self.layout = self._decide(headers, _size(size), channels)
        if skip_bad:
            self._leave_out_undecodable()
        if len(self) < least:
            raise DataError(f"{self.folder} holds {len(self)} picture that can be read; give at least {least}")
        self._labels = self._find_classes(labels)
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._names)

    @property
    def labels(self) -> list[Any] | None:
        """One class a picture, or None."""
        return self._labels

    def file(self, row: Any) -> Path:
        """The file of a row."""
        return self.folder / self._names[int(row)]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, in this order: shape (N, H, W) or (N, H, W, C).

        Raises:
            DataError: a file that cannot be decoded, by name.
        """
        out = np.empty((len(rows), *self.layout.shape), dtype=self.layout.dtype)

        def read(i: int) -> None:
            try:
                out[i] = pixels(self.file(rows[i]), self.layout)
            except DataError as error:
                file = self.file(rows[i])
                raise DataError(
                    f"{file} cannot be read: {error}. Repair or remove it, or open the folder with skip_bad=True, "
                    "which decodes every picture first and leaves out those that fail"
                ) from error

        each(read, len(rows))
        return out

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One permutation of all pictures, in pieces."""
        yield from pieces(rng.permutation(len(self)))

    def digest(self) -> str:
        """sha256 of the files' names, sizes and both ends, of what they are brought to, and of their classes.

        128 MiB at most are read: the ends are 64 KiB long in a folder of up to 1024 files, and shorter in a larger one. Times
        of change do not count, so a copy is the same data.

        Raises:
            DataError: a file that is gone.
        """
        if self._digest is None:
            self._digest = self._digested()
        return self._digest

    def describe(self) -> list[tuple[str, str]]:
        """What was found and what was decided, in words."""
        classes = "no classes"
        if self._labels is not None:
            counts = Counter(self._labels)
            shown = ", ".join(f"{label} ({count})" for label, count in counts.most_common(8))
            classes = f"{len(counts)} classes: {shown}{', ...' if len(counts) > 8 else ''}"
        return [("data", f"{self.folder}, {len(self)} pictures, read from disk as needed"), ("classes", classes), *self._notes]

    def _scan(self) -> Names:
        """Every file that a suffix says is a picture, sorted; hidden files and folders are passed over."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is no folder; give a folder of pictures")
        found, others, empty = Names(), Counter(), []
        for root, folders, files in os.walk(self.folder):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
            inside = Path(root).relative_to(self.folder)
            pictures = [f for f in sorted(files) if not f.startswith(".") and f.lower().endswith(SUFFIXES)]
            for file in pictures:
                found.append((inside / file).as_posix())
            others.update(Path(f).suffix.lower() or f for f in files if not f.startswith("."))
            if not pictures and not folders and inside.parts:
                empty.append(inside.as_posix())
        if not len(found):
            seen = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5)) or "nothing"
            raise DataError(
                f"{self.folder} holds no pictures ({', '.join(SUFFIXES)}), but {seen}; give the folder that has the pictures "
                "in it or in its sub-folders, or one file of data"
            )
        if empty:
            self._note("left out", f"folders without pictures: {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")
        return found

    def _checked(self, found: Names, skip_bad: bool) -> tuple[Names, Counter[Header]]:
        """The names whose headers can be read, and how often each header occurs."""
        good, headers, bad = Names(), Counter(), []
        self._with_alpha = array("l")
        for name in found:
            try:
                seen = header(self.folder / name)
            except DataError as error:
                bad.append(f"{name} ({error})")
                continue
            headers[seen] += 1
            if seen.alpha:
                self._with_alpha.append(len(good))
            good.append(name)
        self._refuse(bad, len(found), skip_bad)
        return good, headers

    def _leave_out_undecodable(self) -> None:
        """Keep the names that can be decoded."""
        problems: list[str | None] = [None] * len(self)

        def read(i: int) -> None:
            try:
                pixels(self.file(i), self.layout)
            except DataError as error:
                problems[i] = f"{self._names[i]} ({error})"

        each(read, len(self))
        self._refuse([problem for problem in problems if problem], len(self), True)
        self._names = Names(name for name, problem in zip(self._names, problems, strict=True) if not problem)

    def _refuse(self, bad: list[str], total: int, skip_bad: bool) -> None:
        if not bad:
            return
        shown = "; ".join(bad[:3]) + ("; ..." if len(bad) > 3 else "")
        if not skip_bad or len(bad) == total:
            raise DataError(
                f"{len(bad)} of {total} files in {self.folder} cannot be read as pictures: {shown}. Repair or remove them, or "
                "leave them out with skip_bad=True"
            )
        self._note("left out", f"{len(bad)} of {total} files that cannot be read: {shown}")

    def _decide(self, headers: Counter[Header], size: tuple[int, int] | None, channels: Any) -> Layout:
        """What all pictures are brought to; notes say so."""
        if len({h.array for h in headers}) > 1:
            raise DataError(f"{self.folder} holds pictures and .npy arrays; give a folder of one kind")
        height, width = self._decide_size(headers, size)
        if any(h.array for h in headers):
            kinds = {(h.channels, h.dtype) for h in headers}
            if len(kinds) > 1 or channels not in (None, *(c for c, _ in kinds)):
                raise DataError(
                    f"the .npy files in {self.folder} hold {_listed(f'{c} channels of {d}' for c, d in kinds)}, channels "
                    f"asked for: {channels}; all must have one last axis and one type"
                )
            return Layout(height, width, *next(iter({(c, False, False, d) for c, d in kinds})), True)
        if channels not in (None, 1, 3, 4):
            raise DataError(
                f"channels={channels!r} is not understood for pictures; give 1 (gray), 3 (colour) or 4 (and transparency)"
            )
        counts = {h.channels for h in headers}
        if counts - {1, 3} and len(counts) > 1 and channels is None:
            raise DataError(
                f"the pictures in {self.folder} have {_listed(map(str, counts))} pages or channels; give files of one kind, or "
                "channels=1 to read the first page"
            )
        base = max(counts) if channels is None else min(channels, 3)
        alpha = channels == 4 or (channels is None and self._transparent())
        depths = {h.dtype for h in headers}
        if "float32" in depths and len(depths) > 1:
            raise DataError(f"{self.folder} mixes pictures of floating numbers with pictures of whole ones; give one kind")
        deep = "uint16" in depths and not alpha and (base != 3 or len(depths) == 1)
        deepest = "float32" if "float32" in depths else "uint16" if deep else "uint8"
        if "uint16" in depths and len(depths) > 1:
            how = "8-bit values are stretched to 16 bits" if deepest == "uint16" else "16-bit values are cut to 8 bits"
            self._note("bits", f"8 and 16 bits are mixed; {how}")
        if counts == {1, 3} and base == 3:
            self._note("channels", "gray and colour are mixed; gray becomes colour")
        elif base == 1 and 3 in counts:
            self._note("channels", "colour becomes gray, as asked")
        return Layout(height, width, base + alpha, alpha, channels is not None, deepest, False)

    def _decide_size(self, headers: Counter[Header], size: tuple[int, int] | None) -> tuple[int, int]:
        sizes: Counter[tuple[int, int]] = Counter()
        for h, count in headers.items():
            sizes[h.height, h.width] += count
        common, most = max(sizes.items(), key=lambda item: (item[1], item[0]))
        total = sizes.total()
        if size is None:
            if 2 * most > total:
                size = rounded_size(*common, CAP)
            else:
                sides = np.repeat([min(s) for s in sizes], list(sizes.values()))
                side = int(np.sort(sides)[(len(sides) - 1) // 2])
                side = min(CAP, side // 8 * 8 or side)
                size = (side, side)
        if len(sizes) == 1 and size == common:
            self._note("size", f"{size[0]} x {size[1]}, as they are")
        else:
            shape = (
                f"all of {common[0]} x {common[1]}"
                if len(sizes) == 1
                else f"{len(sizes)} sizes, most often {common[0]} x {common[1]}"
            )
            self._note("size", f"{size[0]} x {size[1]}: pictures ({shape}) are scaled to cover it and cut to the middle")
        return size

    def _transparent(self) -> bool:
        """Whether any picture looked at is not opaque."""
        if not self._with_alpha:
            return False
        looked, layout = 0, Layout(8, 8, 4, True, False, "uint8", False)
        for row in np.random.default_rng(0).permutation(np.asarray(self._with_alpha))[:LOOKED_AT]:
            try:
                if pixels(self.file(row), layout)[..., 3].min() < 255:
                    self._note("channels", "transparency is kept as the last channel")
                    return True
            except DataError:
                continue  # a file that cannot be decoded is named when it is read, or left out with skip_bad
            looked += 1
        self._note("channels", f"transparency is dropped: each of the {looked} pictures looked at is opaque")
        return False

    def _find_classes(self, labels: Any) -> list[Any] | None:
        """The class of each picture, or None; equal names are one object, so that a row costs eight bytes."""
        if labels is False:
            return None
        if labels is None:
            for table in (self.folder / "labels.csv", self.folder.parent / "labels.csv"):
                if table.is_file():
                    labels = table
                    break
        if isinstance(labels, (str, Path)) and str(labels).lower().endswith(".npy"):
            labels = read_labels(labels, len(self))
        if isinstance(labels, (str, Path)):
            given = read_classes(Path(labels), list(self._names), self.folder)
        elif labels is not None:
            given = checked_labels(labels, len(self), self.name) or []
        else:
            tops = {name.split("/", 1)[0] if "/" in name else "" for name in self._names}
            if "" in tops or len(tops) < 2:
                if len(tops) > 1:
                    self._note("classes", "pictures lie in sub-folders and beside them, so sub-folders are no classes")
                return None
            given = (name.split("/", 1)[0] for name in self._names)
        one: dict[Any, Any] = {}
        return [one.setdefault((type(label), label), label) for label in given]

    def _digested(self) -> str:
        digest = hashlib.sha256(str(self.layout).encode())
        length = max(1, min(END, HASHED // (2 * len(self))))
        for i, name in enumerate(self._names):
            try:
                size, content = _ends(self.file(i), length)
            except OSError as error:
                raise DataError(
                    f"{self.file(i)} cannot be read ({error.strerror}); put it back, or open the folder anew"
                ) from error
            label = None if self._labels is None else self._labels[i]
            digest.update(f"{name} {size} {label!r}\n".encode("utf-8", "surrogateescape") + content)
        return digest.hexdigest()

    def _note(self, what: str, words: str) -> None:
        self._notes.append((what, words))


def _ends(file: Path, length: int) -> tuple[int, bytes]:
    """A file's size, and its first and last `length` bytes."""
    with open(file, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(length)
        if size > length:
            stream.seek(max(length, size - length))
            content += stream.read(length)
    return size, content


def _size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 1 for side in pair):
        raise DataError(f"size={size!r} is not understood; give (height, width) in pixels, or one whole number for a square")
    return pair[0], pair[1]


def _listed(items: Iterable[str]) -> str:
    return " and ".join(sorted(items))


def each(work: Callable[[int], None], n: int) -> None:
    """`work` on 0..n-1, on as many threads as there are processors: Pillow's decoders let other threads run.

    The first failure, in order, is raised.
    """
    threads = min(8, os.cpu_count() or 1, n // 8)
    if threads < 2:
        for i in range(n):
            work(i)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(n)))
