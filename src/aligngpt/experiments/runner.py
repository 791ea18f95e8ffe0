"""Run the steps of an experiment as processes, in the order of their dependencies, with resume and time left.

Each step is an `aligngpt` command that skips or resumes its own work. Completed steps are skipped; runtime and peak
memory of each step are recorded. No step outlives the process that runs it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status

from aligngpt.experiments.artifacts import StepCost, StepCosts
from aligngpt.utils.processes import available_cpus, interrupt_on_sigterm, terminate_with_parent
from aligngpt.utils.progress import INTERVAL, INTERVAL_VARIABLE, format_duration

_PROGRAM = (sys.executable, "-m", "aligngpt")
_MAX_PARALLEL = 2  # steps at a time
_POLL_SECONDS = 0.2
_CHILD_INTERVAL = "5"  # seconds between two progress lines of a step
_TAIL_BYTES = 4096
_PROGRESS = re.compile(rb": ([\d,]+) of ([\d,]+), about ")


class StepFailed(ValueError):
    """A step failed; the message has the step's own error and names its log."""


@dataclass(frozen=True)
class Step:
    """One command of a run.

    Attributes:
        name: Name in logs and the summary.
        command: Arguments of `aligngpt`.
        result: File that the command writes last.
        after: Names of the steps whose files it reads.
        expected_seconds: Rough duration, for the time left before a step reports progress.
    """

    name: str
    command: tuple[str, ...]
    result: Path
    after: tuple[str, ...] = ()
    expected_seconds: float = 10.0


def run_steps(steps: Sequence[Step], folder: Path, threads: int | None = None) -> dict[str, StepCost]:
    """Run the steps that are not done, up to two at a time.

    SIGTERM ends the run as Ctrl-C does: the running steps are stopped, and the next call resumes them.

    Args:
        steps: Steps in any order.
        folder: Folder for `logs/<step>.log` and `steps.json`.
        threads: CPU threads per step; by default the CPUs are divided among parallel steps.

    Returns:
        The cost of each step, including those completed by earlier calls.

    Raises:
        StepFailed: A step failed. Running steps are stopped; the next call resumes them.
        ValueError: Steps depend on each other, or on a step that does not exist.
    """
    costs = read_costs(folder)
    cpus = available_cpus()
    parallel = min(_MAX_PARALLEL, cpus)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads or max(1, cpus // _MAX_PARALLEL)),
        INTERVAL_VARIABLE: _CHILD_INTERVAL,
    }
    done = {step.name for step in steps if step.name in costs and costs[step.name].done and step.result.is_file()}
    running: list[_Process] = []
    with interrupt_on_sigterm(), _Status() as status:
        if done:
            status.print(f"{', '.join(step.name for step in steps if step.name in done)}: done by an earlier call")
        try:
            while len(done) < len(steps):
                active = {process.step.name for process in running}
                ready = [step for step in steps if step.name not in done | active and done.issuperset(step.after)]
                if not ready and not running:
                    stuck = sorted(step.name for step in steps if step.name not in done)
                    raise ValueError(f"steps {', '.join(stuck)} depend on steps that do not exist; fix `after`")
                for step in ready[: parallel - len(running)]:
                    status.print(f"{step.name} ...")
                    running.append(_Process(step, folder, environment))
                time.sleep(_POLL_SECONDS)
                status.update(_describe_progress(steps, done, running, costs, parallel))
                for process in [process for process in running if process.has_ended()]:
                    running.remove(process)
                    name = process.step.name
                    costs[name] = process.measure_cost(costs.get(name))
                    StepCosts(steps=costs).write(folder)
                    process.check()
                    done.add(name)
                    status.print(f"{name}: {costs[name].runtime_s:.0f} s, {costs[name].peak_memory_mb:.0f} MB")
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
                costs[process.step.name] = process.measure_cost(costs.get(process.step.name))
            if running:
                StepCosts(steps=costs).write(folder)
    return {step.name: costs[step.name] for step in steps}


def read_costs(folder: Path) -> dict[str, StepCost]:
    """Read the cost of each step that was started; empty if none was."""
    return dict(StepCosts.read(folder).steps) if (folder / StepCosts.FILE).is_file() else {}


# Progress -----------------------------------------------------------------------------------------------------------


def estimate_seconds_left(
    steps: Sequence[Step], done: Collection[str], running: Mapping[str, float], speed: float, parallel: int
) -> float:
    """Estimate how long the remaining steps take, by simulating their schedule.

    Args:
        steps: All steps.
        done: Names of the completed ones.
        running: Seconds left of the running ones.
        speed: Expected divided by actual seconds, for steps that have not started.
        parallel: Steps at a time.
    """
    done, running, seconds = set(done), dict(running), 0.0
    while True:
        for step in steps:
            is_ready = step.name not in done | running.keys() and done.issuperset(step.after)
            if is_ready and len(running) < parallel:
                running[step.name] = step.expected_seconds / speed
        if not running:
            return seconds
        name = min(running, key=lambda name: running[name])
        elapsed = running.pop(name)
        running = {step_name: left - elapsed for step_name, left in running.items()}
        seconds += elapsed
        done.add(name)


def _describe_progress(
    steps: Sequence[Step],
    done: Collection[str],
    running: Sequence[_Process],
    costs: Mapping[str, StepCost],
    parallel: int,
) -> str:
    """Return a line such as `2 of 11 steps done, running score (80%), about 45 s left`."""
    actual = sum(costs[name].runtime_s for name in done)
    expected = sum(step.expected_seconds for step in steps if step.name in done)
    speed = expected / actual if actual else 1.0
    names, left = [], {}
    for process in running:
        fraction = process.read_progress()
        rest = process.step.expected_seconds / speed - process.elapsed
        left[process.step.name] = max(0.0, process.elapsed * (1 - fraction) / fraction if fraction else rest)
        names.append(f"{process.step.name} ({fraction:.0%})" if fraction else process.step.name)
    seconds = estimate_seconds_left(steps, done, left, speed, parallel)
    work = f", running {', '.join(names)}" if names else ""
    return f"{len(done)} of {len(steps)} steps done{work}, about {format_duration(seconds)} left"


class _Status:
    """Lines that stay, and a status: replaced in a terminal, printed every `INTERVAL` seconds in a log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._spinner = self._console.status("") if self._console.is_terminal else nullcontext()
        self._next = time.monotonic() + INTERVAL

    def __enter__(self) -> _Status:
        self._spinner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._spinner.__exit__(None, None, None)

    def print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def update(self, status: str) -> None:
        if isinstance(self._spinner, Status):
            self._spinner.update(status)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            self.print(status)


# Processes ----------------------------------------------------------------------------------------------------------


class _Process:
    """A running step. Its output is appended to a log; the system reports its peak memory when it ends."""

    def __init__(self, step: Step, folder: Path, environment: Mapping[str, str]) -> None:
        self.step = step
        self.log = folder / "logs" / f"{step.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._seconds: float | None = None
        self._peak = 0
        with self.log.open("ab") as stream:
            self._start = stream.tell()  # earlier bytes are of earlier calls
            self._process = subprocess.Popen(
                [*_PROGRAM, *step.command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environment),
                preexec_fn=terminate_with_parent(),
            )

    @property
    def elapsed(self) -> float:
        """Seconds since the start, or until the end."""
        return time.monotonic() - self._started if self._seconds is None else self._seconds

    def has_ended(self, options: int = os.WNOHANG) -> bool:
        """Whether the process has ended."""
        if self._process.returncode is not None:
            return True
        pid, status, usage = os.wait4(self._process.pid, options)
        if pid:
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._seconds = time.monotonic() - self._started
            self._peak = usage.ru_maxrss
        return bool(pid)

    def read_progress(self) -> float:
        """Return the fraction done according to the last progress line of the log, 0 if there is none."""
        size = self.log.stat().st_size
        with self.log.open("rb") as stream:
            stream.seek(max(self._start, size - _TAIL_BYTES))
            matches = _PROGRESS.findall(stream.read())
        if not matches:
            return 0.0
        count, total = (int(number.replace(b",", b"")) for number in matches[-1])
        return min(1.0, count / max(1, total))

    def measure_cost(self, earlier: StepCost | None) -> StepCost:
        """Return the cost of the ended process, added to that of earlier calls that were interrupted.

        The system counts what the calling process held when it started the step into the peak: little from the command
        line, which imports nothing heavy.
        """
        unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, other systems kilobytes
        seconds, peak = self.elapsed, self._peak * unit / 1e6
        if earlier is not None and not earlier.done:
            seconds, peak = seconds + earlier.runtime_s, max(peak, earlier.peak_memory_mb)
        done = self._process.returncode == 0
        return StepCost(runtime_s=round(seconds, 2), peak_memory_mb=round(peak, 1), done=done)

    def check(self) -> None:
        """Check that the process has succeeded.

        Raises:
            StepFailed: It has not.
        """
        code = self._process.returncode
        if code == 0:
            return
        lines = self.log.read_bytes()[self._start :].decode(errors="replace").strip().splitlines()
        reason = lines[-1].removeprefix("aligngpt: error: ") if lines else "no output"
        if code < 0:  # the last line is not an error message
            reason = f"ended by {signal.Signals(-code).name}"
        raise StepFailed(f"step {self.step.name} failed: {reason} (log: {self.log})")

    def terminate(self) -> None:
        """Ask the process to end; the next call resumes its work."""
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGTERM)  # `Popen.terminate` may reap it, which loses its peak memory

    def wait(self) -> None:
        """Wait until the process has ended."""
        self.has_ended(options=0)
