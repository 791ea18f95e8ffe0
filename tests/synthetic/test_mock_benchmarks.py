"""Miniatures of the benchmarks: in the official layout, and scored in full for the right answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aligngpt.data.images import load_image
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.tasks import RunSettings, Task, open_task
from aligngpt.synthetic import mock_benchmarks as miniatures

LOCAL = [name for name, one in BENCHMARKS.items() if one.files.labels and one.judge is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniatures") / "eval"
    assert miniatures.make(folder, questions=12) == {"questions": 12, "seed": 0}
    return folder


def task_of(name: str, folder: Path) -> Task:
    return open_task(BENCHMARKS[name], RunSettings(Path("model"), folder, Path("out")))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_official_layout(name: str, folder: Path) -> None:
    files = BENCHMARKS[name].files
    named = [files.questions, *files.labels, *files.other_labels, files.images, files.submission_questions]
    assert [one for one in named if one is not None and not (folder / one).exists()] == []
    task = task_of(name, folder)
    assert len(task.questions) >= 6
    images = [image for image in map(task.image_of, task.questions) if image is not None]
    assert images and all(isinstance(load_image(image), Image.Image) for image in images)  # type: ignore[arg-type]
    if name != "scienceqa":
        assert len(images) == len(task.questions)


def right_answers(name: str, folder: Path) -> dict[Any, str]:
    """The answers the labels want, by question id; for MME by id and question."""
    benchmark = BENCHMARKS[name]
    labels = benchmark.read_labels([folder / one for one in benchmark.files.labels])
    if name == "gqa":
        return {one.id: one.answer for one in labels}
    if name == "textvqa":
        return {one.image: one.answers[0] for one in labels}
    if name == "pope":
        truth = {(one.image, one.text): one.label for lines in labels.subsets.values() for one in lines}
        return {one.id: truth[one.image, one.text] for one in labels.asked}
    if name == "scienceqa":
        return {one.id: "ABCDE"[one.answer] for one in labels}
    if name in ("mmbench", "mmbench_cn"):
        return {one.index: one.answer for one in labels}
    return {one.id: one.answer for one in labels}


@pytest.mark.parametrize("name", LOCAL)
def test_right_answers_score_in_full(name: str, folder: Path, tmp_path: Path) -> None:
    benchmark, task = BENCHMARKS[name], task_of(name, folder)
    if name == "mme":
        truth = {one.key: one.gold for one in benchmark.read_labels([folder / one for one in benchmark.files.labels])}
        stem = {one.id: str(one.id).split("/")[-1].split(".")[0] for one in task.questions}
        texts = [
            truth[one.kind, stem[one.id], one.prompt.split("\n")[0] + " Please answer yes or no."]
            for one in task.questions
        ]
    else:
        right = {str(key): text for key, text in right_answers(name, folder).items()}
        texts = [right[str(one.id)] for one in task.questions]
    lines = [
        {"question_id": one.id, "prompt": one.stored_prompt or one.prompt, "text": text}
        for one, text in zip(task.questions, texts, strict=True)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = score_files(benchmark, [folder / one for one in benchmark.files.labels], path)
    assert result["score"] == (2000 if name == "mme" else 100)
    assert result["answers"] == {"given": len(lines), "missing": 0, "extra": 0, "duplicate": 0}


def test_parts_of_every_benchmark(folder: Path) -> None:
    kinds = {name: {one.kind for one in task_of(name, folder).questions} for name in BENCHMARKS}
    assert kinds["pope"] == {"adversarial", "popular", "random"}
    assert kinds["mme"] == set(miniatures._MME_TASKS)
    assert kinds["seed"] == {"image", "video"}
    assert kinds["scienceqa"] == {"with image", "without image"}
    assert kinds["llava_bench"] == {"conv", "detail", "complex"}


def test_the_seed_fixes_everything(folder: Path, tmp_path: Path) -> None:
    def files(where: Path) -> dict[str, bytes]:
        return {str(path.relative_to(where)): path.read_bytes() for path in where.rglob("*") if path.is_file()}

    miniatures.make(tmp_path / "same", questions=12)
    assert files(tmp_path / "same") == files(folder)
    miniatures.make(tmp_path / "other", questions=12, seed=1)
    assert files(tmp_path / "other") != files(folder)


def test_what_is_there_is_kept_or_refused(folder: Path, tmp_path: Path) -> None:
    mark = folder / "gqa" / "llava_gqa_testdev_balanced.jsonl"
    before = mark.stat().st_mtime_ns
    miniatures.make(folder, questions=12)
    assert mark.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"was made with .*'questions': 12.*, not .*'questions': 20"):
        miniatures.make(folder, questions=20)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        miniatures.make(tmp_path)
    with pytest.raises(ValueError, match="needs 6 questions for all of its parts, got 5"):
        miniatures.make(tmp_path / "few", questions=5)
    assert not (tmp_path / "few").exists()
