"""Steps of an experiment: their order, two at a time, once each, resumed, and ended with the run."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aligngpt.cli import cli
from aligngpt.experiments import runner
from aligngpt.experiments.artifacts import StepCost, StepCosts
from aligngpt.experiments.runner import Step, StepFailed, estimate_seconds_left, read_costs, run_steps

# Replaces `aligngpt`: name, seconds, file to write, file of events, and whether it fails or how many MB it takes.
FAKE_PROGRAM = """
import os, pathlib, sys, time
name, seconds, result, events, outcome = sys.argv[1:]
def log(event):
    with open(events, "a") as file:
        file.write(f"{event} {name}\\n")
log("start")
print("threads", os.environ["OMP_NUM_THREADS"], flush=True)
time.sleep(float(seconds))
if outcome == "fail":
    print("first a warning\\naligngpt: error: then the reason", file=sys.stderr)
    sys.exit(3)
if outcome.isdigit():
    block = b"x" * (int(outcome) * 10**6)
pathlib.Path(result).write_text(name)
log("end")
"""


@pytest.fixture(autouse=True)
def _fake_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a small program for each step, on two CPUs."""
    monkeypatch.setattr(runner, "_PROGRAM", (sys.executable, "-S", "-c", FAKE_PROGRAM))
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(runner, "available_cpus", lambda: 2)


def step(folder: Path, name: str, *after: str, seconds: float = 0.0, outcome: str = "well") -> Step:
    result = folder / f"{name}.txt"
    return Step(name, (name, str(seconds), str(result), str(folder / "events"), outcome), result, after)


def events(folder: Path) -> list[str]:
    return (folder / "events").read_text().splitlines()


def test_steps_wait_for_their_dependencies(tmp_path: Path) -> None:
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
    assert costs == read_costs(tmp_path)
    assert 0.1 <= costs["right"].runtime_s < 5
    assert (tmp_path / "logs" / "left.log").read_text() == "threads 1\n"


def test_peak_memory_is_measured(tmp_path: Path) -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6  # counted until the step's program starts
    costs = run_steps([step(tmp_path, "small"), step(tmp_path, "large", "small", outcome=str(own + 200))], tmp_path)
    assert costs["small"].peak_memory_mb < own + 50
    assert own + 200 < costs["large"].peak_memory_mb < own + 300


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_at_most_two_steps_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    monkeypatch.setattr(runner, "available_cpus", lambda: cpus)
    run_steps([step(tmp_path, name, seconds=0.3) for name in "abcd"], tmp_path)
    running = most = 0
    for event in events(tmp_path):
        running += 1 if event.startswith("start") else -1
        most = max(most, running)
    assert most == min(cpus, 2)
    assert (tmp_path / "logs" / "a.log").read_text() == f"threads {max(1, cpus // 2)}\n"


def test_threads_can_be_set(tmp_path: Path) -> None:
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
    assert "a, b: done by an earlier call" in capsys.readouterr().err
    (tmp_path / "events").unlink()
    assert run_steps(steps, tmp_path) == costs
    assert not (tmp_path / "events").exists()


def test_a_failure_stops_the_run_and_the_next_call_resumes(tmp_path: Path) -> None:
    steps = [
        step(tmp_path, "a"),
        step(tmp_path, "slow", "a", seconds=60),
        step(tmp_path, "bad", "a", outcome="fail"),
        step(tmp_path, "after", "bad"),
    ]
    with pytest.raises(StepFailed, match=r"^step bad failed: then the reason \(log: .*bad\.log\)$"):
        run_steps(steps, tmp_path)
    assert "end slow" not in events(tmp_path) and "start after" not in events(tmp_path)
    costs = read_costs(tmp_path)
    assert {name: cost.done for name, cost in costs.items()} == {"a": True, "bad": False, "slow": False}
    fixed = [
        steps[0],
        *(step(tmp_path, name, after) for name, after in (("slow", "a"), ("bad", "a"), ("after", "bad"))),
    ]
    (tmp_path / "events").unlink()
    assert set(run_steps(fixed, tmp_path)) == {"a", "slow", "bad", "after"}
    assert {event for event in events(tmp_path) if event.startswith("end")} == {"end slow", "end bad", "end after"}
    assert "start a" not in events(tmp_path)


def test_an_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a", seconds=60)]
    processes: list[Any] = []
    original = runner._Process

    class Watched(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            processes.append(self._process)

    def sleep(seconds: float) -> None:
        if (tmp_path / "events").exists() and "start b" in events(tmp_path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_Process", Watched)
        patch.setattr(runner.time, "sleep", sleep)
        with pytest.raises(KeyboardInterrupt):
            run_steps(steps, tmp_path)
    assert [process.returncode for process in processes] == [0, -15]
    interrupted = read_costs(tmp_path)
    assert 0 < interrupted["b"].runtime_s < 30 and interrupted["b"].peak_memory_mb > 0 and not interrupted["b"].done
    earlier = StepCost(runtime_s=100.0, peak_memory_mb=1e6, done=False)
    StepCosts(steps=interrupted | {"b": earlier}).write(tmp_path)
    costs = run_steps([steps[0], step(tmp_path, "b", "a")], tmp_path)
    assert 100 < costs["b"].runtime_s < 110 and costs["b"].peak_memory_mb == 1e6 and costs["b"].done
    assert events(tmp_path) == ["start a", "end a", "start b", "start b", "end b"]


def test_a_repeated_step_forgets_its_earlier_cost(tmp_path: Path) -> None:
    StepCosts(steps={"a": StepCost(runtime_s=100.0, peak_memory_mb=1e6, done=True)}).write(tmp_path)
    assert run_steps([step(tmp_path, "a")], tmp_path)["a"].runtime_s < 30


def test_a_killed_step_is_reported_with_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; print('no error', flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(runner, "_PROGRAM", (sys.executable, "-S", "-c", code))
    with pytest.raises(StepFailed, match=r"^step a failed: ended by SIGKILL \(log: "):
        run_steps([Step("a", (), tmp_path / "a.txt")], tmp_path)


# The command line with steps that write their process number to a file and sleep.
SLEEPING_STEPS = """
import sys
from aligngpt.experiments import runner
from aligngpt.cli import main
code = "import os, time; open('pids', 'a').write(f'{os.getpid()} '); time.sleep(120)"
runner._PROGRAM = (sys.executable, "-S", "-c", code)
main(["run", "synthetic-smoke", "--output", "run"])
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
def test_a_run_that_ends_ends_its_steps(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SLEEPING_STEPS]
    pids = tmp_path / "pids"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        try:
            wait_until(lambda: pids.is_file() and pids.read_text().endswith(" "))
            if number == signal.SIGTERM:
                second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
                assert second.returncode == 1
                message = "run is locked by another process; wait for it to finish or choose another --output"
                assert second.stderr == f"aligngpt: error: {message}\n"
            [child] = map(int, pids.read_text().split())
            assert alive(child)
            job.send_signal(number)
            output = job.stderr.read()
        finally:
            job.kill()
    wait_until(lambda: not alive(child))
    if number != signal.SIGKILL:
        assert job.returncode == 130
        assert output.splitlines()[-1].startswith("aligngpt: error: interrupted")


def test_the_sigterm_handler_is_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_steps([step(tmp_path, "a")], tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_steps_run_outside_the_main_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run_steps, [step(tmp_path, "a")], tmp_path).result()["a"].done


def test_a_failed_step_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.exit('aligngpt: error: the disk is full')"
    monkeypatch.setattr(runner, "_PROGRAM", (sys.executable, "-S", "-c", code))
    done = CliRunner().invoke(cli, ["run", "synthetic-smoke", "--output", str(tmp_path)])
    assert done.exit_code == 1
    log = tmp_path / "logs" / "generate.log"
    assert done.stderr.splitlines()[-1] == f"aligngpt: error: step generate failed: the disk is full (log: {log})"


@pytest.mark.parametrize("after", [("gone",), ("b",)])
def test_steps_that_cannot_run_are_an_error(tmp_path: Path, after: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="steps a, b depend on steps that do not exist"):
        run_steps([step(tmp_path, "a", *after), step(tmp_path, "b", "a"), step(tmp_path, "c")], tmp_path)
    assert events(tmp_path) == ["start c", "end c"]


# Time left -----------------------------------------------------------------------------------------------------------


def test_time_left_follows_the_schedule(tmp_path: Path) -> None:
    result = tmp_path / "result"
    steps = [
        Step("a", (), result, expected_seconds=10),
        Step("b", (), result, ("a",), expected_seconds=20),
        Step("c", (), result, ("a",), expected_seconds=30),
        Step("d", (), result, ("b",), expected_seconds=40),
    ]
    assert estimate_seconds_left(steps, set(), {}, speed=1, parallel=2) == 10 + 20 + 40
    assert estimate_seconds_left(steps, set(), {}, speed=1, parallel=1) == 10 + 20 + 30 + 40
    assert estimate_seconds_left(steps, {"a"}, {"b": 5, "c": 50}, speed=2, parallel=2) == 50
    assert estimate_seconds_left(steps, {"a", "b", "c", "d"}, {}, speed=1, parallel=2) == 0


def test_progress_is_read_from_the_last_line_of_this_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text("aligngpt: scoring: 90 of 100, about 1 s left\n")
    code = "print('aligngpt: scoring: 1,200 of 4,800, about 3 s left\\nx'); import sys; sys.stdout.flush(); input()"
    monkeypatch.setattr(runner, "_PROGRAM", (sys.executable, "-S", "-c", code))
    process = runner._Process(Step("a", (), tmp_path / "result"), tmp_path, {})
    assert process.read_progress() in (0, 0.25)  # nothing of the earlier call
    process.wait()
    assert process.read_progress() == 0.25


def test_the_status_names_steps_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner_status = runner._describe_progress([step(tmp_path, "a"), step(tmp_path, "b", "a")], {"a"}, [], {
        "a": StepCost(runtime_s=20, peak_memory_mb=1, done=True)
    }, 2)  # fmt: skip
    assert runner_status == "1 of 2 steps done, about 20 s left"
