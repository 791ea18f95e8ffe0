"""Bad input becomes rows with reasons, is counted, and ends with exit code 0, or 3 with --strict."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from aligngpt.cli import cli
from aligngpt.curation.scoring.scorers import ClipScorer
from aligngpt.curation.scoring.store import read_manifest, read_scores
from aligngpt.data.images import load_image
from tests.curation.counting import score_images
from tests.image_files import make_image
from tests.source_files import llava, turns, write_json, write_parquet, write_tar


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def odd_images() -> dict[str, bytes]:
    """Images that can be read, though not as most are."""
    gray = np.random.default_rng(0).integers(0, 65_536, (40, 50), dtype=np.uint16)
    frames = [make_image(seed) for seed in range(3)]
    return {
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "grey16.png": encoded(Image.fromarray(gray), "PNG"),
        "ink.jpg": encoded(make_image(3).convert("CMYK"), "JPEG"),
        "thin.png": encoded(make_image(4, (1, 150)), "PNG"),
    }


def bad_images() -> dict[str, tuple[bytes, str]]:
    """Images that cannot be used, and why."""
    whole = encoded(make_image(5, (200, 200)), "JPEG")
    return {
        "dot.png": (encoded(make_image(0, (1, 1)), "PNG"), "declares 1 x 1 pixels: a tracking pixel"),
        "strip.png": (
            encoded(make_image(0, (1, 10_000)), "PNG"),
            "declares 1 x 10000 pixels: one side is over 200 times",
        ),
        "cut.jpg": (whole[: len(whole) // 2], "truncated or damaged JPEG image"),
        "text.jpg": (b"this is not an image", "not an image, although its name ends in .jpg"),
        "empty.jpg": (b"", "empty"),
    }


def score(pairs: Path | str, scorer: Path, output: Path, *more: object) -> Result:
    arguments = ["score", "--data", pairs, "--scorer", scorer, "--output", output, "--num-workers", 0, *more]
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="aligngpt")


def errors(folder: Path) -> dict[str, str | None]:
    table = read_scores(folder)
    assert [score is None for score in table["clip_score"].to_pylist()] == table["error"].is_valid().to_pylist()
    return dict(zip(table["id"].to_pylist(), table["error"].to_pylist(), strict=True))


@pytest.fixture(params=["files", "parquet", "webdataset"])
def make_images(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[object]]:
    """All the images above in three formats, and what further arguments the format needs."""
    content = odd_images() | {name: data for name, (data, _) in bad_images().items()}
    if request.param == "files":
        (tmp_path / "images").mkdir()
        for name, data in content.items():
            (tmp_path / "images" / name).write_bytes(data)
        records = [{"id": name, "image": name, "caption": "an image"} for name in [*content, "gone.jpg"]]
        return write_json(tmp_path, records), ["--images", tmp_path / "images"]
    if request.param == "parquet":
        cells = [{"bytes": data, "path": name} for name, data in content.items()]
        columns = {"id": list(content), "image": cells, "caption": ["an image"] * len(cells)}
        return write_parquet(tmp_path / "a.parquet", columns), []
    members: dict[str, bytes] = {}
    for name, data in content.items():
        stem = name.partition(".")[0]
        members |= {name: data, f"{stem}.json": json.dumps({"id": name, "caption": "an image"}).encode()}
    return write_tar(tmp_path / "a.tar", members), []


def test_odd_images_are_scored_and_bad_ones_have_their_reasons(
    make_images: tuple[Path, list[object]], clip_folder: Path, tmp_path: Path
) -> None:
    pairs, more = make_images
    done = score(pairs, clip_folder, tmp_path / "out", *more, "--json")
    assert done.exit_code == 0, done.output
    result = errors(tmp_path / "out")
    assert [result[name] for name in odd_images()] == [None] * 4
    expected = {name: reason for name, (_, reason) in bad_images().items()}
    expected |= {"gone.jpg": "no such file"} if "gone.jpg" in result else {}
    for name, reason in expected.items():
        text = result[name]
        assert text is not None and reason.removesuffix(", although its name ends in .jpg") in text
        assert any(name in line and text in line for line in done.stderr.splitlines())
    summary = json.loads(done.stdout)
    assert (summary["scored"], summary["failed"]) == (4, len(expected))
    assert sum(read_manifest(tmp_path / "out").counts.errors.values()) == len(expected)
    strict = score(pairs, clip_folder, tmp_path / "strict", *more, "--strict")
    assert (strict.exit_code, strict.stdout) == (3, "")
    last = strict.stderr.splitlines()[-1]
    assert last.startswith(f"aligngpt: error: {len(expected)} of {len(expected) + 4} records are bad, such as ")
    assert errors(tmp_path / "strict") == result, "what could be scored is scored all the same"


def test_odd_images_have_the_scores_of_what_they_show(clip_folder: Path, tmp_path: Path) -> None:
    for name, data in odd_images().items():
        (tmp_path / name).write_bytes(data)
    names = list(odd_images())
    pairs = write_json(tmp_path, [{"id": name, "image": name, "caption": "an image"} for name in names])
    assert score(pairs, clip_folder, tmp_path / "out", "--images", tmp_path).exit_code == 0
    scorer = ClipScorer.from_pretrained(clip_folder, "cpu")
    expected, _ = score_images(scorer, [load_image(tmp_path / name) for name in names], ["an image"] * len(names))
    assert read_scores(tmp_path / "out")["clip_score"].to_pylist() == pytest.approx(expected.tolist(), abs=1e-6)
    first = load_image(tmp_path / "animated.gif")
    assert np.array_equal(np.asarray(first), np.asarray(Image.open(tmp_path / "animated.gif").convert("RGB")))


def test_bad_records_of_every_kind(images: Path, clip_folder: Path, tmp_path: Path) -> None:
    records: list[Any] = [
        llava(0),
        llava(1, conversations=turns(None)),
        llava(0),
        llava(3, conversations=turns("a bird " * 15_000)),
        None,
        {"image": "1.png", "caption": None},
        llava(2, id=None),
    ]
    done = score(write_json(tmp_path, records), clip_folder, tmp_path / "out", "--images", images)
    assert done.exit_code == 0, done.output
    table = read_scores(tmp_path / "out")
    assert table["id"].to_pylist() == ["p0", "p1", "p0", "p3", "#4", "#5", "#6"]
    assert table["error"].to_pylist() == [
        None,
        "turn 2 has no value",
        "duplicate id, also that of record 0",
        None,
        "expected an object, got null",
        "caption is missing (null)",
        None,
    ]
    assert table["text_truncated"].to_pylist() == [False, False, False, True, False, False, False]
    assert table["caption_chars"].to_pylist()[3] == 105_000
    assert "4 bad records, without a score:" in done.stderr
    assert "1  duplicate id, also that of record N" in done.stderr


def test_null_captions_of_a_table(clip_folder: Path, tmp_path: Path) -> None:
    data = encoded(make_image(0), "PNG")
    columns = {"image": pa.array([data] * 3), "caption": pa.array(["a", None, ""], pa.string())}
    assert score(write_parquet(tmp_path / "a.parquet", columns), clip_folder, tmp_path / "out").exit_code == 0
    assert errors(tmp_path / "out") == {"#0": None, "#1": "caption is missing (null)", "#2": "empty caption"}


def test_missing_and_damaged_shards_are_rows_and_are_named(clip_folder: Path, tmp_path: Path) -> None:
    def members(*names: str) -> dict[str, bytes]:
        data = encoded(make_image(0), "PNG")
        return {f"{name}.{kind}": data if kind == "png" else b"x" for name in names for kind in ("png", "txt")}

    write_tar(tmp_path / "0.tar", members("a", "b"))
    whole = write_tar(tmp_path / "2.tar", members("c", "d")).read_bytes()
    (tmp_path / "2.tar").write_bytes(whole[: whole.index(b"d.png") + 700])
    (tmp_path / "3.tar").write_bytes(b"no tar")
    damaged = bytearray(write_tar(tmp_path / "4.tar", members("e", "f")).read_bytes())
    position = damaged.index(b"IDAT") + 10
    damaged[position : position + 40] = bytes(40)  # within the image of e: the tar itself stays whole
    (tmp_path / "4.tar").write_bytes(damaged)
    done = score(str(tmp_path / "{0..4}.tar"), clip_folder, tmp_path / "out")
    assert done.exit_code == 0, done.output
    result = errors(tmp_path / "out")
    assert [name for name, error in result.items() if error is None] == ["a", "b", "c", "f"]
    assert result["1.tar#0"] == "shard cannot be read: no such file"
    assert result["d"] == "member d.png is cut short: the tar ends within it"
    assert result["3.tar#0"] == "shard cannot be read: damaged: not a readable tar file"
    assert "PNG" in (result["e"] or "")
    assert read_manifest(tmp_path / "out").shards == 5
    for name in ("1.tar", "3.tar", "d.png"):
        assert name in done.stderr


def test_wrong_inputs_and_scorers_are_one_line(images: Path, clip_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    CLIPVisionModel(CLIPVisionConfig(num_attention_heads=2, **sizes)).save_pretrained(tmp_path / "vision")
    table = write_parquet(tmp_path / "a.parquet", {"url": ["x"], "alt": ["y"]})
    pairs = write_json(tmp_path, [llava(0)])
    for arguments, message in (
        ((table, clip_folder), "expected a column of images"),
        (
            (pairs, tmp_path / "vision", "--images", images),
            "holds a CLIPVisionModel, which has no text tower to score pairs with",
        ),
        ((pairs, clip_folder), "images are given by paths; pass the folder of --images"),
        ((pairs, tmp_path / "vision", "--images", tmp_path / "vision"), "has none of the first 1 images of"),
        ((tmp_path / "gone.json", clip_folder), "no such file"),
    ):
        done = score(arguments[0], arguments[1], tmp_path / "out", *arguments[2:])
        is_usage = any(part in message for part in ("no such file", "--images", "none of the first"))
        assert done.exit_code == (2 if is_usage else 1) and done.stdout == ""
        assert not (tmp_path / "out").exists()
        lines = [line for line in done.stderr.splitlines() if "Loading weights" not in line]
        assert len(lines) == 1 and lines[0].startswith("aligngpt: error: ") and message in lines[0]


def test_the_number_of_named_bad_records_is_limited(images: Path, clip_folder: Path, tmp_path: Path) -> None:
    records = [llava(0, image="0.png"), *(llava(number, image=f"gone{number}.png") for number in range(1, 251))]
    done = score(write_json(tmp_path, records), clip_folder, tmp_path / "out", "--images", images)
    assert done.exit_code == 0
    assert [f"gone{number}.png" in done.stderr for number in range(1, 7)] == [True] * 5 + [False]
    assert "   250  no such file" in done.stderr
    assert f"  and 245 more; see the column `error` in {tmp_path / 'out'}" in done.stderr


def test_broken_photos_become_rows(photos: Path, clip_folder: Path, tmp_path: Path) -> None:
    existing = json.loads((photos / "broken" / "broken.json").read_text())
    records = [{"id": one["image"], "image": one["image"], "caption": "an image"} for one in existing]
    done = score(write_json(tmp_path, records), clip_folder, tmp_path / "out", "--images", photos / "broken")
    assert done.exit_code == 0
    assert [error is None for error in errors(tmp_path / "out").values()] == [one["readable"] for one in existing]


def test_nothing_to_score_is_counted_and_an_error(images: Path, clip_folder: Path, tmp_path: Path) -> None:
    pairs = write_json(tmp_path, [llava(number, image=f"{number}.png") for number in range(3)])
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    for more, code in (((), 1), (("--strict",), 3)):
        done = score(pairs, clip_folder, tmp_path / "out", "--images", tmp_path, *more)
        assert done.exit_code == code and "     3  empty" in done.stderr
        assert not (tmp_path / "out").exists()
    assert score(pairs, clip_folder, tmp_path / "out", "--images", images).exit_code == 0, "the folder is free"


def test_a_shard_with_a_bad_record_succeeds(clip_folder: Path, tmp_path: Path) -> None:
    """A scheduler would start a shard that fails again and again."""
    for number in range(3):
        members = {f"p{number}.png": encoded(make_image(number), "PNG"), f"p{number}.txt": b"an image"}
        write_tar(tmp_path / "tars" / f"{number}.tar", members | {"bad.png": b"", "bad.txt": b"nothing"})
    for index, code in ((1, 0), (3, 0), (2, 0)):
        done = score(tmp_path / "tars", clip_folder, tmp_path / "out", "--shard", f"{index}/3")
        assert done.exit_code == code, done.stderr
        assert "empty" in done.stderr
    assert read_manifest(tmp_path / "out").counts.failed == 3


def test_control_characters_do_not_reach_the_terminal(images: Path, clip_folder: Path, tmp_path: Path) -> None:
    pairs = write_json(tmp_path, [llava(0, image="0.png"), llava(1, image="gone\x1b[31m.png")])
    done = score(pairs, clip_folder, tmp_path / "out", "--images", images)
    assert done.exit_code == 0 and "\x1b" not in done.stderr and "gone\\x1b[31m.png" in done.stderr
