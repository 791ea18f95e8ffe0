"""Embed images and heat maps into a page as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from aligngpt.data.images import decode_image, read_encoded
from aligngpt.data.schema import RecordError, check_image_path

SIDE = 224  # longest side of an embedded image, in pixels
_LOSSLESS_SIDE = 128  # images up to this side are embedded as PNG
_QUALITY = 85
HEAT_MAP = "inferno"


def embed_thumbnail(source: Path | bytes | None, side: int = SIDE, quality: int | None = None) -> str | None:
    """Return an image as a data URI, or `None` if there is none or it cannot be read.

    Args:
        source: The file, or its content.
        side: Longest side in pixels; larger images are scaled down.
        quality: JPEG quality; by default, small images stay lossless.
    """
    image = _read(source, side)
    if image is None:
        return None
    return _encode_data_uri(image, quality or (None if max(image.size) <= _LOSSLESS_SIDE else _QUALITY))


def find_image_file(folder: Path, name: str) -> Path | None:
    """Return the file of an image by its path in a data set, or `None` if the path leads out of the folder."""
    try:
        return folder / check_image_path(name)
    except RecordError:
        return None


def embed_heat_map(path: Path | None, grid: tuple[int, int], values: Sequence[float]) -> str | None:
    """Return the grayscale image under a heat map as a data URI, or `None` if the image cannot be read.

    Args:
        grid: Rows and columns of image tokens.
        values: (rows * columns,) in row-major order, scaled from the minimum (dark) to the maximum (bright).
    """
    image = _read(path)
    if image is None:
        return None
    cells = np.asarray(values, dtype=float).reshape(grid)
    low, high = np.nanmin(cells), np.nanmax(cells)
    scaled = (cells - low) / (high - low) if high > low else np.zeros_like(cells)
    colors = (mpl.colormaps[HEAT_MAP](scaled)[..., :3] * 255).round().astype(np.uint8)
    factor = max(1, round(SIDE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    heat = Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)
    gray = image.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return _encode_data_uri(Image.blend(gray, heat, 0.62), _QUALITY)


def list_heat_colors() -> str:
    """Return the colors of the heat map from minimum to maximum, as CSS color stops."""
    return ", ".join(mpl.colors.to_hex(mpl.colormaps[HEAT_MAP](stop / 6)) for stop in range(7))


def _read(source: Path | bytes | None, side: int = SIDE) -> Image.Image | None:
    if source is None:
        return None
    try:
        decoded = decode_image(source if isinstance(source, bytes) else read_encoded(source), at_least=side)
    except (OSError, ValueError):
        return None
    scale = min(1.0, side / max(decoded.size))
    size = (max(1, round(scale * decoded.size[0])), max(1, round(scale * decoded.size[1])))
    return decoded.image.resize(size, box=decoded.box, reducing_gap=2.0)


def _encode_data_uri(image: Image.Image, quality: int | None) -> str:
    buffer = io.BytesIO()
    if quality is None:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality)
    kind = "png" if quality is None else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
