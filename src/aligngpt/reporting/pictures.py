"""Pictures as data URIs, and dot products laid over them, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from aligngpt.data.images import load_image

SIDE = 224  # the longest side that is kept, in pixels
_SMALL = 128  # pictures up to this side are kept losslessly
HEAT_MAP = "inferno"


def thumbnail(path: Path) -> str | None:
    """The picture as a data URI of at most `SIDE` pixels a side; `None` if it cannot be read."""
    image = _picture(path)
    return None if image is None else _data_uri(image, lossless=max(image.size) <= _SMALL)


def heat_map(path: Path, grid: tuple[int, int], dots: Sequence[float]) -> str | None:
    """The picture in gray under its dot products, as a data URI; `None` if the picture cannot be read.

    Args:
        grid: Rows and columns of image tokens.
        dots: (rows * columns,) in reading order, scaled from this picture's least (dark) to its greatest (bright).
    """
    image = _picture(path)
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
    return _data_uri(Image.blend(gray, heat, 0.62), lossless=False)


@cache
def heat_scale() -> str:
    """The heat map's colors from least to greatest, as CSS color stops."""
    return ", ".join(mpl.colors.to_hex(mpl.colormaps[HEAT_MAP](stop / 6)) for stop in range(7))


def _picture(path: Path) -> Image.Image | None:
    try:
        image = load_image(path)
    except (OSError, ValueError):
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def _data_uri(image: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
