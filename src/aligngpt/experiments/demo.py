"""The main job: every step is a command of its own, run as a process, in the order that their files ask for.

    make -> score -> level -> pretrain-adaptive -> captions, finetune-adaptive -> eval-adaptive
    make ->                   pretrain-none     -> finetune-none               -> eval-none       -> summary, report

Two steps run side by side where two cores allow it. What is done is skipped, what was cut off resumes inside its own
command, and time and peak memory of each step are kept. A step never outlives the job.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from rich.console import Console

from aligngpt.experiments.configs import DemoConfig
from aligngpt.training.configs import FinetuneConfig, PretrainConfig
from aligngpt.utils.config import write_yaml
from aligngpt.utils.io import alone_in, read_json, versions, write_json

_PROGRAM = (sys.executable, "-m", "aligngpt")
_LANES = 2
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class StepFailed(ValueError):
    """A step of the job failed; the message has the step's own reason and names its log."""


@dataclass(frozen=True)
class Step:
    """One command of the job.

    Attributes:
        name: As in logs and the summary.
        command: Arguments of `aligngpt`.
        result: A file that the command writes last.
        after: Names of the steps whose files it reads.
    """

    name: str
    command: tuple[str, ...]
    result: Path
    after: tuple[str, ...] = ()


def run_scenes(recipe: DemoConfig, output: str | Path) -> dict[str, Any]:
    """Go the whole way on the drawn world, or what of it is left to do.

    Args:
        recipe: Every number of the job.
        output: Folder of the run; its layout is in `docs/files.md`.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: The folder holds a run of another recipe, or another process is at work in it.
        StepFailed: A step failed; the message has its last line and names its log.
    """
    from aligngpt.experiments.summary import summarize
    from aligngpt.reporting import report

    folder = Path(output)
    with alone_in(folder):
        _claim(folder, recipe)
        costs = run_steps(scenes_steps(recipe, folder), folder, threads=recipe.threads)
        summary = summarize(folder, costs, asdict(recipe))
        write_json(folder / "summary.json", summary)
        report(folder, folder / "report.html")
    return summary


def _claim(folder: Path, recipe: DemoConfig) -> None:
    """Write the resolved recipe, or check that the folder's steps were done with the same one."""
    path = folder / "recipe.json"
    resolved = json.loads(json.dumps(asdict(recipe)))
    known = read_json(path)["recipe"] if path.is_file() else {}
    changed = sorted(name for name in resolved if known.get(name) != resolved[name])
    if changed and not any(cost["done"] for cost in _read_costs(folder).values()):
        (folder / "steps.json").unlink(missing_ok=True)
        write_json(path, {"recipe": resolved, "versions": versions()})
    elif changed:
        raise ValueError(
            f"{folder} holds a run with another {', '.join(changed)}: choose another --output, or remove this folder"
        )


def scenes_steps(recipe: DemoConfig, folder: Path) -> list[Step]:
    """The commands of the job, with the recipes of its stages written beside them."""
    data, scores, levels = folder / "data", folder / "scores", folder / "levels"
    sizes = {name: getattr(recipe, name) for name in ("pairs", "conversations", "questions", "seed")}
    pairs = {"pairs": data / "pretrain.json", "images": data / "images"}
    divided = {"scores": scores, "output": levels, "num_levels": recipe.num_levels, "strategy": recipe.strategy}
    stage1 = folder / "pretrain-adaptive"
    captioned = {"model": stage1, "data": data, "output": folder / "captions", "limit": recipe.captioned}
    return [
        Step("make", _command("scenes make", output=data, **sizes), data / "scenes.json"),
        Step(
            "score",
            _command("score", **pairs, scorer="synthetic-clip", output=scores, batch_size=256),
            scores / "manifest.json",
            after=("make",),
        ),
        Step("level", _command("level", **divided), levels / "levels.json", after=("score",)),
        *_arm(recipe, folder, "none"),
        *_arm(recipe, folder, "adaptive"),
        Step(
            "captions",
            _command("scenes captions", **captioned),
            folder / "captions" / "captions.json",
            after=(stage1.name,),
        ),
    ]


def _arm(recipe: DemoConfig, folder: Path, arm: Literal["none", "adaptive"]) -> list[Step]:
    """Both stages and the benchmark, with alignment or without; in nothing else do the arms differ."""
    data = folder / "data"
    images = data / "images"
    stage1, stage2, answers = (folder / f"{name}-{arm}" for name in ("pretrain", "finetune", "eval"))
    levels = {} if arm == "none" else {"levels": folder / "levels"}
    pretrain = replace(recipe.pretrain, alignment="none" if arm == "none" else "levels")
    first: dict[str, Any] = {"data": data / "pretrain.json", "images": images, **levels, "output": stage1}
    first |= {"language_model": "synthetic-llm", "vision_tower": "synthetic-clip"}
    second = {"data": data / "finetune.json", "images": images, "stage1": stage1, "output": stage2}
    finetune = replace(recipe.finetune, alignment=arm)
    return [
        Step(
            stage1.name,
            _command("pretrain", **first, config=_written(pretrain, folder, stage1.name)),
            stage1 / "train_results.json",
            after=("make",) if arm == "none" else ("make", "level"),
        ),
        Step(
            stage2.name,
            _command("finetune", **second, config=_written(finetune, folder, stage2.name)),
            stage2 / "train_results.json",
            after=(stage1.name,),
        ),
        Step(
            answers.name,
            _command("eval scenes", model=stage2, data=data, output=answers),
            answers / "results.json",
            after=(stage2.name,),
        ),
    ]


def _command(verb: str, **options: Any) -> tuple[str, ...]:
    """`_command("eval scenes", batch_size=8)` is `("eval", "scenes", "--batch-size", "8")`."""
    given = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return (*verb.split(), *(part for option in given for part in option))


def _written(recipe: PretrainConfig | FinetuneConfig, folder: Path, name: str) -> Path:
    path = folder / "configs" / f"{name}.yaml"
    write_yaml(path, recipe)
    return path


# ----------------------------------------------------------------------------------------------------------- running


def run_steps(steps: Sequence[Step], folder: Path, threads: int | None = None) -> dict[str, dict[str, float]]:
    """Run what is not done, up to two steps at a time.

    SIGTERM ends it as Ctrl-C does, with the steps at work stopped.

    Args:
        steps: In any order; `after` decides.
        folder: Gets `logs/<step>.log` and `steps.json`.
        threads: Processor threads of one step; half of the cores by default.

    Returns:
        `seconds`, `memory_mb` (peak resident memory) and `done` of each step, also of those done earlier.

    Raises:
        StepFailed: A step failed; the others are stopped, and go on at the next call.
        ValueError: Steps wait for each other, or for one that is not there.
    """
    console = Console(stderr=True, highlight=False)
    costs = _read_costs(folder)
    cores = os.cpu_count() or 1
    environment = os.environ | {"OMP_NUM_THREADS": str(threads or max(1, cores // _LANES))}
    done = {step.name for step in steps if costs.get(step.name, {}).get("done") and step.result.is_file()}
    for name in sorted(done):
        console.print(f"  {name}: done before", style="dim")
    running: list[_Process] = []
    with _ended_by_sigterm():
        try:
            while len(done) < len(steps):
                busy = {process.step.name for process in running}
                ready = [step for step in steps if step.name not in done | busy and done.issuperset(step.after)]
                if not ready and not running:
                    stuck = sorted(step.name for step in steps if step.name not in done)
                    raise ValueError(f"steps {', '.join(stuck)} wait for steps that never come: mend their `after`")
                for step in ready[: max(0, min(_LANES, cores) - len(running))]:
                    console.print(f"  {step.name} ...")
                    running.append(_Process(step, folder, environment))
                time.sleep(_POLL_SECONDS)
                for process in [process for process in running if process.ended()]:
                    running.remove(process)
                    name = process.step.name
                    costs[name] = process.cost(costs.get(name))
                    write_json(folder / "steps.json", costs)
                    process.check()
                    done.add(name)
                    console.print(f"  {name}: {costs[name]['seconds']:.0f} s, {costs[name]['memory_mb']:.0f} MB")
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
                costs[process.step.name] = process.cost(costs.get(process.step.name))
            if running:
                write_json(folder / "steps.json", costs)
    return {step.name: costs[step.name] for step in steps}


def _read_costs(folder: Path) -> dict[str, dict[str, float]]:
    path = folder / "steps.json"
    return read_json(path) if path.is_file() else {}


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM, where signals arrive: in the main thread."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dies_with_parent() -> Callable[[], None] | None:
    """What a child calls before its program starts, so that not even SIGKILL of the job leaves it behind; Linux's."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # looked up here: a child between fork and exec had better not
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class _Process:
    """A step at work; its output goes to a log, its peak memory is asked of the system when it ends."""

    def __init__(self, step: Step, folder: Path, environment: Mapping[str, str]) -> None:
        self.step = step
        self.log = folder / "logs" / f"{step.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._seconds = 0.0
        self._peak = 0
        with self.log.open("ab") as stream:
            self._begin = stream.tell()  # what stands before is of earlier calls
            self._process = subprocess.Popen(
                [*_PROGRAM, *step.command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environment),
                preexec_fn=_dies_with_parent(),
            )

    def ended(self, options: int = os.WNOHANG) -> bool:
        """Whether it has ended."""
        if self._process.returncode is not None:
            return True
        pid, status, usage = os.wait4(self._process.pid, options)
        if pid:
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._seconds = time.monotonic() - self._started
            self._peak = usage.ru_maxrss
        return bool(pid)

    def cost(self, earlier: Mapping[str, float] | None) -> dict[str, float]:
        """Seconds, peak memory in MB and whether the step is done, once it has ended.

        The system counts into the peak what the calling process held when it started the step: little from the command
        line, which imports nothing heavy.

        Args:
            earlier: What calls that were cut off cost; of a step that was done once and runs again, nothing counts.
        """
        before = earlier if earlier and not earlier["done"] else {"seconds": 0.0, "memory_mb": 0.0}
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        return {
            "seconds": round(before["seconds"] + self._seconds, 2),
            "memory_mb": max(before["memory_mb"], round(self._peak * unit / 1e6, 1)),
            "done": self._process.returncode == 0,
        }

    def check(self) -> None:
        """Pass if it ended well.

        Raises:
            StepFailed: It did not.
        """
        code = self._process.returncode
        if code == 0:
            return
        lines = self.log.read_bytes()[self._begin :].decode(errors="replace").strip().splitlines()
        reason = lines[-1].removeprefix("aligngpt: error: ") if lines else "no output"
        if code < 0:  # then the last line is no reason
            reason = f"it was ended by {signal.Signals(-code).name}"
        raise StepFailed(f"step {self.step.name} failed: {reason} (log: {self.log})")

    def terminate(self) -> None:
        """Ask it to end; what it has written so far is resumed by the next call."""
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGTERM)  # Popen's own would wait for it, and lose its peak

    def wait(self) -> None:
        """Stay until it has ended."""
        self.ended(options=0)
