"""The elements of a DICOM file: only those that are asked for ever leave it.

A reader of its own, because it keeps no other element even for a moment, says nothing of what it reads, and needs
memory and time in proportion to the file whatever the file says. Tested against pydicom on pydicom's own files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hilum.errors import ImageError

PREAMBLE = 128
DICOM_HEAD = PREAMBLE + 4
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
META_CLASS, META_SYNTAX = 0x00020002, 0x00020010
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
MAX_ELEMENTS = 100_000
MAX_DEPTH = 16
MAX_INFLATED, MAX_INFLATED_HEADER = 256 * 2**20, 16 * 2**20
INFLATED_AT_ONCE = 2**16
MAX_VALUE = 2**20
LARGEST_GROUP = 0x0400  # a first group above this one was written in the other byte order
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

Wanted = Mapping[int, "Wanted | None"]
Elements = dict[int, bytes | list["Elements"]]


class Source(Protocol):
    """Bytes that are read from anywhere, as from a binary file."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes, fewer at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a byte, counted from the beginning (0), from here (1) or from the end (2)."""

    def tell(self) -> int:
        """Return where the next byte is read."""


class Place(NamedTuple):
    """Where the pixel data lie: value representation, first byte, and length or ``UNDEFINED``."""

    vr: bytes
    start: int
    length: int


@dataclass(frozen=True)
class DicomFile:
    """What was asked for of one file.

    ``elements``: tag → bytes as stored, or a list of items; ``pixels``: None where the file has no Pixel Data;
    ``source``: where they are read from, the file itself or what it inflates to.
    """

    syntax: str
    little: bool
    elements: Elements
    pixels: Place | None
    source: Source


def is_dicom(head: bytes) -> bool:
    """Tell whether a file begins as DICOM does, with its preamble or, as some archives write it, without."""
    if head[PREAMBLE:DICOM_HEAD] == b"DICM":
        return True
    if len(head) < PREAMBLE:
        return False
    little = head[:2] in (b"\x02\0", b"\x08\0")
    return (little and head[3] == 0) or (head[:2] == b"\0\x08" and head[2] == 0 and _is_vr(head[4:6]))


def read_elements(source: Source, wanted: Wanted) -> DicomFile:
    """Read the elements ``wanted`` (tag → None, or what is wanted of the items of a sequence) before the pixels.

    Raises ``ImageError`` for a file that ends early, or that is nested or inflated beyond what a radiograph needs.
    """
    size = source.seek(0, 2)
    source.seek(0)
    source.seek(DICOM_HEAD if source.read(DICOM_HEAD)[PREAMBLE:] == b"DICM" else 0)
    meta = _Walk(source, explicit=True, little=True).elements(size, {META_CLASS: None, META_SYNTAX: None}, group=2)
    syntax = text_of(meta.get(META_SYNTAX, b""))
    inflated = _Inflated(source, MAX_INFLATED_HEADER) if syntax == DEFLATED else None
    source, size = (inflated, MAX_INFLATED) if inflated else (source, size)
    explicit, little = _coding(source, syntax)
    walk = _Walk(source, explicit, little)
    elements = walk.elements(size, wanted)
    if inflated:
        inflated.limit = MAX_INFLATED
    return DicomFile(syntax, little, {**meta, **elements}, walk.pixels, source)


def read_fragments(file: DicomFile) -> list[bytes]:
    """Return the fragments of compressed pixel data after the table of offsets; raises ``ImageError``."""
    assert file.pixels is not None
    source = file.source
    size = source.seek(0, 2)
    source.seek(file.pixels.start)
    fragments: list[bytes] = []
    while source.tell() + 8 <= size and len(fragments) < MAX_ELEMENTS:
        tag, length = _item_head(source.read(8), "<")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or source.tell() + length > size:
            raise ImageError("truncated or damaged: the compressed pixel data end early")
        fragments.append(source.read(length))
    if len(fragments) < 2:
        raise ImageError("truncated or damaged: no compressed pixel data")
    return fragments[1:]


def text_of(value: object) -> str:
    """Return an element's bytes as text; '' for a sequence."""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


class _Walk:
    """One pass over the elements of a data set; ``pixels`` is set where it ends."""

    def __init__(self, source: Source, explicit: bool, little: bool) -> None:
        self.source = source
        self.explicit = explicit
        self.order = "<" if little else ">"
        self.pixels: Place | None = None
        self._seen = 0

    def elements(self, end: int, wanted: Wanted, group: int | None = None, depth: int = 0) -> Elements:
        """Return what is wanted up to the byte ``end``, the end of the item or the pixel data."""
        found: Elements = {}
        while (start := self.source.tell()) + 8 <= end and (head := self._head()):
            tag, vr, length = head
            if group not in (None, tag >> 16):
                self.source.seek(start)
                break
            if tag in (ITEM_END, SEQUENCE_END):
                break
            if tag == PIXEL_DATA and depth == 0:
                self.pixels = Place(vr, self.source.tell(), length)
                break
            inside = wanted.get(tag)
            stop = end if length == UNDEFINED else self.source.tell() + length
            if stop > end:
                raise ImageError("truncated or damaged: an element ends beyond the file")
            if length == UNDEFINED or inside is not None:
                items = self._items(stop, inside or {}, depth + 1)
                if inside is not None:
                    found[tag] = items
            elif tag in wanted and length <= MAX_VALUE:
                found[tag] = self.source.read(length)
            if length != UNDEFINED:
                self.source.seek(stop)
        return found

    def _items(self, end: int, wanted: Wanted, depth: int) -> list[Elements]:
        if depth > MAX_DEPTH:
            raise ImageError(f"truncated or damaged: sequences are nested more than {MAX_DEPTH} deep")
        items = []
        while self.source.tell() + 8 <= end:
            self._count()
            tag, length = _item_head(self.source.read(8), self.order)
            if tag != ITEM:
                break
            stop = end if length == UNDEFINED else self.source.tell() + length
            if stop > end:
                raise ImageError("truncated or damaged: an item ends beyond its sequence")
            if length == UNDEFINED or wanted:
                items.append(self.elements(stop, wanted, depth=depth))
            if length != UNDEFINED:
                self.source.seek(stop)
        return items

    def _head(self) -> tuple[int, bytes, int] | None:
        """Return tag, value representation and length, None at the end of what is inflated.

        One without a representation is read as implicit.
        """
        self._count()
        head = self.source.read(8)
        if not head:
            return None
        group, element, length = struct.unpack(f"{self.order}HHI", head)
        vr = head[4:6] if self.explicit and _is_vr(head[4:6]) else b""
        if vr in _LONG:
            (length,) = struct.unpack(f"{self.order}I", self.source.read(4).ljust(4, b"\xff"))
        elif vr:
            (length,) = struct.unpack(f"{self.order}H", head[6:])
        return group << 16 | element, vr, length

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_ELEMENTS:
            raise ImageError(f"truncated or damaged: more than {MAX_ELEMENTS:,} elements before the pixels")


def _item_head(head: bytes, order: str) -> tuple[int, int]:
    group, element, length = struct.unpack(f"{order}HHI", head)
    return group << 16 | element, length


def _is_vr(pair: bytes) -> bool:
    return len(pair) == 2 and pair.isalpha() and pair.isupper()


def _coding(source: Source, syntax: str) -> tuple[bool, bool]:
    """Return whether the data set is explicit, told from its first element, and whether it is little-endian."""
    head = source.read(6)
    source.seek(-len(head), 1)
    explicit = _is_vr(head[4:6])
    swapped = not syntax and explicit and int.from_bytes(head[:2], "little") >= LARGEST_GROUP
    return explicit, syntax != BIG_ENDIAN and not swapped


class _Inflated:
    """A deflated data set, inflated as far as it is read and never beyond ``limit`` bytes."""

    def __init__(self, source: Source, limit: int) -> None:
        self.limit = limit
        self._source = source
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._held = bytearray()
        self._at = 0

    def read(self, size: int, /) -> bytes:
        self._reach(self._at + size)
        data = bytes(self._held[self._at : self._at + size])
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 2:
            self._reach(self.limit)
        self._at = offset + (0, self._at, len(self._held))[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def _reach(self, end: int) -> None:
        if end > self.limit:
            raise ImageError(f"too large: expected at most {self.limit // 2**20} MiB of inflated data; found more")
        while len(self._held) < end and not self._inflate.eof:
            deflated = self._inflate.unconsumed_tail or self._source.read(INFLATED_AT_ONCE)
            try:
                part = self._inflate.decompress(deflated, INFLATED_AT_ONCE)
            except zlib.error:
                raise ImageError("truncated or damaged: the deflated data set cannot be inflated") from None
            if not deflated and not part:
                break
            self._held += part
