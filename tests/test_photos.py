"""The commands on real photographs of mixed sizes and types, bad files among them, from score to an answer.

Reads `photos/` from the folder `shared` beside the repository, whose images belong to others; skipped elsewhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aligngpt.cli import cli
from aligngpt.curation.scoring.store import read_scores

PHOTOS = Path(__file__).resolve().parents[1].parent / "shared" / "photos"
BASES = ("--language-model", "synthetic-llm", "--vision-tower", "synthetic-clip")
TWO_STEPS = (
    "--preset",
    "synthetic",
    "--max-steps",
    2,
    "--per-device-train-batch-size",
    4,
    "--max-length",
    1024,
)
REASONS = {
    "truncated.jpg": "truncated",
    "text.jpg": "not an image",
    "empty.jpg": "empty file",
    "huge.png": "decompression bomb",
}

pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/photos beside the repository")


def run(*arguments: object) -> tuple[str, str]:
    """Run a command; its output and what it told on the side."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="aligngpt")
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to all images, good and bad, and pairs and conversations over them."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    broken = json.loads((PHOTOS / "broken" / "broken.json").read_text())
    for path in [*(PHOTOS / "images").iterdir(), *(PHOTOS / "broken" / one["image"] for one in broken)]:
        (folder / "images" / path.name).symlink_to(path)
    caption = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Half a kiwi on a table."}]
    question = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A kiwi."}]
    for name, extra in (("pairs.json", caption), ("instructions.json", question)):
        records = json.loads((PHOTOS / name).read_text())
        records += [{"id": f"b{i}", "image": one["image"], "conversations": extra} for i, one in enumerate(broken)]
        (folder / name).write_text(json.dumps(records))
    return folder


def test_photographs_go_from_score_to_an_answer_and_every_bad_file_is_named(work: Path):
    images = ("--images", work / "images")
    _, told = run(
        "score", "--pairs", work / "pairs.json", *images, "--scorer", "synthetic-clip", "--output", work / "s"
    )
    for name, reason in REASONS.items():
        assert any(name in line and reason in line for line in told.splitlines()), told
    assert not any("grey16.png" in line for line in told.splitlines())
    table = read_scores(work / "s")
    errors = {row["image"] for row in table.to_pylist() if row["error"]}
    assert errors == set(REASONS)
    assert table["clip_score"].null_count == 4 and table.num_rows == 197

    run("level", "--scores", work / "s", "--output", work / "levels", "--num-levels", 4)
    page = ("report", "data", "--scores", work / "s", "--levels", work / "levels", "--pairs", work / "pairs.json")
    told, _ = run(*page, *images, "--output", work / "page.html")
    assert "4 pairs" in told and "2 images" in told  # the bad files, and the kiwi that is also there in gray
    shown = (work / "page.html").read_text(encoding="utf-8")
    assert all(name in shown for name in REASONS) and "Near copies" in shown and "grey16.png" in shown

    levels = ("--levels", work / "levels", "--num-alignment-levels", 4)
    pairs = (
        "pretrain",
        "--data",
        work / "pairs.json",
        *images,
        *levels,
        *BASES,
        *TWO_STEPS,
        "--dataloader-num-workers",
        1,
    )
    _, told = run(*pairs, "--output", work / "stage1")
    assert all(any(name in line for line in told.splitlines()) for name in REASONS)
    talks = ("finetune", "--data", work / "instructions.json", *images, "--stage1", work / "stage1")
    _, told = run(*talks, *TWO_STEPS, "--image-aspect-ratio", "pad", "--output", work / "model")
    for name, reason in REASONS.items():
        assert any(name in line and reason in line for line in told.splitlines()), told

    photo = ("--image", work / "images" / "033_kitten_wide.jpg", "--prompt", "What animal is this?")
    for alignment in ("adaptive", "1", "4"):
        told, _ = run(
            "generate", "--model", work / "model", *photo, "--alignment", alignment, "--max-new-tokens", 8, "--json"
        )
        answer = json.loads(told)
        assert answer["new_tokens"] > 0
        assert (answer["gate_weights"] is None) == (alignment != "adaptive")


def test_strict_makes_a_bad_file_fatal(work: Path):
    arguments = ["--pairs", work / "pairs.json", "--images", work / "images", "--scorer", "synthetic-clip"]
    arguments += ["--output", work / "strict", "--strict"]
    result = CliRunner().invoke(cli, ["score", *map(str, arguments)], prog_name="aligngpt")
    assert result.exit_code == 3
    assert read_scores(work / "strict")["error"].null_count == 193, "what can be scored is scored all the same"
