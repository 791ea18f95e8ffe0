"""Images are read upright, in RGB and with true brightness, or refused with the reason."""

from __future__ import annotations

import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligngpt.data.images import check_header, decode_image, load_image, read_encoded
from aligngpt.data.indexed import open_pairs
from aligngpt.data.schema import BadImage
from aligngpt.data.sources import open_source
from tests.image_files import make_image, png_header

BAD_HEADERS = [
    ("missing.jpg", "no such file"),
    ("empty.jpg", "empty file (0 bytes)"),
    ("text.jpg", "not an image, although its name ends in .jpg"),
    ("bomb.png", "decompression bomb: declares 30000 x 30000 pixels, more than 100,000,000"),
    ("folder.png", "not a regular file"),
    ("a\0b.png", "cannot be read: embedded null byte"),
    ("x" * 300, "cannot be read: File name too long"),
]


@pytest.mark.parametrize(("name", "reason"), BAD_HEADERS)
@pytest.mark.parametrize("read", [load_image, check_header])
def test_bad_files_are_refused_from_their_header(images: Path, read, name: str, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        read(images / name)
    assert str(caught.value) == reason


def test_a_truncated_image_is_found_by_decoding_only(images: Path) -> None:
    assert check_header(images / "truncated.jpg") == (200, 200)
    with pytest.raises(BadImage, match="truncated or damaged JPEG image: image file is truncated"):
        load_image(images / "truncated.jpg")


def test_a_truncated_png_is_refused(tmp_path: Path) -> None:
    make_image(0, (64, 64)).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    for length in (20, 40, 500, len(content) - 200):
        (tmp_path / "x.png").write_bytes(content[:length])
        with pytest.raises(BadImage, match="PNG"):
            load_image(tmp_path / "x.png")


def test_size_limits_are_inclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(0, (20, 10)).save(tmp_path / "x.png")
    monkeypatch.setattr("aligngpt.data.images.MAX_PIXELS", 200)
    assert load_image(tmp_path / "x.png").size == (20, 10)
    monkeypatch.setattr("aligngpt.data.images.MAX_PIXELS", 199)
    with pytest.raises(BadImage, match="declares 20 x 10 pixels, more than 199"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(201, 1), (1, 201)])
def test_strips_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    make_image(0, size).save(tmp_path / "x.png")
    with pytest.raises(BadImage, match="one side is over 200 times the other"):
        check_header(tmp_path / "x.png")


@pytest.mark.filterwarnings("error")
def test_large_images_give_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.png").write_bytes(png_header(9_900, 10_000))  # PIL warns above 89.5 megapixels
    assert check_header(tmp_path / "large.png") == (9_900, 10_000)
    (tmp_path / "larger.png").write_bytes(png_header(12_000, 10_000))
    with pytest.raises(BadImage, match="bomb"):
        load_image(tmp_path / "larger.png")
    make_image(0).save(tmp_path / "x.tiff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # TIFF checks again while it decodes
    filters = list(warnings.filters)
    assert load_image(tmp_path / "x.tiff").size == (40, 30)
    assert warnings.filters == filters


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff", "ppm"])
def test_common_formats_become_rgb(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / f"x.{suffix}")
    image = load_image(tmp_path / f"x.{suffix}")
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(image, int) - (255, 0, 0)).max() <= 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 100, "png", (100, 100, 100)),
        ("LA", (100, 0), "png", (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), "png", (10, 20, 30)),
        ("CMYK", (0, 0, 0, 255), "tiff", (0, 0, 0)),
    ],
)
def test_modes_become_rgb(tmp_path: Path, mode: str, color, suffix: str, expected: tuple[int, int, int]) -> None:
    Image.new(mode, (4, 3), color).save(tmp_path / f"x.{suffix}")
    assert load_image(tmp_path / f"x.{suffix}").getpixel((2, 1)) == expected


@pytest.mark.filterwarnings("error")
def test_a_transparent_palette_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "x.png", transparency=b"\x00\x80")
    assert load_image(tmp_path / "x.png").getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path: Path, suffix: str, mode: str) -> None:
    gray = np.array([[0, 257, 128 * 257, 65535, 128, 129]], np.uint16)
    if suffix == "ppm":
        (tmp_path / "x.ppm").write_bytes(b"P5 6 1 65535\n" + gray.astype(">u2").tobytes())
    else:
        content = gray.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        Image.frombytes(mode, (6, 1), content).save(tmp_path / f"x.{suffix}")
    assert np.asarray(load_image(tmp_path / f"x.{suffix}"))[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_gray_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3), 70_000).save(tmp_path / "x.tiff")
    with pytest.raises(BadImage, match=f"mode {mode}"):
        load_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = make_image(0, (3, 2))
    stored.save(tmp_path / "x.png", exif=exif)
    pixels = np.asarray(stored)
    upright = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels[::-1].swapaxes(0, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels[:, ::-1].swapaxes(0, 1),
    }.get(orientation, pixels)
    assert np.array_equal(np.asarray(load_image(tmp_path / "x.png")), upright)


def test_a_damaged_exif_block_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(0, (16, 8)).save(tmp_path / "x.jpg", exif=b"Exif\0\0nonsense")
    assert load_image(tmp_path / "x.jpg").size == (16, 8)

    def fail(image: Image.Image) -> None:
        raise SyntaxError("not a TIFF header")  # what some releases of PIL do

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert load_image(tmp_path / "x.jpg").size == (16, 8)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "x.gif").getpixel((0, 0)) == (255, 0, 0)


def test_an_image_of_one_pixel_is_refused(tmp_path: Path) -> None:
    make_image(0, (1, 1)).save(tmp_path / "x.png")
    with pytest.raises(BadImage, match="declares 1 x 1 pixels: a tracking pixel"):
        load_image(tmp_path / "x.png")


def encoded(image: Image.Image, **settings) -> bytes:
    content = io.BytesIO()
    image.save(content, **{"format": "JPEG", "quality": 95, "subsampling": 0, **settings})
    return content.getvalue()


def smooth(size: tuple[int, int]) -> Image.Image:
    """An image without fine detail, none of whose symmetries hold."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    channels = [across, down**2, np.abs(across - 0.3 * down)]
    return Image.fromarray((255 * np.stack(channels, axis=-1)).astype(np.uint8))


def test_bytes_are_read_as_files_are(images: Path) -> None:
    for name in ("0.png", "whole.jpg"):
        result = decode_image(read_encoded(images / name), name)
        whole = load_image(images / name)
        assert np.array_equal(np.asarray(result.image), np.asarray(whole))
        assert (result.size, result.box) == (whole.size, (0, 0, *whole.size))
    for name, reason in BAD_HEADERS[1:4]:
        data = (images / name).read_bytes()
        with pytest.raises(BadImage) as caught:
            decode_image(data, name)
        assert str(caught.value) == reason.replace("empty file", "empty")


def test_only_jpegs_far_too_large_are_decoded_at_a_fraction() -> None:
    for size, at_least, fraction in [
        ((640, 480), 240, 2),
        ((640, 480), 241, 1),
        ((640, 480), 120, 4),
        ((640, 480), 8, 8),
        ((480, 640), 240, 2),
        ((640, 480), None, 1),
    ]:
        result = decode_image(encoded(smooth(size)), at_least=at_least)
        assert result.image.size == (size[0] // fraction, size[1] // fraction)
        assert result.size == size and result.box == (0, 0, size[0] / fraction, size[1] / fraction)
    assert decode_image(encoded(smooth((640, 480)), format="PNG"), at_least=8).image.size == (640, 480)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(640, 480), (643, 477)])
def test_a_fraction_equals_the_full_image_in_every_orientation(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(size), exif=exif)
    whole, part = decode_image(data), decode_image(data, at_least=100)
    assert part.size == whole.size == (size if orientation < 5 else size[::-1])
    assert part.image.width == -(-whole.size[0] // 4)
    left, top, right, bottom = part.box
    assert (right - left, bottom - top) == (whole.size[0] / 4, whole.size[1] / 4)
    scaled = [each.image.resize((48, 48), Image.Resampling.BICUBIC, box=each.box) for each in (whole, part)]
    difference = np.abs(np.asarray(scaled[0], int) - np.asarray(scaled[1], int))
    assert difference.max() <= 2  # without the box the edges of the odd size are off by up to 5


def test_fractions_of_photos_stay_within_the_stated_tolerance(photos: Path) -> None:
    means = []
    for path in sorted((photos / "images").glob("*.jpg")):
        data = path.read_bytes()
        for side in (96, 144):
            part = decode_image(data, at_least=2 * side)
            if part.image.size == part.size:
                continue
            scale = side / min(part.size)
            target = (round(part.size[0] * scale), round(part.size[1] * scale))
            scaled = [
                each.image.resize(target, Image.Resampling.BICUBIC, box=each.box) for each in (decode_image(data), part)
            ]
            means.append(np.abs(np.asarray(scaled[0], int) - np.asarray(scaled[1], int)).mean())
    assert len(means) > 40
    assert np.mean(means) < 0.4 and max(means) < 1.5


def test_cmyk_jpegs_and_animations_become_rgb_from_bytes_too() -> None:
    ink = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    result = decode_image(encoded(ink), at_least=8).image
    assert result.mode == "RGB" and result.size == (8, 8)
    assert np.abs(np.asarray(result, int) - (0, 255, 255)).max() <= 3
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = io.BytesIO()
    frames[0].save(content, format="WEBP", lossless=True, save_all=True, append_images=frames[1:])
    assert decode_image(content.getvalue()).image.getpixel((0, 0)) == (255, 0, 0)


def test_files_too_large_for_an_image_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aligngpt.data.images.MAX_BYTES", 1 << 20)
    with open(tmp_path / "x.tiff", "wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(BadImage, match="file of over 1 MB: too large"):
        read_encoded(tmp_path / "x.tiff")
    with pytest.raises(BadImage, match="no such file"):
        read_encoded(tmp_path / "gone.png")


def test_several_threads_read_equal_images(images: Path) -> None:
    names = [f"{number % 6}.png" for number in range(120)]
    alone = [np.asarray(load_image(images / name)).tobytes() for name in names]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: np.asarray(load_image(images / name)).tobytes(), names))
    assert together == alone


def test_broken_photos_are_distinguished_from_unusual_ones(photos: Path) -> None:
    known = json.loads((photos / "broken" / "broken.json").read_text())
    reasons = {}
    for entry in known:
        try:
            load_image(photos / "broken" / entry["image"])
        except BadImage as error:
            reasons[entry["image"]] = str(error)
    assert sorted(reasons) == sorted(entry["image"] for entry in known if not entry["readable"])
    for name, word in {"truncated": "truncated", "text": "not an image", "empty": "0 bytes", "huge": "bomb"}.items():
        assert next(reason for image, reason in reasons.items() if image.startswith(name)).find(word) >= 0
    gray = np.asarray(load_image(photos / "broken" / "grey16.png"))
    assert gray.shape == (141, 196, 3) and abs(gray.mean() - 118) < 1


def test_all_photos_are_read(photos: Path) -> None:
    names = sorted((photos / "images").iterdir())
    assert len(names) == 48
    assert {load_image(name).mode for name in names[::4]} == {"RGB"}
    assert all(min(check_header(name)) >= 96 for name in names)


def test_links_in_the_image_folder_are_followed(images: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train2017").symlink_to(images)  # a folder elsewhere
    (tmp_path / "own" / "a.png").symlink_to(images / "0.png")  # as in the cache of the Hugging Face hub
    values = [{"image": name, "caption": "x"} for name in ("a.png", "train2017/0.png", "../x.png", f"{images}/0.png")]
    (tmp_path / "pairs.json").write_text(json.dumps(values))
    pairs = open_pairs(open_source(tmp_path / "pairs.json", tmp_path / "own"))
    decoded = [np.asarray(load_image(tmp_path / "own" / pair.image)) for pair in pairs]
    assert len(decoded) == 2 and np.array_equal(decoded[0], decoded[1])
    reasons = ["image path leaves the image folder", "image path is absolute and not in the image folder"]
    assert [bad.reason for bad in pairs.bad] == reasons
