"""`eval run` and `synthetic benchmarks` at the command line: what is printed, what is refused, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aligngpt.cli import cli
from aligngpt.evaluation.benchmarks import BENCHMARKS
from tests.evaluation.mock_runs import MOCKED, content, save_model


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="aligngpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and mock files of the benchmarks."""
    folder = tmp_path_factory.mktemp("runs")
    save_model(folder)
    done = invoke("synthetic", "benchmarks", "--output", folder / "data", "--questions", 6)
    assert done.exit_code == 0 and "questions" in done.stdout
    return folder


def arguments(folder: Path, output: Path, *more: object) -> list[object]:
    return ["--model", folder / "model", "--data", folder / "data", "--output", output, *more]


def test_all_from_questions_to_scores(folder: Path, tmp_path: Path) -> None:
    done = invoke("eval", "run", "--tasks", "all", *arguments(folder, tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert all(BENCHMARKS[name].title in done.stdout for name in MOCKED)
    assert "note: synthetic: " in done.stdout and "to get Synthetic: aligngpt synthetic generate" in done.stdout
    assert "note: vqav2: scored by a server" in done.stdout
    assert "note: mmvet: not judged; pass --judge-url and --judge-model" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == sorted(MOCKED)
    before = content(tmp_path / "out" / "pope")
    again = invoke("eval", "run", "--tasks", "pope", *arguments(folder, tmp_path / "out"), "--json")
    assert again.exit_code == 0
    results = json.loads(again.stdout)
    assert len(results["benchmarks"]) == len(BENCHMARKS) and results["report"] == str(tmp_path / "out" / "index.html")
    assert "pope: predictions are complete, only scored again" in again.stderr
    assert content(tmp_path / "out" / "pope") == before


def test_what_eval_score_writes_is_what_a_run_writes(folder: Path, tmp_path: Path) -> None:
    assert invoke("eval", "run", "--tasks", "gqa", *arguments(folder, tmp_path / "out")).exit_code == 0
    labels, own = folder / "data/gqa/data/testdev_balanced_questions.json", tmp_path / "out/gqa"
    scored = ["eval", "score", "gqa", "--labels", labels, "--answers", own / "answers.jsonl"]
    assert invoke(*scored, "--output", tmp_path / "score.json").exit_code == 0
    assert (own / "score.json").read_bytes() == (tmp_path / "score.json").read_bytes()


def test_missing_benchmarks_and_images_are_named(folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    for name in ("pope", "MME", "mmbench", "mmbench_cn", "seed_bench", "mm-vet", "scienceqa", "textvqa", "vqav2"):
        shutil.rmtree(data / name)
    for number in range(6):
        (data / f"vizwiz/test/VizWiz_test_{number:08d}.jpg").write_bytes(b"" if number else b"\xff\xd8 no image")
    options = ["--model", folder / "model", "--data", data, "--output", tmp_path / "out"]
    done = invoke("eval", "run", "--tasks", "all", *options)
    assert done.exit_code == 0, done.output
    assert "note: pope: " in done.stdout and "pope/llava_pope_test.jsonl: no such file; to get POPE" in done.stdout
    (warning,) = done.stderr.splitlines()
    assert "vizwiz: 6 images cannot be read, their predictions are empty: VizWiz_test_00000000.jpg" in warning
    assert warning.endswith("and 1 more in results.json")
    lost = invoke("eval", "run", "--tasks", "pope", *options)
    assert lost.exit_code == 2 and lost.stderr.count("\n") == 1
    assert "no such file; to get POPE: images: http://images.cocodataset.org" in lost.stderr
    shutil.rmtree(data)
    data.mkdir()
    assert invoke("eval", "run", "--tasks", "all", *options).exit_code == 2


def test_a_score_that_fails_is_an_error_after_all_is_written(folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(folder / "data", tmp_path / "data"))
    for one in data.iterdir():
        if one.name not in ("gqa", "vizwiz"):
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    (data / "gqa/data/testdev_balanced_questions.json").write_text("{")
    options = ["--model", folder / "model", "--data", data, "--output", tmp_path / "out"]
    done = invoke("eval", "run", "--tasks", "gqa", *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("aligngpt: error: gqa: ") and "broken JSON" in done.stderr
    assert done.stderr.endswith("the predictions are kept\n") and done.stderr.count("\n") == 1
    assert (tmp_path / "out/gqa/answers.jsonl").is_file() and (tmp_path / "out/index.html").is_file()
    assert invoke("eval", "run", "--tasks", "vizwiz", *options).exit_code == 0  # its server scores it
    every = invoke("eval", "run", "--tasks", "all", *options)
    assert every.exit_code == 0
    assert "aligngpt: warning: gqa: " in every.stderr and "broken JSON" in every.stderr


def test_several_tasks_in_the_order_of_the_tables(folder: Path, tmp_path: Path) -> None:
    done = invoke("eval", "run", "--tasks", "pope, gqa", *arguments(folder, tmp_path, "--limit", 1, "--json"))
    assert done.exit_code == 0, done.output
    assert [row["benchmark"] for row in json.loads(done.stdout)["benchmarks"]] == ["gqa", "pope"]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--shard", "3/2"], 2, "'3/2' is not a shard"),
        (["--shard", "half"], 2, "'half' is not a shard"),
        (["--batch-size", 0], 2, "input should be greater than or equal to 1, got '0'"),
        (["--judge-url", "http://127.0.0.1:1/v1"], 2, "a judge needs both judge_url and judge_model"),
        (["--alignment", 9], 2, "a level from 1 to 4"),
        (["--dtype", "int4"], 2, "input should be 'float32', 'float16' or 'bfloat16', got 'int4'"),
    ],
)
def test_what_is_wrong_is_one_line(more: list[object], code: int, message: str, folder: Path, tmp_path: Path) -> None:
    done = invoke("eval", "run", "--tasks", "pope", *arguments(folder, tmp_path / "out", *more))
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert done.stderr.startswith("aligngpt: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_setting_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    assert invoke("eval", "run", "--tasks", "pope", *arguments(folder, tmp_path, "--limit", 2)).exit_code == 0
    done = invoke("eval", "run", "--tasks", "pope", *arguments(folder, tmp_path, "--limit", 3))
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "limit is 2 there, 3 requested; choose another --output" in done.stderr


def test_an_unknown_benchmark(folder: Path, tmp_path: Path) -> None:
    done = invoke("eval", "run", "--tasks", "vqa", *arguments(folder, tmp_path))
    assert done.exit_code == 2 and "'vqa' is not a benchmark; did you mean 'vqav2'?" in done.stderr


def test_mock_benchmarks_at_the_command_line(folder: Path, tmp_path: Path) -> None:
    done = invoke("synthetic", "benchmarks", "--output", folder / "data", "--questions", 6, "--json")
    info = json.loads(done.stdout)
    assert (info["questions"], info["seed"]) == (6, 0)
    other = invoke("synthetic", "benchmarks", "--output", folder / "data", "--questions", 9)
    assert other.exit_code == 1 and "choose another --output" in other.stderr
    assert invoke("synthetic", "benchmarks", "--output", tmp_path / "few", "--questions", 5).exit_code == 2


def test_a_run_is_repeated_from_its_config(folder: Path, tmp_path: Path) -> None:
    options = arguments(folder, tmp_path / "out", "--limit", 1, "--batch-size", 3)
    assert invoke("eval", "run", "--tasks", "pope", *options).exit_code == 0
    options = arguments(folder, tmp_path / "again", "--config", tmp_path / "out")
    assert invoke("eval", "run", "--tasks", "pope", *options).exit_code == 0
    config = (tmp_path / "again" / "config.yaml").read_text(encoding="utf-8")
    assert config == (tmp_path / "out" / "config.yaml").read_text(encoding="utf-8")
    assert "batch_size: 3\n" in config and "limit: 1\n" in config


def test_an_unknown_benchmark_is_refused_without_torch(folder: Path, tmp_path: Path) -> None:
    program = "import sys; from aligngpt.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    options = map(str, arguments(folder, tmp_path))
    command = [sys.executable, "-c", program, "eval", "run", "--tasks", "popee", *options]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2 and "did you mean 'pope'?" in failed.stderr
