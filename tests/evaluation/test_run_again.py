"""Runs that are called again: what is made anew because something changed, and what two calls may not do."""

from __future__ import annotations

import json
import pickle
import queue
import shutil
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation import parallel as workers
from aligngpt.evaluation import run as run_module
from aligngpt.evaluation.types import EvalConfig
from aligngpt.synthetic.mock_benchmarks import write_mock_benchmarks
from tests.evaluation.judge.judge_server import JudgeServer, completion
from tests.evaluation.mock_runs import content, lines, run, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and miniatures."""
    folder = tmp_path_factory.mktemp("again")
    save_model(folder)
    write_mock_benchmarks(folder / "data", questions=6)
    return folder


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    """Miniatures that a test may damage."""
    return Path(shutil.copytree(folder / "data", tmp_path / "data"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of the questions that are asked."""
    places: list[int] = []
    answered = workers._predict

    def watched(task: Any, batches: Any, *rest: Any) -> Any:
        places.extend(place for batch in batches for place in batch)
        return answered(task, batches, *rest)

    monkeypatch.setattr(workers, "_predict", watched)
    return places


def only_row(results: dict[str, Any]) -> dict[str, Any]:
    (row,) = results["benchmarks"]
    return row


def test_other_labels_make_another_score(folder: Path, data: Path, tmp_path: Path) -> None:
    first = only_row(run(folder / "model", data, tmp_path / "out", "scienceqa"))
    labels, score = data / "scienceqa/problems.json", tmp_path / "out/scienceqa/score.json"
    problems = json.loads(labels.read_text())
    labels.write_text(json.dumps({name: one | {"answer": 0} for name, one in problems.items()}))
    assert {item["label"] for item in json.loads(score.read_text())["samples"]} != {"A"}
    second = only_row(run(folder / "model", data, tmp_path / "out", "scienceqa"))
    assert {item["label"] for item in json.loads(score.read_text())["samples"]} == {"A"}
    assert json.loads(score.read_text())["score"] == second["score"] and first["reasons"] == second["reasons"] == []
    before = content(tmp_path / "out")
    run(folder / "model", data, tmp_path / "out", "scienceqa")
    assert content(tmp_path / "out") == before
    labels.write_text("{")
    broken = only_row(run(folder / "model", data, tmp_path / "out", "scienceqa"))
    assert broken["failed"] and broken["score"] is None and "problems.json:1:2: broken JSON" in broken["reasons"][0]
    assert not (tmp_path / "out/scienceqa/score.json").exists()


def test_other_answers_make_another_submission(folder: Path, data: Path, tmp_path: Path) -> None:
    run(folder / "model", data, tmp_path / "out", "vizwiz")
    answers, submission = tmp_path / "out/vizwiz/answers.jsonl", tmp_path / "out/vizwiz/submission.json"
    answers.write_text("".join(json.dumps(line | {"text": "blue"}) + "\n" for line in lines(answers)))
    run(folder / "model", data, tmp_path / "out", "vizwiz")
    assert {one["answer"] for one in json.loads(submission.read_text())} == {"blue"}


def test_the_score_names_its_judge_and_falls_with_another(folder: Path, tmp_path: Path) -> None:
    with JudgeServer(lambda request, place: completion("0.5")) as server:
        results = run(
            folder / "model",
            folder / "data",
            tmp_path,
            "mmvet",
            config=EvalConfig(judge_model="first", judge_url=server.url),
        )
    row = only_row(results)
    assert row["score"] == 50 and row["judge"]["model"] == "first" and row["judge"]["n_unreadable"] == 0
    assert row["judge"].keys() == {"model", "answered_by", "cost", "n_unreadable"}
    with JudgeServer(lambda request, place: (401, "{}")) as server:
        results = run(
            folder / "model",
            folder / "data",
            tmp_path,
            "mmvet",
            config=EvalConfig(judge_model="second", judge_url=server.url),
        )
    row = only_row(results)
    assert (row["score"], row["judge"], row["failed"]) == (None, None, True)
    assert "6 of 6 replies are missing" in row["reasons"][0]
    assert not (tmp_path / "mmvet/score.json").exists()
    assert only_row(run(folder / "model", folder / "data", tmp_path, "mmvet"))["judge"]["model"] == "first"


@pytest.mark.parametrize("finished", [True, False])
def test_a_mended_image_is_asked_about_again_and_no_other(
    finished: bool, folder: Path, data: Path, tmp_path: Path, asked: list[int]
) -> None:
    absent, damaged = (data / f"pope/val2014/COCO_val2014_{number:012d}.jpg" for number in (1, 4))
    absent.unlink()
    damaged.write_bytes(b"\xff\xd8 no image")
    shard = None if finished else (1, 1)
    first = only_row(run(folder / "model", data, tmp_path / "out", "pope", shard=shard))
    assert finished == (first["n_questions"] is not None)
    for path in (absent, damaged):
        shutil.copyfile(folder / "data/pope/val2014" / path.name, path)
    asked.clear()
    second = only_row(run(folder / "model", data, tmp_path / "out", "pope"))
    assert sorted(asked) == [1, 4]
    assert second["n_unreadable_images"] == 0 and second["score"] is not None
    run(folder / "model", folder / "data", tmp_path / "whole", "pope")
    texts = [[line["text"] for line in lines(tmp_path / name / "pope/answers.jsonl")] for name in ("out", "whole")]
    assert texts[0] == texts[1]
    assert not (tmp_path / "out/pope/parts").exists()


def test_another_image_is_refused(folder: Path, data: Path, tmp_path: Path) -> None:
    run(folder / "model", data, tmp_path / "out", "pope")
    shutil.copyfile(
        data / "gqa/data" / "testdev_balanced_questions.json", data / "pope/val2014/COCO_val2014_000000000001.jpg"
    )
    with pytest.raises(ValueError, match=r"a run with other images: .* choose another --output"):
        run(folder / "model", data, tmp_path / "out", "pope")


def test_another_limit_is_named_before_the_answers_are_read(folder: Path, tmp_path: Path) -> None:
    run(folder / "model", folder / "data", tmp_path, "pope", shard=(1, 1))
    with pytest.raises(ValueError, match="limit is null there, 2 requested"):
        run(folder / "model", folder / "data", tmp_path, "pope", limit=2)


def test_what_a_kill_leaves_at_the_very_end_is_removed(folder: Path, tmp_path: Path) -> None:
    run(folder / "model", folder / "data", tmp_path, "pope")
    parts = tmp_path / "pope/parts"
    parts.mkdir()
    (parts / "1-of-1.0.jsonl").write_text('{"index": 0, "line": {}, "seconds": 0}\n')
    run(folder / "model", folder / "data", tmp_path, "pope")
    assert not parts.exists()


def test_a_run_without_an_answer_may_be_begun_otherwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise ValueError("not enough memory")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="not enough memory"):
        patch.setattr(run_module, "generate_predictions", failing)
        run(folder / "model", folder / "data", tmp_path, "pope")
    run(folder / "model", folder / "data", tmp_path, "pope", dtype="bfloat16")
    assert json.loads((tmp_path / "pope/run_config.json").read_text())["dtype"] == "bfloat16"


def test_two_models_at_once_do_not_share_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(folder / "model", tmp_path / "other"))
    (other / "generation_config.json").write_text("{}")
    answer = run_module.generate_predictions

    def meanwhile(*arguments: Any) -> None:
        with pytest.raises(ValueError, match=r"belongs to another run: model_hash is"):
            run(other, folder / "data", tmp_path / "out", "gqa")
        answer(*arguments)

    monkeypatch.setattr(run_module, "generate_predictions", meanwhile)
    results = run(folder / "model", folder / "data", tmp_path / "out", "pope", limit=1)
    assert [row["benchmark"] for row in results["benchmarks"]] == ["pope"]


def test_results_of_another_command(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"accuracy": 1}')
    with pytest.raises(ValueError, match=r"results\.json: no schema_version, expected 1"):
        run(folder / "model", folder / "data", tmp_path, "pope")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Is <align> there?", "question 2 contains <align>, which is reserved"),
        ("Is \ufdd0 there?", r"question 2 contains U\+FDD0, which is reserved"),
        ("Is \ud800 there?", "question 2 contains an unpaired surrogate"),
    ],
)
def test_a_question_that_cannot_be_asked(text: str, message: str, folder: Path, data: Path, tmp_path: Path) -> None:
    path = data / "pope/llava_pope_test.jsonl"
    questions = lines(path)
    questions[2] |= {"question_id": 2, "text": text}
    path.write_text("".join(json.dumps(one) + "\n" for one in questions))
    with pytest.raises(ValueError, match="llava_pope_test.jsonl: " + message):
        run(folder / "model", data, tmp_path / "out", "pope")
    assert not (tmp_path / "out").exists()


def test_a_image_whose_name_is_too_long(folder: Path, data: Path, tmp_path: Path) -> None:
    path = data / "pope/llava_pope_test.jsonl"
    questions = lines(path)
    questions[0]["image"] = "a" * 300 + ".jpg"
    path.write_text("".join(json.dumps(one) + "\n" for one in questions))
    results = run(folder / "model", data, tmp_path / "out", "pope")
    assert only_row(results)["n_unreadable_images"] == 1


def test_the_local_alignment_reads_the_gate(folder: Path, tmp_path: Path) -> None:
    run(folder / "model", folder / "data", tmp_path, "pope", alignment="local", limit=2)
    assert json.loads((tmp_path / "pope/gate_stats.json").read_text())["overall"]["n_samples"] == 2


def test_an_error_in_a_process_says_where_it_was() -> None:
    messages: queue.Queue[Any] = queue.Queue()
    failure = ValueError("no such file")
    failure.add_note("Traceback: line 7")
    messages.put(pickle.loads(pickle.dumps(failure)))  # as between two processes
    with pytest.raises(ValueError, match="no such file") as error:
        workers._receive([None], messages, lambda name, count: None)
    assert error.value.__notes__ == ["Traceback: line 7"]


def test_limited_questions_have_no_score(folder: Path, tmp_path: Path) -> None:
    results = run(folder / "model", folder / "data", tmp_path, "gqa", "pope", "vizwiz", limit=3)
    assert len(lines(tmp_path / "gqa/answers.jsonl")) == 3
    for name in ("gqa", "pope", "vizwiz"):
        (row,) = (one for one in results["benchmarks"] if one["benchmark"] == name)
        assert (row["score"], row["submission"], row["limit"], row["failed"]) == (None, None, 3, False)
        assert row["reasons"][0] == "not scored: only the first 3 questions were run"
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "answers.jsonl", "gate_stats.json", "run_config.json"
        ]  # fmt: skip
