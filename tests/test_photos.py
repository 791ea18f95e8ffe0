"""All commands on real photographs of mixed sizes and formats, with broken files among them.

Reads `../shared/photos`, whose images belong to others; skipped where it is missing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from aligngpt.cli import cli
from aligngpt.curation.scoring.store import read_scores
from aligngpt.training.artifacts import TrainResult

PHOTOS = Path(__file__).resolve().parents[1].parent / "shared" / "photos"
BACKBONES = ("--language-model", "synthetic-llm", "--vision-tower", "synthetic-clip")
_SMALL = ("--preset", "synthetic", "--per-device-train-batch-size", 4, "--max-length", 1024)
TWO_STEPS = (*_SMALL, "--max-steps", 2)
ONE_EPOCH = (*_SMALL, "--max-steps", -1)
REASONS = {
    "truncated.jpg": "truncated",
    "text.jpg": "not an image",
    "empty.jpg": "empty file",
    "huge.png": "decompression bomb",
}

pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="../shared/photos is missing")


def run(*arguments: object) -> tuple[str, str]:
    """Run a command and return its standard output and standard error."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="aligngpt")
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of all images, readable and broken, and pairs and conversations about them."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    broken = json.loads((PHOTOS / "broken" / "broken.json").read_text())
    for path in [*(PHOTOS / "images").iterdir(), *(PHOTOS / "broken" / record["image"] for record in broken)]:
        shutil.copy(path, folder / "images" / path.name)
    caption = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Half a kiwi on a table."}]
    question = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A kiwi."}]
    for name, messages in (("pairs.json", caption), ("instructions.json", question)):
        records = json.loads((PHOTOS / name).read_text())
        records += [
            {"id": f"b{i}", "image": record["image"], "conversations": messages} for i, record in enumerate(broken)
        ]
        (folder / name).write_text(json.dumps(records if name == "pairs.json" else records[-12:]))
    return folder


def test_pipeline_on_photographs_names_every_broken_file(work: Path):
    images = ("--images", work / "images")
    _, output = run(
        "score", "--data", work / "pairs.json", *images, "--scorer", "synthetic-clip", "--output", work / "s"
    )
    for name, reason in REASONS.items():
        assert any(name in line and reason in line for line in output.splitlines()), output
    assert not any("grey16.png" in line for line in output.splitlines())
    table = read_scores(work / "s")
    errors = {row["image"] for row in table.to_pylist() if row["error"]}
    assert errors == set(REASONS)
    assert table["clip_score"].null_count == 4 and table.num_rows == 197

    run("level", "--scores", work / "s", "--output", work / "levels", "--num-levels", 4)
    page = ("report", "data", "--scores", work / "s", "--levels", work / "levels", "--data", work / "pairs.json")
    output, _ = run(*page, *images, "--output", work / "page.html")
    assert "4 pairs" in output and "2 images" in output  # the broken files, and the kiwi that also exists in gray
    shown = (work / "page.html").read_text(encoding="utf-8")
    assert all(name in shown for name in REASONS) and "Near-duplicate" in shown and "grey16.png" in shown

    levels = ("--levels", work / "levels", "--num-alignment-levels", 4)
    pairs = ("pretrain", "--data", work / "pairs.json", *images, *levels, *BACKBONES, *TWO_STEPS)
    _, output = run(*pairs, "--dataloader-num-workers", 1, "--output", work / "stage1")
    stage1 = TrainResult.read(work / "stage1")
    assert (stage1.num_samples, stage1.num_without_level) == (193, 4), "broken files have no level"
    conversations = ("finetune", "--data", work / "instructions.json", *images, "--stage1", work / "stage1")
    _, output = run(*conversations, *ONE_EPOCH, "--image-aspect-ratio", "pad", "--output", work / "model")
    skipped = [json.loads(line) for line in (work / "model" / "skipped.jsonl").read_text().splitlines()]
    for name, reason in REASONS.items():
        assert any(name in str(record) and reason in str(record) for record in skipped), skipped
    assert TrainResult.read(work / "model").num_skipped == len(skipped) == 4 and "4" in output

    photo = ("--image", work / "images" / "033_kitten_wide.jpg", "--prompt", "What animal is this?")
    for alignment in ("adaptive", "1", "4"):
        output, _ = run(
            "generate", "--model", work / "model", *photo, "--alignment", alignment, "--max-new-tokens", 8, "--json"
        )
        answer = json.loads(output)
        assert len(answer["token_ids"]) > 0
        assert (answer["gate_weights"] is None) == (alignment != "adaptive")


def test_strict_stops_at_broken_files(work: Path):
    arguments = ["--data", work / "pairs.json", "--images", work / "images", "--scorer", "synthetic-clip"]
    arguments += ["--output", work / "strict", "--strict"]
    result = CliRunner().invoke(cli, ["score", *map(str, arguments)], prog_name="aligngpt")
    assert result.exit_code == 3
    assert read_scores(work / "strict")["error"].null_count == 193, "the other pairs are scored before the error"
