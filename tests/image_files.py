"""Images generated from a seed, and a file that declares more pixels than it has."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image


def make_image(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Return noise that depends only on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """Return a valid 1-bit PNG that declares any size and has almost no data."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
