"""Images as data URIs, and dot products laid over them, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from aligngpt.data.images import decode_image, read_encoded

SIDE = 224  # the longest side that is kept, in pixels
_SMALL = 128  # images up to this side are kept losslessly
_QUALITY = 85
HEAT_MAP = "inferno"


def thumbnail(source: Path | bytes, side: int = SIDE, quality: int | None = None) -> str | None:
    """An image as a data URI; `None` if it cannot be read.

    Args:
        source: Its file, or the content of one.
        side: The longest side that is kept, in pixels.
        quality: Of the JPEG, whatever the image's size; unless given, small images are kept as they are.
    """
    image = _image(source, side)
    if image is None:
        return None
    return _data_uri(image, quality or (None if max(image.size) <= _SMALL else _QUALITY))


def heat_map(path: Path, grid: tuple[int, int], dots: Sequence[float]) -> str | None:
    """The image in gray under its dot products, as a data URI; `None` if the image cannot be read.

    Args:
        grid: Rows and columns of image tokens.
        dots: (rows * columns,) in reading order, scaled from this image's least (dark) to its greatest (bright).
    """
    image = _image(path)
    if image is None:
        return None
    values = np.asarray(dots, dtype=float).reshape(grid)
    low, high = np.nanmin(values), np.nanmax(values)
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    colors = (mpl.colormaps[HEAT_MAP](scaled)[..., :3] * 255).round().astype(np.uint8)
    factor = max(1, round(SIDE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    heat = Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)
    gray = image.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return _data_uri(Image.blend(gray, heat, 0.62), _QUALITY)


@cache
def heat_scale() -> str:
    """The heat map's colors from least to greatest, as CSS color stops."""
    return ", ".join(mpl.colors.to_hex(mpl.colormaps[HEAT_MAP](stop / 6)) for stop in range(7))


def _image(source: Path | bytes, side: int = SIDE) -> Image.Image | None:
    """The image, scaled down to at most `side` pixels a side; `None` if it cannot be read."""
    try:
        decoded = decode_image(source if isinstance(source, bytes) else read_encoded(source), at_least=side)
    except (OSError, ValueError):
        return None
    scale = min(1.0, side / max(decoded.size))
    size = (max(1, round(scale * decoded.size[0])), max(1, round(scale * decoded.size[1])))
    return decoded.image.resize(size, box=decoded.box, reducing_gap=2.0)


def _data_uri(image: Image.Image, quality: int | None) -> str:
    buffer = io.BytesIO()
    if quality is None:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality)
    kind = "png" if quality is None else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
