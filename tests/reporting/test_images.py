"""Images become data URIs; dot products land where their tokens are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from aligngpt.reporting.images import SIDE, embed_heat_map, embed_thumbnail, list_heat_colors


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_a_small_image_is_kept_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    uri = embed_thumbnail(tmp_path / "a.png")
    assert uri is not None and uri.startswith("data:image/png;base64,")
    assert np.array_equal(np.asarray(opened(uri)), pixels)


def test_a_large_image_shrinks_in_proportion(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 800), "teal").save(tmp_path / "a.jpg")
    uri = embed_thumbnail(tmp_path / "a.jpg")
    assert uri is not None and uri.startswith("data:image/jpeg;base64,") and len(uri) < 20_000
    assert opened(uri).size == (SIDE, SIDE // 2)


def test_no_image_no_uri(tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_text("not an image")
    assert embed_thumbnail(tmp_path / "fake.png") is None
    assert embed_heat_map(tmp_path / "absent.png", (1, 1), [0.0]) is None


def test_the_greatest_dot_product_is_the_brightest_cell(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), (40, 40, 40)).save(tmp_path / "a.png")
    dots = [0.0] * 12
    dots[6] = 5.0  # row 1, column 2 of 3 x 4
    heat = np.asarray(opened(embed_heat_map(tmp_path / "a.png", (3, 4), dots)).convert("L"), dtype=float)
    rows, columns = heat.shape[0] // 3, heat.shape[1] // 4
    cells = heat[: rows * 3, : columns * 4].reshape(3, rows, 4, columns).mean(axis=(1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (1, 2)
    assert cells.max() > 2 * np.delete(cells.ravel(), 6).max()


def test_equal_dot_products_make_an_even_map(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), (40, 40, 40)).save(tmp_path / "a.png")
    heat = np.asarray(opened(embed_heat_map(tmp_path / "a.png", (2, 2), [3.0] * 4)))
    assert heat.std(axis=(0, 1)).max() < 2


def test_the_scale_runs_from_dark_to_bright() -> None:
    stops = [sum(bytes.fromhex(stop.strip()[1:])) for stop in list_heat_colors().split(",")]
    assert len(stops) == 7 and stops == sorted(stops)
