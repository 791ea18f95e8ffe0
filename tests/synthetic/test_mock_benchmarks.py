"""Mock benchmark files: the official layout, the questions of training, and the full score for true answers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aligngpt.data.images import load_image
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.tasks import EvalSettings, Task, open_task
from aligngpt.evaluation.types import EvalConfig
from aligngpt.synthetic import mock_benchmarks
from aligngpt.synthetic.artifacts import MockBenchmarksInfo
from aligngpt.synthetic.mock_benchmarks import write_mock_benchmarks
from aligngpt.synthetic.scenes import NUMBERS

LETTERS_ONLY = ("scienceqa", "seed")
SERVER_LABELS = {"vqav2": "vqav2", "vizwiz": "vizwiz"}  # folders with annotations that officially only a server has
TRAINED_QUESTION = re.compile(
    r"How many (\w+ )?objects are there\?|Is there an? \w+ \w+\?|What (color|shape) is the object at the [a-z ]+\?"
    r"|Where is the \w+ \w+\?|Describe the picture\."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mock") / "eval"
    info = write_mock_benchmarks(folder, questions=12)
    assert (info.questions, info.seed) == (12, 0) and MockBenchmarksInfo.read(folder) == info
    assert all(name in info.note for name in LETTERS_ONLY)
    return folder


def task_of(name: str, folder: Path) -> Task:
    return open_task(BENCHMARKS[name], EvalSettings(Path("model"), folder, Path("out"), EvalConfig()))


def names() -> list[str]:
    return list(mock_benchmarks._WRITERS)


@pytest.mark.parametrize("name", names())
def test_the_official_layout(name: str, folder: Path) -> None:
    files = BENCHMARKS[name].files
    paths = [files.questions, *files.labels, *files.other_labels, files.images, files.submission_questions]
    assert [path for path in paths if path is not None and not (folder / path).exists()] == []
    task = task_of(name, folder)
    assert len(task.questions) >= 6
    images = [image for image in map(task.find_image, task.questions) if image is not None]
    assert images and all(isinstance(load_image(image), Image.Image) for image in images)  # type: ignore[arg-type]
    if name != "scienceqa":
        assert len(images) == len(task.questions)


@pytest.mark.parametrize("name", names())
def test_questions_are_those_of_training(name: str, folder: Path) -> None:
    for question in task_of(name, folder).questions:
        lines = question.prompt.removeprefix("<image>\n").split("\n")
        asked = lines[1] if lines[0].startswith("Context: ") else lines[0]
        assert TRAINED_QUESTION.fullmatch(asked), question.prompt


# Scores --------------------------------------------------------------------------------------------------------------


def read_true_answers(name: str, folder: Path) -> list[str]:
    """Read the true answer to each question, in the words of the synthetic models where the format accepts them."""
    questions = task_of(name, folder).questions
    if name == "mme":
        paths = [folder / "MME" / "eval_tool" / "Your_Results" / f"{task}.txt" for task in mock_benchmarks._MME_TASKS]
        return [line.split("\t")[2].lower() for path in paths for line in path.read_text().splitlines()]
    if name == "pope":
        paths = [
            folder / "pope" / "coco" / f"coco_pope_{subset}.json" for subset in ("adversarial", "popular", "random")
        ]
        return [json.loads(line)["label"] for path in paths for line in path.read_text().splitlines()]
    answers: dict[Any, str] = {}
    if name == "vqav2":
        content = json.loads((folder / "vqav2" / "v2_mscoco_test-dev2015_annotations.json").read_text())
        answers = {row["question_id"]: to_words(row["answers"][0]["answer"]) for row in content["annotations"]}
    elif name == "vizwiz":
        content = json.loads((folder / "vizwiz" / "annotations.json").read_text())
        by_image = {row["image"]: to_words(row["answers"][0]["answer"]) for row in content}
        return [by_image[str(question.image)] for question in questions]
    elif name == "gqa":
        content = json.loads((folder / "gqa" / "data" / "testdev_balanced_questions.json").read_text())
        answers = {key: row["answer"] for key, row in content.items()}
    elif name == "textvqa":
        content = json.loads((folder / "textvqa" / "TextVQA_0.5.1_val.json").read_text())
        answers = {row["image_id"]: row["answers"][0] for row in content["data"]}
    elif name == "scienceqa":
        content = json.loads((folder / "scienceqa" / "problems.json").read_text())
        answers = {key: "ABCD"[row["answer"]] for key, row in content.items()}
    elif name == "seed":
        content = json.loads((folder / "seed_bench" / "SEED-Bench.json").read_text())
        answers = {row["question_id"]: row["answer"] for row in content["questions"]}
    else:
        with (folder / BENCHMARKS[name].files.questions).open(encoding="utf-8", newline="") as file:
            answers = {row["index"]: row[row["answer"]] for row in csv.DictReader(file, delimiter="\t")}
    answers = {str(key): text for key, text in answers.items()}
    return [answers[str(question.id)] for question in questions]


def to_words(answer: str) -> str:
    return NUMBERS[int(answer)] if answer.isdigit() else answer


@pytest.mark.parametrize("name", [name for name in names() if BENCHMARKS[name].judge is None])
def test_true_answers_get_the_full_score(name: str, folder: Path, tmp_path: Path) -> None:
    benchmark, task = BENCHMARKS[name], task_of(name, folder)
    texts = read_true_answers(name, folder)
    lines = [
        {"question_id": question.id, "prompt": question.stored_prompt or question.prompt, "text": text}
        for question, text in zip(task.questions, texts, strict=True)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels = benchmark.files.labels or (SERVER_LABELS[name],)
    result = score_files(benchmark, [folder / label for label in labels], path)
    assert result.score == (2000 if name == "mme" else 100)
    assert (result.counts.n_missing, result.counts.n_extra, result.counts.n_duplicates) == (0, 0, 0)
    if name in LETTERS_ONLY:
        assert set(texts) <= set("ABCD")


@pytest.mark.parametrize("name", [name for name in names() if BENCHMARKS[name].judge])
def test_true_answers_get_the_full_score_of_a_fair_judge(name: str, folder: Path, tmp_path: Path) -> None:
    benchmark, task = BENCHMARKS[name], task_of(name, folder)
    if name == "mmvet":
        truth = json.loads((folder / "mm-vet" / "mm-vet.json").read_text())
        assert [truth[f"v1_{question.id}"]["question"] for question in task.questions] == [
            question.prompt for question in task.questions
        ]
        path = tmp_path / "grades.json"
        path.write_text(json.dumps({key: {"model": ["judge"], "score": [1.0], "content": ["1.0"]} for key in truth}))
    else:
        references = (folder / "llava-bench-in-the-wild" / "answers_gpt4.jsonl").read_text().splitlines()
        assert [json.loads(line)["prompt"] for line in references] == [question.prompt for question in task.questions]
        path = tmp_path / "reviews.jsonl"
        kinds = {question.id: f"llava_bench_{question.kind}" for question in task.questions}
        reviews = [{"question_id": key, "category": kind, "tuple": [10, 10]} for key, kind in kinds.items()]
        path.write_text("".join(json.dumps(review) + "\n" for review in reviews))
    labels = [folder / label for label in benchmark.files.labels]
    assert score_files(benchmark, labels, path).score == 100


def test_options_of_multiple_choice_are_distinct(folder: Path) -> None:
    with (folder / "mmbench" / "mmbench_dev_20230712.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        options = [row[letter] for letter in "ABCD"]
        assert not any(left in right for left in options for right in options if left is not right)


# Files ---------------------------------------------------------------------------------------------------------------


def test_categories_of_every_benchmark(folder: Path) -> None:
    kinds = {name: {question.kind for question in task_of(name, folder).questions} for name in names()}
    assert kinds["pope"] == {"adversarial", "popular", "random"}
    assert kinds["mme"] == set(mock_benchmarks._MME_TASKS)
    assert kinds["seed"] == {"image", "video"}
    assert kinds["scienceqa"] == {"with image", "without image"}
    assert kinds["llava_bench"] == {"conv", "detail", "complex"}


def test_the_seed_fixes_everything(folder: Path, tmp_path: Path) -> None:
    def read_files(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    write_mock_benchmarks(tmp_path / "same", questions=12)
    assert read_files(tmp_path / "same") == read_files(folder)
    write_mock_benchmarks(tmp_path / "different", questions=12, seed=1)
    assert read_files(tmp_path / "different") != read_files(folder)


def test_existing_files_are_kept_or_refused(folder: Path, tmp_path: Path) -> None:
    file = folder / "gqa" / "llava_gqa_testdev_balanced.jsonl"
    before = file.stat().st_mtime_ns
    write_mock_benchmarks(folder, questions=12)
    assert file.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="belongs to another run: questions is 12 there, 20 requested"):
        write_mock_benchmarks(folder, questions=20)
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ValueError, match=r"exists and has no dataset_info\.json"):
        write_mock_benchmarks(tmp_path)
    with pytest.raises(ValueError, match="questions is 5; pass at least 6"):
        write_mock_benchmarks(tmp_path / "few", questions=5)
    assert not (tmp_path / "few").exists()
