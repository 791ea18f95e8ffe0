"""The main job: steps in their order, two at a time, done once; and the whole way gone, with next to no training."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from aligngpt.cli import cli
from aligngpt.experiments import demo as pipeline
from aligngpt.experiments import summary
from aligngpt.experiments.configs import synthetic as scenes
from aligngpt.experiments.configs import synthetic_smoke as quick_scenes
from aligngpt.experiments.demo import Step, StepFailed, run_scenes, run_steps, scenes_steps
from aligngpt.synthetic.backbones import BASES
from aligngpt.synthetic.scenes import QUESTION_KINDS

WRITTEN = ("config.yaml", "run_config.json", "skipped.jsonl", "train_results.json")  # of each stage

# Stands in for `aligngpt`: name, seconds, file to write, file of events, and whether it fails or how many MB it takes.
STAND_IN = """
import os, pathlib, sys, time
name, seconds, result, events, outcome = sys.argv[1:]
def tell(event):
    with open(events, "a") as file:
        file.write(f"{event} {name}\\n")
tell("start")
print("threads", os.environ["OMP_NUM_THREADS"], flush=True)
time.sleep(float(seconds))
if outcome == "fail":
    print("first a warning\\naligngpt: error: then the reason", file=sys.stderr)
    sys.exit(3)
if outcome.isdigit():
    block = b"x" * (int(outcome) * 10**6)
pathlib.Path(result).write_text(name)
tell("end")
"""


@pytest.fixture(autouse=True)
def _stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps run a small program, on two cores, except where the real one is wanted."""
    if "quick_run" not in request.fixturenames:
        monkeypatch.setattr(pipeline, "_PROGRAM", (sys.executable, "-S", "-c", STAND_IN))
        monkeypatch.setattr(pipeline, "_POLL_SECONDS", 0.01)
        monkeypatch.setattr("os.cpu_count", lambda: 2)


def step(folder: Path, name: str, *after: str, seconds: float = 0.0, outcome: str = "well") -> Step:
    result = folder / f"{name}.txt"
    return Step(name, (name, str(seconds), str(result), str(folder / "events"), outcome), result, after)


def events(folder: Path) -> list[str]:
    return (folder / "events").read_text().splitlines()


# -------------------------------------------------------------------------------------------------------------- steps


def test_steps_wait_for_what_they_read(tmp_path: Path) -> None:
    steps = [
        step(tmp_path, "last", "left", "right"),
        step(tmp_path, "left", "first"),
        step(tmp_path, "right", "left", seconds=0.1),
        step(tmp_path, "first"),
    ]
    costs = run_steps(steps, tmp_path)
    assert events(tmp_path) == [
        f"{event} {name}" for name in ("first", "left", "right", "last") for event in ("start", "end")
    ]
    assert list(costs) == ["last", "left", "right", "first"]
    assert costs == {name: json.loads((tmp_path / "steps.json").read_text())[name] for name in costs}
    assert 0.1 <= costs["right"]["seconds"] < 5
    assert (tmp_path / "logs" / "left.log").read_text() == "threads 1\n"


def test_the_peak_of_memory_is_measured(tmp_path: Path) -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6  # counted until the step's program starts
    costs = run_steps([step(tmp_path, "small"), step(tmp_path, "large", "small", outcome=str(own + 200))], tmp_path)
    assert costs["small"]["memory_mb"] < own + 50
    assert own + 200 < costs["large"]["memory_mb"] < own + 300


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_two_lanes_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    run_steps([step(tmp_path, name, seconds=0.3) for name in "abcd"], tmp_path)
    running = most = 0
    for event in events(tmp_path):
        running += 1 if event.startswith("start") else -1
        most = max(most, running)
    assert most == min(cores, 2)
    assert (tmp_path / "logs" / "a.log").read_text() == f"threads {max(1, cores // 2)}\n"


def test_the_number_of_threads_can_be_told(tmp_path: Path) -> None:
    run_steps([step(tmp_path, "a")], tmp_path, threads=5)
    assert (tmp_path / "logs" / "a.log").read_text() == "threads 5\n"


def test_done_steps_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a"), step(tmp_path, "c", "b")]
    first = run_steps(steps, tmp_path)
    (tmp_path / "events").unlink()
    (tmp_path / "c.txt").unlink()  # its result is gone
    costs = run_steps(steps, tmp_path)
    assert events(tmp_path) == ["start c", "end c"]
    assert (costs["a"], costs["b"]) == (first["a"], first["b"])
    assert "a: done before" in capsys.readouterr().err
    (tmp_path / "events").unlink()
    assert run_steps(steps, tmp_path) == costs
    assert not (tmp_path / "events").exists()


def test_a_failure_is_told_and_the_rest_goes_on_later(tmp_path: Path) -> None:
    steps = [
        step(tmp_path, "a"),
        step(tmp_path, "slow", "a", seconds=60),
        step(tmp_path, "bad", "a", outcome="fail"),
        step(tmp_path, "after", "bad"),
    ]
    with pytest.raises(StepFailed, match=r"^step bad failed: then the reason \(log: .*bad\.log\)$"):
        run_steps(steps, tmp_path)
    assert "end slow" not in events(tmp_path) and "start after" not in events(tmp_path)
    costs = json.loads((tmp_path / "steps.json").read_text())
    assert {name: cost["done"] for name, cost in costs.items()} == {"a": True, "bad": False, "slow": False}
    mended = [
        steps[0],
        *(step(tmp_path, name, after) for name, after in (("slow", "a"), ("bad", "a"), ("after", "bad"))),
    ]
    (tmp_path / "events").unlink()
    assert set(run_steps(mended, tmp_path)) == {"a", "slow", "bad", "after"}
    assert {event for event in events(tmp_path) if event.startswith("end")} == {"end slow", "end bad", "end after"}
    assert "start a" not in events(tmp_path)


def test_a_cut_stops_what_runs_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a", seconds=60)]
    processes: list[Any] = []
    original = pipeline._Process

    class Watched(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            processes.append(self._process)

    def sleep(seconds: float) -> None:
        if (tmp_path / "events").exists() and "start b" in events(tmp_path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_Process", Watched)
        patch.setattr(pipeline.time, "sleep", sleep)
        with pytest.raises(KeyboardInterrupt):
            run_steps(steps, tmp_path)
    assert [process.returncode for process in processes] == [0, -15]
    path = tmp_path / "steps.json"
    cut = json.loads(path.read_text())
    assert 0 < cut["b"]["seconds"] < 30 and cut["b"]["memory_mb"] > 0 and not cut["b"]["done"]
    path.write_text(json.dumps(cut | {"b": {"seconds": 100.0, "memory_mb": 1e6, "done": False}}))
    costs = run_steps([steps[0], step(tmp_path, "b", "a")], tmp_path)
    assert 100 < costs["b"]["seconds"] < 110 and costs["b"]["memory_mb"] == 1e6 and costs["b"]["done"]
    assert events(tmp_path) == ["start a", "end a", "start b", "start b", "end b"]


def test_a_step_that_runs_again_counts_anew(tmp_path: Path) -> None:
    known = {"a": {"seconds": 100.0, "memory_mb": 1e6, "done": True}}
    (tmp_path / "steps.json").write_text(json.dumps(known))
    assert run_steps([step(tmp_path, "a")], tmp_path)["a"]["seconds"] < 30


def test_a_killed_step_is_told_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print('all is well', flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(pipeline, "_PROGRAM", (sys.executable, "-S", "-c", code))
    with pytest.raises(StepFailed, match=r"^step a failed: it was ended by SIGKILL \(log: "):
        run_steps([Step("a", (), tmp_path / "a.txt")], tmp_path)


# The command line with steps that write their process number to a file and sleep.
SLEEPERS = """
import sys
from aligngpt.experiments import demo as pipeline
from aligngpt.cli import main
code = "import os, time; open('pids', 'a').write(f'{os.getpid()} '); time.sleep(120)"
pipeline._PROGRAM = (sys.executable, "-S", "-c", code)
main(["run", "scenes", "--preset", "synthetic-smoke", "--output", "run"])
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_that_is_ended_ends_its_steps(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SLEEPERS]
    pids = tmp_path / "pids"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        try:
            wait_until(lambda: pids.is_file() and pids.read_text().endswith(" "))
            if number == signal.SIGTERM:
                second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
                assert second.returncode == 1
                said = "aligngpt: error: another run is at work in run: wait for it, or choose another --output\n"
                assert second.stderr == said
            [child] = map(int, pids.read_text().split())
            assert alive(child)
            job.send_signal(number)
            said = job.stderr.read()
        finally:
            job.kill()
    wait_until(lambda: not alive(child))
    if number != signal.SIGKILL:
        assert job.returncode == 130
        assert said.splitlines()[-1].startswith("aligngpt: error: interrupted")


def test_the_handler_of_sigterm_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_steps([step(tmp_path, "a")], tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_steps_run_in_another_thread_too(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run_steps, [step(tmp_path, "a")], tmp_path).result()["a"]["done"]


def test_a_failed_step_is_one_clean_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.exit('aligngpt: error: the disk is full')"
    monkeypatch.setattr(pipeline, "_PROGRAM", (sys.executable, "-S", "-c", code))
    done = CliRunner().invoke(cli, ["run", "scenes", "--preset", "synthetic-smoke", "--output", str(tmp_path)])
    assert done.exit_code == 1
    log = tmp_path / "logs" / "make.log"
    assert done.stderr.splitlines()[-1] == f"aligngpt: error: step make failed: the disk is full (log: {log})"


@pytest.mark.parametrize("after", [("gone",), ("b",)])
def test_steps_that_can_never_run_are_an_error(tmp_path: Path, after: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="steps a, b wait for steps that never come"):
        run_steps([step(tmp_path, "a", *after), step(tmp_path, "b", "a"), step(tmp_path, "c")], tmp_path)
    assert events(tmp_path) == ["start c", "end c"]


# ----------------------------------------------------------------------------------------------------------- the job


def test_the_arms_differ_in_alignment_alone(tmp_path: Path) -> None:
    steps = {one.name: one for one in scenes_steps(scenes(), tmp_path)}
    arms = {}
    for arm in ("adaptive", "none"):
        recipes = [
            json.loads((tmp_path / "recipes" / f"{stage}-{arm}.json").read_text()) for stage in ("pretrain", "finetune")
        ]
        commands = [" ".join(steps[f"{stage}-{arm}"].command) for stage in ("pretrain", "finetune", "eval")]
        assert [recipe.pop("alignment") for recipe in recipes] == ["levels" if arm == "adaptive" else arm, arm]
        commands[0] = commands[0].replace(f" --levels {tmp_path / 'levels'}", "") if arm == "adaptive" else commands[0]
        arms[arm] = (recipes, [command.replace(f"-{arm}", "") for command in commands])
    assert arms["adaptive"] == arms["none"]
    assert steps["pretrain-none"].after == ("make",)
    assert set(steps["pretrain-adaptive"].after) == {"make", "level"}
    known = set(steps)
    assert all(set(one.after) <= known for one in steps.values())


def test_another_recipe_in_the_folder_is_refused(tmp_path: Path) -> None:
    pipeline._claim(tmp_path, quick_scenes())
    pipeline._claim(tmp_path, quick_scenes())
    (tmp_path / "steps.json").write_text('{"make": {"seconds": 1.0, "memory_mb": 1.0, "done": true}}')
    other = replace(quick_scenes(), pairs=97, pretrain=replace(quick_scenes().pretrain, learning_rate=1e-5))
    with pytest.raises(ValueError, match="another pairs, pretrain: choose another --output"):
        run_scenes(other, tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"]["pairs"] == 96


def test_a_folder_in_which_nothing_was_finished_takes_another_recipe(tmp_path: Path) -> None:
    pipeline._claim(tmp_path, quick_scenes())
    (tmp_path / "steps.json").write_text('{"make": {"seconds": 1.0, "memory_mb": 1.0, "done": false}}')
    pipeline._claim(tmp_path, replace(quick_scenes(), pairs=97))
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"]["pairs"] == 97
    assert not (tmp_path / "steps.json").exists()


def test_ranks_share_ties() -> None:
    assert summary._ranks(np.array([0.3, 0.1, 0.3, 0.2])).tolist() == [2.5, 0.0, 2.5, 1.0]
    assert summary._ranks(np.array([5, 5, 5])).tolist() == [1.0, 1.0, 1.0]


# -------------------------------------------------------------------------------------------------- the way gone once

STEPS = (
    *("make", "score", "level", "captions"),
    *(f"{stage}-{arm}" for stage in ("pretrain", "finetune", "eval") for arm in ("adaptive", "none")),
)
FILES = (
    *("recipe.json", "steps.json", "summary.json", "report.html"),
    *(f"data/{name}.json" for name in ("scenes", "pretrain", "finetune", "test", "truth")),
    *("scores/manifest.json", "levels/levels.json", "levels/levels.parquet", "captions/captions.json"),
    *(f"logs/{name}.log" for name in STEPS),
    *(f"configs/{stage}-{arm}.yaml" for stage in ("pretrain", "finetune") for arm in ("adaptive", "none")),
    *(
        f"pretrain-{arm}/{name}"
        for arm in ("adaptive", "none")
        for name in ("stage1.safetensors", "stage1.json", *WRITTEN)
    ),
    *(
        f"finetune-{arm}/{name}"
        for arm in ("adaptive", "none")
        for name in ("model.safetensors", "config.json", "tokenizer.json", *WRITTEN)
    ),
    *(
        "eval-adaptive/gates.json",
        *(f"eval-{a}/{n}" for a in ("adaptive", "none") for n in ("answers.jsonl", "results.json")),
    ),
)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The whole way with the `quick` recipe, gone once for all tests of this file."""
    if not (BASES / "llm" / "config.json").is_file():
        pytest.skip("no base models in the package")
    folder = tmp_path_factory.mktemp("run") / "quick"
    return folder, run_scenes(quick_scenes(), folder)


def test_the_way_leaves_every_file(quick_run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = quick_run
    assert [name for name in FILES if not (folder / name).is_file()] == []
    assert len(list((folder / "data" / "images").glob("*.png"))) == 96 + 28
    assert set(json.loads((folder / "steps.json").read_text())) == set(STEPS)


def test_the_summary_tells_the_figures(quick_run: tuple[Path, dict[str, Any]]) -> None:
    folder, told = quick_run
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(told))
    levels = told["recipe"]["num_levels"]
    for name in ("caption_recall_by_level", "caption_precision_by_level"):
        assert len(told[name]) == levels and all(0 <= value <= 1 for value in told[name])
    assert len(told["stage1_loss_by_level"]) == levels and min(told["stage1_loss_by_level"]) > 0
    assert -1 <= told["spearman_score_coverage"] <= 1
    assert set(told["accuracy"]) == set(told["accuracy_by_kind"]) == {"adaptive", "none"}
    for arm, by_kind in told["accuracy_by_kind"].items():
        assert set(by_kind) == set(QUESTION_KINDS)
        assert told["accuracy"][arm] == pytest.approx(np.mean(list(by_kind.values())), abs=1e-3)
        low, high = told["accuracy_interval"][arm]
        assert low <= told["accuracy"][arm] <= high
    assert set(told["seconds"]) == set(told["memory_mb"]) == set(STEPS)
    assert all(value > 0 for value in (*told["seconds"].values(), *told["memory_mb"].values()))
    assert sum(told["levels"]["counts"]) == 96 and told["levels"]["counts"] == [12] * levels
    assert all(math.isfinite(boundary) for boundary in told["levels"]["boundaries"])
    assert told["recipe"] == json.loads((folder / "recipe.json").read_text())["recipe"]


def test_the_arms_learned_what_they_were_to_learn(quick_run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = quick_run
    runs = {
        name: json.loads((folder / name / "train_results.json").read_text())
        for name in STEPS
        if "-" in name and "eval" not in name
    }
    assert {name: run["steps"] for name, run in runs.items()} == dict.fromkeys(runs, 6)
    assert {name: (run["bad"], run["truncated_samples"]) for name, run in runs.items()} == dict.fromkeys(runs, (0, 0))
    assert runs["pretrain-adaptive"]["num_without_level"] == 0
    trained = {name: {row["part"] for row in run["parameters"] if row["trains"]} for name, run in runs.items()}
    assert trained == {
        "pretrain-adaptive": {"multi_modal_projector", "alignment_embeddings"},
        "pretrain-none": {"multi_modal_projector"},
        "finetune-adaptive": {"multi_modal_projector", "alignment_gate", "language_model"},
        "finetune-none": {"multi_modal_projector", "language_model"},
    }


def test_the_page_is_one_whole_file(quick_run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = quick_run
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>") and "data:image/" in page
    assert not any(f'src="{scheme}' in page for scheme in ("http", "//", "data/images"))


def test_a_second_call_does_no_work(quick_run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = quick_run

    def start(*args: Any) -> None:
        raise AssertionError(f"this was to be done already: {args[0].name}")

    monkeypatch.setattr(pipeline, "_Process", start)
    assert run_scenes(quick_scenes(), folder) == told
