"""`eval score`, `compare` and `submission` on small files: what is printed, written and refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aligngpt.cli import cli
from aligngpt.evaluation.artifacts import BenchmarkResult, EvalResults
from aligngpt.evaluation.benchmarks import BENCHMARKS
from tests.evaluation.benchmark_files import answer_lines, counts, write_json, write_lines


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="aligngpt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GQA labels of 30 questions and answers of two models; the second lacks one and has one to another question."""
    types = {"structural": "verify", "semantic": "attr"}
    labels = {
        str(i): {"question": "Is it?", "answer": "yes", "isBalanced": True}
        | {"types": types | {"structural": "query" if i % 3 else "verify"}}
        for i in range(30)
    }
    write_json(tmp_path / "questions.json", labels)
    answer_lines(tmp_path / "first.jsonl", {i: "Yes" if i % 2 else "No" for i in range(30)})
    answer_lines(tmp_path / "second.jsonl", {99: "\ud83d half", **{i: "Yes." for i in range(1, 30)}})
    return tmp_path


def score(folder: Path, answers: str, *more: object) -> Result:
    return invoke("eval", "score", "gqa", "--labels", folder, "--answers", folder / answers, *more)


def test_a_table(folder: Path) -> None:
    done = score(folder, "second.jsonl")
    assert done.exit_code == 0, done.output
    for text in ("GQA, official protocol", "96.67", "missing", "By form", "binary", "Official metrics"):
        assert text in done.stdout
    assert "note: answers to no question of the labels: 1 of 30" in done.stdout
    assert "note: missing predictions, counted as wrong: 1; the official scorer stops" in done.stdout


def test_json_alone_and_a_file(folder: Path) -> None:
    done = score(folder, "second.jsonl", "--json", "--output", folder / "new" / "second.json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((folder / "new" / "second.json").read_text())
    assert result["score"] == pytest.approx(100 * 29 / 30)
    assert result["counts"] == counts(30, 1, 1, 0)
    assert sorted(path.name for path in (folder / "new").iterdir()) == ["second.json"]


def test_half_a_character_can_be_printed_and_stored(tmp_path: Path) -> None:
    write_json(
        tmp_path / "q.json", {"data": [{"question_id": 1, "image_id": "i", "question": "Q?", "answers": ["x"] * 10}]}
    )
    given = answer_lines(tmp_path / "a.jsonl", {"i": "\ud83d"}, "Q?\nBriefly.")
    done = invoke(
        "eval", "score", "textvqa", "--labels", tmp_path / "q.json", "--answers", given, "--json", "--output",
        tmp_path / "r.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for text in (done.stdout, (tmp_path / "r.json").read_text(encoding="utf-8")):
        assert json.loads(text)["samples"][0]["text"] == "\ud83d"


def test_strict_and_ignored(folder: Path) -> None:
    done = score(folder, "second.jsonl", "--protocol", "strict", "--ignore", "99", "--json")
    result = json.loads(done.stdout)
    assert (result["protocol"], result["counts"]["n_extra"], result["notes"]) == ("strict", 0, [])


def compare(*arguments: object) -> dict[str, Any]:
    done = invoke("eval", "compare", *arguments, "--json")
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)
    return result


def test_compare_answers_or_results(folder: Path) -> None:
    first, second = folder / "first.jsonl", folder / "second.jsonl"
    direct = compare(second, first, "--benchmark", "gqa", "--labels", folder)
    assert (direct["baseline"]["n_better"], direct["model"]["n_better"], direct["n_equal"]) == (0, 14, 16)
    assert direct["p_value"] == pytest.approx(2 / 2**14)
    for name in ("first", "second"):
        score(folder, f"{name}.jsonl", "--output", folder / f"{name}.json")
    stored = compare(folder / "second.json", folder / "first.json")
    for one in (stored, direct):
        for side in ("model", "baseline"):
            assert one[side].pop("source").startswith(str(folder))
    assert stored == direct
    done = invoke("eval", "compare", folder / "second.json", folder / "first.json")
    for text in ("GQA, accuracy, official protocol: second against first", "+46.67", "p, exact McNemar test"):
        assert text in done.stdout


def test_compare_with_a_page(folder: Path) -> None:
    short = "\nAnswer the question using a single word or phrase."
    lines = [{"question_id": i, "image": "x.jpg", "text": f"Question {i}?{short}"} for i in range(30)]
    write_lines(folder / "eval" / "gqa" / "llava_gqa_testdev_balanced.jsonl", lines)
    files = (folder / "second.jsonl", folder / "first.jsonl", "--benchmark", "gqa", "--labels", folder)
    page = folder / "new" / "page.html"
    done = invoke("eval", "compare", *files, "--output", page, "--data", folder / "eval")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"Report: {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "second against first" in text and "Question 14?" in text
    assert compare(*files, "--output", page) == compare(*files)
    assert "Question 14?" not in page.read_text(encoding="utf-8")


def test_files_of_the_same_name_are_called_by_their_folders(folder: Path) -> None:
    for name in ("one", "two"):
        score(folder, "first.jsonl", "--output", folder / name / "gqa" / "score.json")
    files = [folder / name / "gqa" / "score.json" for name in ("one", "two")]
    assert invoke("eval", "compare", *files, "--output", folder / "page.html").exit_code == 0
    assert "one against two" in (folder / "page.html").read_text(encoding="utf-8")
    same = invoke("eval", "compare", files[0], files[0].parent / ".." / "gqa" / "score.json")
    assert same.exit_code == 2 and "model and baseline are the same; pass two different paths" in same.stderr


@pytest.fixture
def outputs(folder: Path) -> Path:
    """What `eval run` leaves of two models."""
    for name in ("first", "second"):
        assert score(folder, f"{name}.jsonl", "--output", folder / "out" / name / "gqa" / "score.json").exit_code == 0
        rows = [BenchmarkResult(benchmark="gqa", title="GQA", metric="accuracy")]
        EvalResults(model="tiny", model_hash="0", versions={}, benchmarks=rows).write(folder / "out" / name)
    return folder / "out"


def test_report_eval(outputs: Path) -> None:
    done = invoke("report", "eval", outputs / "second")
    assert (done.exit_code, done.stdout) == (0, f"Report: {outputs / 'second' / 'index.html'}\n"), done.output
    page = outputs / "page.html"
    done = invoke("report", "eval", outputs / "second", "--compare", outputs / "first", "--output", page, "--json")
    assert json.loads(done.stdout) == {"report": str(page)}
    text = page.read_text(encoding="utf-8")
    assert "second scores higher on GQA" in text and "+46.7" in text and text.count('<li class="card pair">') == 12
    invoke("report", "eval", outputs / "second", "--compare", outputs / "first", "--output", page, "--examples", "0")
    assert '<li class="card pair">' not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "eval", "out"], 2, "out/results.json: no such file"),
        (["report", "eval", "nowhere"], 2, "'nowhere' does not exist"),
        (["report", "eval", "out/first", "--compare", "out"], 1, "no benchmark has a score.json in both"),
        (["report", "eval", "out/first", "--data", "."], 2, "pass --compare with the results of a baseline"),
        (
            ["eval", "compare", "out/first/gqa/score.json", "out/second/gqa/score.json", "--data", "."],
            2,
            "needs --output",
        ),
    ],
)
def test_what_no_page_is_made_of(
    arguments: list[str], code: int, message: str, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outputs.parent)
    done = invoke(*arguments)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("aligngpt: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_pages_without_matplotlib_say_what_to_install(outputs: Path) -> None:
    program = f"""
import sys
sys.modules["matplotlib"] = None
from aligngpt.cli import cli
sys.argv = ["aligngpt", "report", "eval", {str(outputs / "first")!r}]
cli()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'aligngpt[report]'" in done.stderr and done.stderr.count("\n") == 1


def test_submission(tmp_path: Path) -> None:
    lines = [{"question_id": i, "image": f"{i}.jpg", "text": "?", "category": "x"} for i in (2, 1)]
    questions = write_lines(tmp_path / "q.jsonl", lines)
    given = answer_lines(tmp_path / "a.jsonl", {1: "The Cat.", 2: "Two"})
    common = ("--questions", questions, "--answers", given, "--output", tmp_path / "up" / "x.json")
    done = invoke("eval", "submission", "vizwiz", *common)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "up" / "x.json").read_text()) == [
        {"image": "2.jpg", "answer": "2"},
        {"image": "1.jpg", "answer": "cat"},
    ]
    done = invoke("eval", "submission", "gqa", *common)
    assert done.exit_code == 2 and "gqa has no server, use aligngpt eval score" in done.stderr
    served = [name for name, one in BENCHMARKS.items() if one.write_submission]
    assert f"{', '.join(served)} have one" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["score", "gqaa", "--answers", "first.jsonl"],
            2,
            "'gqaa' is not a benchmark; did you mean 'gqa'?",
        ),
        (["score", "gqa", "--answers", "first.jsonl"], 1, "the GQA questions are missing; pass --labels"),
        (["score", "gqa", "--answers", "nowhere.jsonl"], 2, "'nowhere.jsonl' does not exist"),
        (["score", "gqa", "--labels", "nowhere", "--answers", "first.jsonl"], 2, "'nowhere' does not exist"),
        (["score", "gqa", "--answers", "first.jsonl", "--protocol", "x"], 2, "'x' is not one of 'official', 'strict'"),
        (
            ["score", "gqa", "--labels", ".", "--answers", "cut.jsonl"],
            1,
            "cut.jsonl:2: broken JSON: Unterminated string",
        ),
        (
            ["score", "gqa", "--labels", ".", "--answers", "other.jsonl"],
            1,
            "none of its 1 predictions is for a question",
        ),
        (["score", "vqav2", "--labels", "questions.json", "--answers", "first.jsonl"], 1, "expected VQAv2 annotations"),
        (
            ["score", "mmbench", "--labels", "b.tsv", "--answers", "first.jsonl"],
            1,
            "index 1: image is broken base64",
        ),
        (
            ["score", "mmvet", "--labels", "questions.json", "--answers", "first.jsonl"],
            1,
            "MM-Vet question 0: 'capability' is missing",
        ),
        (["compare", "first.jsonl", "second.jsonl"], 1, "for predictions pass --benchmark and --labels"),
        (["compare", "first.jsonl", "second.jsonl", "--labels", "."], 2, "which need --benchmark as well"),
        (["compare", "first.jsonl", "second.jsonl", "--protocol", "strict"], 2, "which need --benchmark as well"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("cut.jsonl").write_text('{"question_id": 1, "text": "Yes"}\n{"question_id": 2, "text": "Y')
    answer_lines(Path("other.jsonl"), {"900": "Yes"})
    Path("b.tsv").write_text("index\tquestion\tA\tB\tanswer\timage\n1\tq\tx\ty\tA\t???\n")
    done = invoke("eval", *arguments)
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("aligngpt: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert done.stdout == ""


def test_an_unknown_benchmark_is_answered_with_every_name() -> None:
    done = invoke("eval", "score", "unknown", "--answers", "pyproject.toml")
    assert done.exit_code == 2 and f"choose from {', '.join(BENCHMARKS)};" in done.stderr
    for command in ("score", "submission"):
        assert "mmbench_cn" not in invoke("eval", command, "--help").stdout  # a further one is named nowhere but there


def test_an_interval_without_width_is_a_dash(folder: Path) -> None:
    same = folder / "same.jsonl"
    same.write_bytes((folder / "first.jsonl").read_bytes())
    done = invoke("eval", "compare", folder / "first.jsonl", same, "--benchmark", "gqa", "--labels", folder)
    assert done.exit_code == 0, done.output
    assert re.search(r"95% CI +│ - ", done.stdout) and "0.00 to 0.00" not in done.stdout


def test_scoring_needs_no_model() -> None:
    program = """
import sys
from aligngpt.evaluation import benchmarks, compare, scoring
heavy = {"torch", "transformers", "PIL", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
