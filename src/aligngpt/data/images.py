"""Decoding of untrusted images: refused from their header where possible, always RGB."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile

from aligngpt.data.schema import BadImage
from aligngpt.utils.text import one_line

MAX_PIXELS = 100_000_000
MAX_ASPECT_RATIO = 200
MAX_BYTES = 1 << 28

# Formats of photographs. Others are excluded on purpose: some, such as EPS, start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_HEADER_BYTES = 1 << 16
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The margin of the stored image, right (r) or bottom (b), that is left, top, right and bottom of the upright one.
_MARGINS = {1: "00rb", 2: "r00b", 3: "rb00", 4: "0br0", 5: "00br", 6: "b00r", 7: "br00", 8: "0rb0"}
_quiet_lock = threading.Lock()


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image, possibly decoded at a fraction of its size.

    Attributes:
        image: The pixels at full size, or at 1/2, 1/4 or 1/8 of each side.
        box: Left, top, right and bottom edge of the content in `image`, in its pixels: fractional if the fraction does
            not divide a side.
        size: (width, height) of the full image.
    """

    image: Image.Image
    box: tuple[float, float, float, float]
    size: tuple[int, int]


def decode_image(data: bytes, name: str = "", *, at_least: int | None = None) -> DecodedImage:
    """Decode an image that will be scaled down, as `load_image` does.

    A JPEG far larger than needed is decoded at a fraction of its size, which is faster. Scaled down from `box` to half
    of `at_least` or less, it differs from the full image scaled down by 0.4 of 255 on average, and by at most 1.5 on
    average within one image (measured on photographs, tested).

    Args:
        data: The content of a file.
        name: Its name, for error messages.
        at_least: Pixels that the shorter side has to keep; `None` decodes the full image.

    Raises:
        BadImage: As `load_image`.
    """
    if not data:
        raise BadImage("empty (0 bytes)")
    with _read_header(io.BytesIO(data), Path(name).suffix) as image:
        size = image.size
        width, height = map(float, size)
        if at_least is not None and image.format in ("JPEG", "MPO"):
            reduced = image.draft(image.mode, (at_least, at_least))
            _, _, width, height = (0, 0, *size) if reduced is None else reduced[1]
        margins = {"0": 0.0, "r": image.width - width, "b": image.height - height}
        rgb, orientation = _upright_rgb(image)
    left, top, right, bottom = (margins[side] for side in _MARGINS[orientation])
    box = (left, top, rgb.width - right, rgb.height - bottom)
    return DecodedImage(rgb, box, size[::-1] if orientation >= 5 else size)


def load_image(path: str | os.PathLike[str] | bytes) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    The EXIF orientation is applied, of an animation the first frame is used, 16-bit gray is scaled by 1/257, alpha is
    dropped (not blended), CMYK and palettes are converted. Thread-safe.

    Args:
        path: The file, or its content.

    Returns:
        A decoded image of mode RGB without an open file.

    Raises:
        BadImage: The file is missing, empty, not an image, of over 100 million pixels, truncated, or one side is over
            200 times the other.
    """
    if isinstance(path, bytes):
        return decode_image(path).image
    with _open_file(path) as file, _read_header(file, Path(path).suffix) as image:
        return _upright_rgb(image)[0]


def read_encoded(path: str | os.PathLike[str]) -> bytes:
    """Read the file of an image without decoding it.

    Raises:
        BadImage: It is missing, empty, not a file, or larger than 256 MB.
    """
    with _open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise BadImage(f"file of over {MAX_BYTES >> 20} MB: too large for one image")
        return file.read()


def check_header(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read only the header of an image, which finds all that `load_image` refuses except damaged content.

    Returns:
        (width, height) as stored, before the EXIF orientation.

    Raises:
        BadImage: As `load_image`.
    """
    with _open_file(path) as file:
        return _read_header(file, Path(path).suffix).size


def _open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            return open(path, "rb", buffering=_HEADER_BYTES)
    except FileNotFoundError:
        raise BadImage("no such file") from None
    except (OSError, ValueError) as error:  # no permission, a name too long, a name with a null character
        raise BadImage(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    raise BadImage("empty file (0 bytes)" if stat.S_ISREG(status.st_mode) else "not a regular file")


def _identify(file: IO[bytes], suffix: str) -> ImageFile.ImageFile:
    """Read the header with the first format that accepts the file's first bytes.

    `Image.open` does the same but warns about images above 89 megapixels. Silencing the warning around every call is
    not thread-safe, and each change of the filters makes all once-only warnings appear again.
    """
    Image.init()
    prefix = file.read(16)
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(prefix) is not True):
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except Exception as error:  # a header may hold anything
            raise BadImage(f"not a readable {name} image: {one_line(error)}") from error
    raise BadImage(f"not an image, although its name ends in {suffix}" if suffix else "not an image")


def _read_header(file: IO[bytes], suffix: str) -> ImageFile.ImageFile:
    """Return the image with its header read and checked, its content not yet decoded."""
    image = _identify(file, suffix)
    width, height = image.size
    if width * height < 2:
        raise BadImage(f"declares {width} x {height} pixels: a tracking pixel of a web page, not an image")
    if width * height > MAX_PIXELS:
        raise BadImage(f"decompression bomb: declares {width} x {height} pixels, more than {MAX_PIXELS:,}")
    # A processor that first scales the short side to 224 would turn a strip of 1 x 20,000 into gigabytes.
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        raise BadImage(f"declares {width} x {height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")
    return image


def _upright_rgb(image: ImageFile.ImageFile) -> tuple[Image.Image, int]:
    """Return the decoded image, and the EXIF orientation that was undone."""
    try:
        with _without_bomb_warning(image):
            image.load()
        rgb, orientation = _to_rgb(image), _orientation(image)
    except BadImage:
        raise
    except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
        raise BadImage(f"truncated or damaged {image.format} image: {one_line(error)}") from error
    return (rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb), orientation


@contextmanager
def _without_bomb_warning(image: Image.Image) -> Iterator[None]:
    """Silence PIL's warning for images between its limit and ours, the only ones for which it can appear."""
    if Image.MAX_IMAGE_PIXELS is None or image.width * image.height <= Image.MAX_IMAGE_PIXELS:
        yield
        return
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((gray + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage(f"32-bit grayscale (mode {image.mode}) has no defined white: store it with 8 or 16 bits")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")  # directly to RGB, PIL warns about transparent palettes
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 by default."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing about the image
        return 1
    return orientation if orientation in _UPRIGHT else 1
