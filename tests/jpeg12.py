"""JPEG of 12 bits, written from the standard (ITU-T T.81) alone: an oracle, for no encoder at hand writes it.

Sequential DCT, one component, plain tables: every DC category has a code of 5 bits, every AC symbol one of 9.
"""

from __future__ import annotations

import struct

import numpy as np
from scipy.fft import dctn

ZIGZAG = sorted(range(64), key=lambda k: (k // 8 + k % 8, (k // 8) if (k // 8 + k % 8) % 2 else (k % 8)))
DC = list(range(16))
AC = [0x00, 0xF0, *(run << 4 | size for run in range(16) for size in range(1, 15))]
END, SIXTEEN_ZEROS = 0x00, 0xF0


def encode(values, step=4):
    """Return the stream of values (H, W) of 12 bits, all frequencies quantized by ``step``."""
    height, width = values.shape
    frame = struct.pack(">BHHBBBB", 12, height, width, 1, 1, 0x11, 0)
    tables = b"\x00" + _lengths(DC, 5) + bytes(DC) + b"\x10" + _lengths(AC, 9) + bytes(AC)
    quantization = b"\x00" + bytes([step] * 64)
    head = _segment(0xDB, quantization) + _segment(0xC1, frame) + _segment(0xC4, tables)
    scan = _segment(0xDA, bytes((1, 1, 0x00, 0, 63, 0)))
    return b"\xff\xd8" + head + scan + _entropy(values, step) + b"\xff\xd9"


def _segment(marker, payload):
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


def _lengths(symbols, bits):
    return bytes(len(symbols) if length == bits else 0 for length in range(1, 17))


def _entropy(values, step):
    padded = np.pad(values.astype(float) - 2048, [(0, -side % 8) for side in values.shape], mode="edge")
    rows, columns = padded.shape
    blocks = padded.reshape(rows // 8, 8, columns // 8, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    levels = np.rint(dctn(blocks, axes=(1, 2), norm="ortho") / step).astype(int).reshape(-1, 64)[:, ZIGZAG]
    bits, before = [], 0
    for block in levels.tolist():
        bits += _coded(0, DC, 5, block[0] - before)
        before = block[0]
        zeros = 0
        for level in block[1:]:
            if level == 0:
                zeros += 1
                continue
            bits += [f"{AC.index(SIXTEEN_ZEROS):09b}"] * (zeros // 16)
            bits += _coded(zeros % 16, AC, 9, level)
            zeros = 0
        if zeros:
            bits.append(f"{AC.index(END):09b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")


def _coded(run, symbols, bits, level):
    size = abs(level).bit_length()
    code = f"{symbols.index(run << 4 | size):0{bits}b}"
    return [code, f"{level if level > 0 else level + 2**size - 1:0{size}b}"] if size else [code]
