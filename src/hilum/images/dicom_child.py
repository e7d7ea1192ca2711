"""A process that decodes one JPEG stream with GDCM: a crash, a hang or a bomb ends it and nothing else.

Arguments: transfer syntax, rows, columns, bits. The stream comes in on standard input, the cells leave on standard
output.
"""

from __future__ import annotations

import os
import resource
import sys
from importlib import import_module

MEMORY = 2**30
MEMORY_A_PIXEL = 16


def main(syntax: str, rows: int, columns: int, bits: int) -> None:
    """Limit the process, decode, and write what was decoded."""
    memory = MEMORY + MEMORY_A_PIXEL * rows * columns
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = os.dup(1)
    os.dup2(2, 1)
    data = decode(sys.stdin.buffer.read(), syntax, rows, columns, bits)
    with os.fdopen(answer, "wb") as out:
        out.write(data)


def decode(stream: bytes, syntax: str, rows: int, columns: int, bits: int) -> bytes:
    """Return the cells of a stream, of 8 bits or 16 little-endian; raises what GDCM raises."""
    gdcm = import_module("gdcm")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 8 if bits <= 8 else 16, bits, bits - 1, 0))
    # GDCM returns its bytes as text, with those that are no text as surrogates.
    cells: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    return cells


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:]))
