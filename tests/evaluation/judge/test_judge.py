"""The judge with a real local server: requests, parsing, files, counts and scores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.artifacts import JudgeResult, PredictionCounts, UnreadableReply
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.benchmarks.mmvet import parse_score
from aligngpt.evaluation.judge.config import JudgeConfig
from aligngpt.evaluation.judge.judge import judge_predictions
from aligngpt.evaluation.readers import load_json
from tests.evaluation.benchmark_files import answer_lines, scored, write_json, write_lines
from tests.evaluation.judge.judge_server import JudgeServer, Reply, completion, last_row

OFFICIAL = Path(__file__).resolve().parents[3].parent / "shared" / "benchmarks"
with_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no ../shared/benchmarks beside the repository")


def config(server: JudgeServer, **more: Any) -> JudgeConfig:
    return JudgeConfig(**{"judge_model": "judge", "judge_url": server.url, "judge_max_retries": 2, **more})


def answer(name: int, prompt: str, text: str) -> dict[str, Any]:
    return {"question_id": name, "prompt": prompt, "text": text}


# MM-Vet -------------------------------------------------------------------------------------------------------------


TEXTS = ("-1 and -5", "It is 5/4.", "A sea.")


@pytest.fixture
def mmvet(tmp_path: Path) -> Path:
    """Return a folder with three questions of MM-Vet in LLaVA's layout and predictions."""
    truths = {"v1_0": "-1<AND>-5", "v1_1": "1.25<OR>5/4", "v1_2": "a hill"}
    questions = {
        name: {"imagename": "x.png", "question": f"What is {name}?", "answer": truth, "capability": ["rec"]}
        for name, truth in truths.items()
    }
    write_json(tmp_path / "eval" / "mm-vet" / "mm-vet.json", questions)
    write_lines(tmp_path / "a.jsonl", [answer(i, f"What is v1_{i}?", text) for i, text in enumerate(TEXTS)])
    return tmp_path


def judge_mmvet(folder: Path, server: JudgeServer, **more: Any) -> JudgeResult:
    output = folder / "out" / "grades.json"
    return judge_predictions(
        "mmvet", data=folder / "eval", answers=folder / "a.jsonl", output=output, config=config(server, **more)
    )


def score(folder: Path, protocol: Any = "official") -> dict[str, Any]:
    return scored("mmvet", folder / "eval" / "mm-vet", folder / "out" / "grades.json", protocol)


def test_scores_are_in_the_order_of_the_questions(mmvet: Path) -> None:
    def reply(request: dict[str, Any], index: int) -> Reply:
        question = last_row(request)[0]
        time.sleep({"What is v1_0?": 0.2}.get(question, 0))  # the first reply arrives last
        return completion({"What is v1_0?": "1.0", "What is v1_1?": "0.5 | x"}.get(question, f"0.{request['seed']}"))

    with JudgeServer(reply) as server:
        prices = {"input_cost_per_mtok": 10, "output_cost_per_mtok": 30}
        result = judge_mmvet(mmvet, server, num_runs=2, judge_seed=7, max_concurrency=6, **prices)
    written = load_json(mmvet / "out" / "grades.json")
    assert list(written) == ["v1_0", "v1_1", "v1_2"]
    assert written["v1_1"] == {"model": "judge-0613", "score": [0.5, 0.5], "content": ["0.5 | x", "0.5 | x"]}
    assert written["v1_2"]["score"] == [0.7, 0.8]
    assert score(mmvet)["details"]["cap-score"]["runs"] == [73.3, 76.7]
    costs = {"n_replies": 6, "prompt_tokens": 600, "completion_tokens": 12, "n_replies_without_usage": 0}
    assert result.usage == result.usage_this_call
    assert result.usage.model_dump() == costs | {"cost": pytest.approx(0.006 + 0.00036)}
    assert (result.answered_by, result.system_fingerprints) == ({"judge-0613": 6}, ["fp_1"])
    resolved = {"judge_model": "judge", "judge_url": server.url, "judge_seed": 7, "num_runs": 2}
    assert (resolved | {"judge_temperature": 0, "judge_max_tokens": 16}).items() <= result.config.items()
    assert "judge_api_key_env" not in result.config
    assert (result.n_samples, result.unanswered, result.unreadable, result.notes) == (3, [], [], [])
    assert result.scores == {"v1_0": [1, 1], "v1_1": [0.5, 0.5], "v1_2": [0.7, 0.8]}
    assert JudgeResult.read(mmvet / "out" / "grades-judge.json") == result
    assert {(one["model"], one["temperature"], one["max_tokens"]) for one in server.requests} == {("judge", 0, 16)}


def test_table_that_the_judge_completes(mmvet: Path) -> None:
    with JudgeServer(lambda request, index: completion("0.3")) as server:
        judge_mmvet(mmvet, server, max_concurrency=1)
    rows = [last_row(request) for request in server.requests]
    assert rows[0] == ["What is v1_0?", "-1 <AND> -5", "-1 and -5"]
    assert rows[1] == ["What is v1_1?", "1.25 <OR> 5/4", "It is 5/4."]
    head, *examples = server.requests[0]["messages"][0]["content"].split("Question | ")[1].splitlines()[:-1]
    assert head == "Ground truth | Prediction | Correctness"
    for example in examples[1:]:
        assert parse_score(example.split(" | ")[3]) is not None


def test_unreadable_reply_is_reported(mmvet: Path) -> None:
    def reply(request: dict[str, Any], index: int) -> Reply:
        question = last_row(request)[0]
        if question == "What is v1_2?":
            return completion("Quite right.")
        again = question == "What is v1_1?" and request["temperature"] < 0.5
        return completion("1.5" if again else "1.0")

    with JudgeServer(reply) as server:
        result = judge_mmvet(mmvet, server, max_concurrency=1)
    assert load_json(mmvet / "out" / "grades.json")["v1_2"]["score"] == [None]
    assert result.unreadable == [UnreadableReply(id="v1_2", run=0, reply="Quite right.")]
    assert result.usage.n_replies == 1 + 2 + 5
    last = server.requests[-5:]
    assert [one["temperature"] for one in last] == [0, 0.5, 1, 1.5, 2]
    texts = [one["messages"][-1]["content"] for one in last]
    assert texts[1] == texts[4] != texts[0] and texts[1].endswith(texts[0])
    official, strict = score(mmvet), score(mmvet, "strict")
    assert (official["formatted"], strict["formatted"], official["n_samples"], strict["n_samples"]) == (
        "66.7",
        "100.0",
        3,
        2,
    )
    assert official["notes"][0].startswith("questions with an unreadable score, counted as 0")
    assert official["notes"][0].endswith(": v1_2") and "official 66.67, strict 100.00" in official["notes"][1]


def test_configured_temperature_is_kept(mmvet: Path) -> None:
    with JudgeServer(lambda request, index: completion("1.0" if index % 3 == 2 else None)) as server:
        result = judge_mmvet(mmvet, server, judge_temperature=1.0, max_concurrency=1)
    assert [one["temperature"] for one in server.requests] == [1.0] * 9
    assert result.unreadable == [] and result.config["judge_temperature"] == 1


def test_no_readable_reply_has_no_strict_score(mmvet: Path) -> None:
    with JudgeServer(lambda request, index: completion("?")) as server:
        judge_mmvet(mmvet, server)
    assert score(mmvet)["score"] == 0
    with pytest.raises(ValueError, match="no score is readable"):
        score(mmvet, "strict")


def test_question_without_prediction_is_not_judged(mmvet: Path) -> None:
    write_json(mmvet / "a.json", {"v1_0": "-1", "v1_2": ""})  # file format of the online evaluator
    with JudgeServer(lambda request, index: completion("1.0")) as server:
        result = judge_predictions(
            "mmvet",
            data=mmvet / "eval",
            answers=mmvet / "a.json",
            output=mmvet / "out" / "grades.json",
            config=config(server),
        )
    assert len(server.requests) == 2 and result.unanswered == ["v1_1"]
    assert score(mmvet)["counts"]["n_missing"] == 1


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("0.5", 0.5),
        ("1", 1),
        ("0.5\n", 0.5),
        ("0.5 or so", 0.5),
        *((text, None) for text in (" 0.5", "1.1", "-0.1", "nan", "", "half", "0.5|")),
    ],
)
def test_parse_score(reply: str, value: float | None) -> None:
    assert parse_score(reply) == value


@pytest.mark.parametrize("usage", [None, "x", [1], {"prompt_tokens": "10", "completion_tokens": True}])
def test_server_without_token_counts_and_name(mmvet: Path, usage: Any) -> None:
    reply = completion("1.0", usage=usage, system_fingerprint={}, model=["x"])
    with JudgeServer(lambda request, index: reply) as server:
        result = judge_mmvet(mmvet, server, input_cost_per_mtok=1, output_cost_per_mtok=1)
        again = judge_mmvet(mmvet, server, input_cost_per_mtok=1, output_cost_per_mtok=1)
    assert result.usage.n_replies_without_usage == 3 and result.usage.cost == 0
    assert (result.system_fingerprints, result.answered_by) == (["none"], {"not named": 3})
    assert again.usage == result.usage and len(server.requests) == 3


def test_predictions_of_another_benchmark_send_no_request(mmvet: Path) -> None:
    strange = [answer(i, f"Is {i} a number?\nBriefly.", "Yes") for i in range(3)]
    write_lines(mmvet / "a.jsonl", strange)
    with JudgeServer(lambda request, index: completion("1.0")) as server:
        message = (
            r"a\.jsonl: 3 of 3 predictions are for other questions, such as v1_0: 'Is 0 a number\?\\nBriefly.', "
            "expected 'What"
        )
        with pytest.raises(ValueError, match=message):
            judge_mmvet(mmvet, server)
    assert server.requests == []


def test_match_of_predictions_and_questions(mmvet: Path) -> None:
    rows = [answer(0, "What is v1_0?", "a"), answer(0, "<image>\nWhat is v1_0?", "b")]
    write_lines(mmvet / "a.jsonl", [*rows, answer(1, "What else?", "c"), answer(7, "What?", "d")])
    with JudgeServer(lambda request, index: completion("1.0")) as server:
        result = judge_mmvet(mmvet, server)
    assert sorted(last_row(request)[2] for request in server.requests) == ["b", "c"]
    assert result.counts == PredictionCounts(n_predictions=4, n_missing=1, n_extra=1, n_duplicates=1)
    assert result.unanswered == ["v1_2"]
    assert result.notes == [
        "predictions with another text of the question, judged nevertheless: v1_1",
        "predictions for no question, not judged: 1",
        "predictions repeated later in the file, not judged: 1",
    ]


@with_official
def test_published_mmvet_score(tmp_path: Path) -> None:
    folder = OFFICIAL / "mm_vet"
    contents = {name: one["content"][0] for name, one in load_json(folder / "grades_llava-v1.5-13b_1runs.json").items()}
    questions = load_json(folder / "mm-vet.json")
    answers = load_json(folder / "results_llava-v1.5-13b.json")

    def reply(request: dict[str, Any], index: int) -> Reply:
        text = request["messages"][-1]["content"].removesuffix(" | ")
        name = next(name for name, one in questions.items() if text.endswith(answers[name]) and one["question"] in text)
        return completion(contents[name])

    output = tmp_path / "grades.json"
    with JudgeServer(reply) as server:
        result = judge_predictions(
            "mmvet",
            data=folder,
            answers=folder / "answers_llava-v1.5-13b.jsonl",
            output=output,
            config=config(server, max_concurrency=8),
        )
    assert (len(server.requests), result.unreadable) == (218, [])
    assert scored("mmvet", folder / "mm-vet.json", output)["formatted"] == "36.1"


# LLaVA-Bench --------------------------------------------------------------------------------------------------------

CATEGORIES = ("conv", "detail", "complex")


@pytest.fixture
def llava_bench(tmp_path: Path) -> Path:
    """Return a folder with three questions of LLaVA-Bench in LLaVA's layout and predictions."""
    folder = tmp_path / "eval" / "llava-bench-in-the-wild"
    questions = [
        {"question_id": i, "image": f"00{i}.jpg", "text": f"Question {i}?", "category": kind}
        for i, kind in enumerate(CATEGORIES)
    ]
    write_lines(folder / "questions.jsonl", questions)
    contexts = [{"id": f"00{i}", "image": f"00{i}.jpg", "caption": [f"Scene {i}.", "More."]} for i in range(3)]
    write_lines(folder / "context.jsonl", contexts)
    answer_lines(folder / "answers_gpt4.jsonl", {i: f"Reference {i}." for i in (2, 1, 0)})
    write_lines(tmp_path / "a.jsonl", [answer(i, f"Question {i}?", f"Model {i}.") for i in (1, 0, 2)])
    return tmp_path


def rate(folder: Path, server: JudgeServer, **more: Any) -> JudgeResult:
    output = folder / "out" / "reviews.jsonl"
    return judge_predictions(
        "llava_bench", data=folder / "eval", answers=folder / "a.jsonl", output=output, config=config(server, **more)
    )


def test_reviews_with_llavas_own_rules(llava_bench: Path) -> None:
    rules = {f"llava_bench_{kind}": {"role": "Helper", "prompt": f"Rule of {kind}."} for kind in CATEGORIES}
    write_json(llava_bench / "eval" / "llava-bench-in-the-wild" / "rule.json", rules)
    replies = ["8 6\nFine.", "9,5\nWell.", "10 10"]
    with JudgeServer(lambda request, index: completion(replies[index])) as server:
        result = rate(llava_bench, server, max_concurrency=1, num_runs=3)
    assert [one["role"] for one in server.requests[0]["messages"]] == ["system", "user"]
    assert server.requests[1]["messages"][1]["content"] == (
        "[Context]\nScene 1.\nMore.\n\n[Question]\nQuestion 1?\n\n[Helper 1]\nReference 1.\n\n[End of Helper 1]\n\n"
        "[Helper 2]\nModel 1.\n\n[End of Helper 2]\n\n[System]\nRule of detail.\n\n"
    )
    assert (server.requests[0]["temperature"], server.requests[0]["max_tokens"]) == (0.2, 1024)
    lines = [json.loads(line) for line in (llava_bench / "out" / "reviews.jsonl").read_text().splitlines()]
    head = {"id": 2, "question_id": 1, "category": "llava_bench_detail", "content": "9,5\nWell."}
    assert lines[1] == head | {"tuple": [9, 5], "model": "judge-0613"}
    assert (result.config["num_runs"], result.n_samples, result.notes) == (1, 3, [])
    labels = llava_bench / "eval" / "llava-bench-in-the-wild"
    assert scored("llava_bench", labels, llava_bench / "out" / "reviews.jsonl")["formatted"] == "77.8"  # 7 of 9


def test_own_rules_and_an_unreadable_review(llava_bench: Path) -> None:
    replies = ["8 6\nFine.", "Both are good.", "10 10"]
    with JudgeServer(lambda request, index: completion(replies[index])) as server:
        result = rate(llava_bench, server, max_concurrency=1)
    assert "[Assistant 2]\nModel 0." in server.requests[0]["messages"][1]["content"]
    assert "two numbers" in server.requests[0]["messages"][1]["content"].split("[System]\n")[1].lower()
    assert len(result.notes) == 1 and "LLaVA's rule.json (llava/eval/table in its code)" in result.notes[0]
    assert result.unreadable == [UnreadableReply(id=1, run=0, reply="Both are good.")]
    reviews = llava_bench / "out" / "reviews.jsonl"
    assert json.loads(reviews.read_text().splitlines()[1])["tuple"] == [-1, -1]
    official, strict = scored("llava_bench", (), reviews), scored("llava_bench", (), reviews, "strict")
    assert official["notes"][0] == "unreadable reviews, counted as -1 for both: questions 1"
    assert (official["score"], strict["score"]) == (pytest.approx(100 * 5 / 5.667), pytest.approx(100 * 8 / 9))


def test_incomplete_files(llava_bench: Path) -> None:
    folder = llava_bench / "eval" / "llava-bench-in-the-wild"
    with JudgeServer(lambda request, index: completion("8 8")) as server:
        write_json(folder / "rule.json", {"llava_bench_conv": {"role": "A", "prompt": "x"}})
        with pytest.raises(ValueError, match=r"rule\.json: rule llava_bench_detail is missing"):
            rate(llava_bench, server)
        write_json(folder / "rule.json", {"llava_bench_conv": {"role": "A"}})
        with pytest.raises(ValueError, match=r"rule\.json: rule llava_bench_conv: 'prompt' is missing"):
            rate(llava_bench, server)
        (folder / "rule.json").unlink()
        answer_lines(folder / "answers_gpt4.jsonl", {0: "x", 2: "x"})
        with pytest.raises(ValueError, match=r"answers_gpt4\.jsonl: question 1 \(001\.jpg\) is missing"):
            rate(llava_bench, server)
        write_lines(folder / "context.jsonl", [{"image": "000.jpg"}])
        with pytest.raises(ValueError, match=r"context\.jsonl: context 1: 'caption' is missing"):
            rate(llava_bench, server)
        (folder / "context.jsonl").unlink()
        with pytest.raises(FileNotFoundError, match=r"context\.jsonl: no such file"):
            rate(llava_bench, server)
        answer_lines(llava_bench / "a.jsonl", {99: "x"})
        answer_lines(folder / "answers_gpt4.jsonl", {i: "x" for i in range(3)})
        write_lines(folder / "context.jsonl", [{"image": f"00{i}.jpg", "caption": "x"} for i in range(3)])
        with pytest.raises(ValueError, match="none of its 1 predictions is for a question of the labels"):
            rate(llava_bench, server)
        write_lines(llava_bench / "a.jsonl", [answer(i, f"What is {i}?", "x") for i in range(3)])
        with pytest.raises(ValueError, match="3 of 3 predictions are for other questions, such as 0: 'What is 0"):
            rate(llava_bench, server)
    assert server.requests == []


@with_official
def test_published_llava_bench_score(llava_bench: Path) -> None:
    source = OFFICIAL / "llava_bench_wild"
    folder = llava_bench / "eval" / "llava-bench-in-the-wild"
    questions = [json.loads(line) for line in (source / "questions.jsonl").read_text().splitlines()]
    lines = (source / "reviews_llava-v1.5-13b-eval1.jsonl").read_text().splitlines()
    contents = {one["question_id"]: one["content"] for one in map(json.loads, lines)}
    write_lines(folder / "questions.jsonl", questions)
    write_lines(folder / "context.jsonl", [{"image": one["image"], "caption": ["x"]} for one in questions])
    answer_lines(folder / "answers_gpt4.jsonl", {one["question_id"]: f"ID {one['question_id']}" for one in questions})

    def reply(request: dict[str, Any], index: int) -> Reply:
        return completion(contents[int(request["messages"][1]["content"].split("ID ")[1].split()[0])])

    with JudgeServer(reply) as server:
        judge_predictions(
            "llava_bench",
            data=folder,
            answers=source / "answers_llava-v1.5-13b.jsonl",
            output=llava_bench / "r.jsonl",
            config=config(server),
        )
    assert scored("llava_bench", source / "questions.jsonl", llava_bench / "r.jsonl")["formatted"] == "72.8"


def test_benchmarks_with_a_judge(tmp_path: Path) -> None:
    assert [name for name, one in BENCHMARKS.items() if one.judge] == ["llava_bench", "mmvet"]
    asked = JudgeConfig(judge_model="x", judge_url="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="gqa has no judge; choose from llava_bench, mmvet"):
        judge_predictions(BENCHMARKS["gqa"], data=tmp_path, answers=tmp_path / "a", output=tmp_path / "b", config=asked)
    with pytest.raises(ValueError, match=r"b\.jsonl: reviews of mmvet are stored in a \.json file"):
        judge_predictions("mmvet", data=tmp_path, answers=tmp_path / "a", output=tmp_path / "b.jsonl", config=asked)
    with pytest.raises(ValueError, match="the judge is missing"):
        judge_predictions(
            "mmvet", data=tmp_path, answers=tmp_path / "a", output=tmp_path / "b.json", config=JudgeConfig()
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"judge_model": ""}, "judge_model\n.*at least 1 character"),
        ({"judge_model": None}, "both judge_url and judge_model"),
        ({"judge_url": "localhost:8000"}, "judge_url\n.*should match pattern"),
        ({"num_runs": 0}, "num_runs\n.*greater than or equal to 1"),
        ({"input_cost_per_mtok": -1.0, "output_cost_per_mtok": 0.0}, "input_cost_per_mtok\n.*greater than or equal"),
        ({"input_cost_per_mtok": 1.0}, "both input_cost_per_mtok and output_cost_per_mtok"),
        ({"runs": 1}, "runs\n.*Unexpected"),
    ],
)
def test_invalid_configurations(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**{"judge_model": "judge", "judge_url": "http://127.0.0.1:1", **wrong})
