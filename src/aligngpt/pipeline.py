"""The main job: every step is a command of its own, run as a process, in the order that their files ask for.

    make -> score -> level -> pretrain-adaptive -> captions, finetune-adaptive -> eval-adaptive
    make ->                   pretrain-none     -> finetune-none               -> eval-none       -> summary, report

Two steps run side by side where two cores allow it. What is done is skipped, what was cut off resumes inside its own
command, and time and peak memory of each step are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from aligngpt.artifacts import read_json, versions, write_json
from aligngpt.training.recipes import FinetuneRecipe, PretrainRecipe, ScenesRecipe

_PROGRAM = (sys.executable, "-m", "aligngpt")
_LANES = 2
_POLL_SECONDS = 0.2


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


def run_scenes(recipe: ScenesRecipe, output: str | Path) -> dict[str, Any]:
    """Go the whole way on the drawn world, or what of it is left to do.

    Args:
        recipe: Every number of the job.
        output: Folder of the run; its layout is in `docs/files.md`.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: The folder holds a run of another recipe.
        RuntimeError: A step failed; the message has its last line and names its log.
    """
    from aligngpt.reporting import report
    from aligngpt.summary import summarize

    folder = Path(output)
    _claim(folder, recipe)
    costs = run_steps(scenes_steps(recipe, folder), folder, threads=recipe.threads)
    summary = summarize(folder, costs, asdict(recipe))
    write_json(folder / "summary.json", summary)
    report(folder, folder / "report.html")
    return summary


def _claim(folder: Path, recipe: ScenesRecipe) -> None:
    """Write the resolved recipe, or check that the folder was begun with the same one."""
    path = folder / "recipe.json"
    resolved = json.loads(json.dumps(asdict(recipe)))
    if not path.is_file():
        write_json(path, {"recipe": resolved, "versions": versions()})
        return
    known = read_json(path)["recipe"]
    changed = sorted(name for name in resolved if known.get(name) != resolved[name])
    if changed:
        raise ValueError(
            f"{folder} holds a run with another {', '.join(changed)}: choose another --output, or remove this folder"
        )


def scenes_steps(recipe: ScenesRecipe, folder: Path) -> list[Step]:
    """The commands of the job, with the recipes of its stages written beside them."""
    data, scores, levels = folder / "data", folder / "scores", folder / "levels"
    sizes = {name: getattr(recipe, name) for name in ("pairs", "conversations", "questions", "seed")}
    pairs = {"pairs": data / "pretrain.json", "images": data / "pictures"}
    divided = {"scores": scores, "output": levels, "num_levels": recipe.num_levels, "strategy": recipe.strategy}
    stage1 = folder / "pretrain-adaptive"
    captioned = {"model": stage1, "data": data, "output": folder / "captions", "limit": recipe.captioned}
    return [
        Step("make", _command("scenes make", output=data, **sizes), data / "scenes.json"),
        Step(
            "score",
            _command("score", **pairs, scorer="scenes-clip", output=scores, batch_size=256),
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


def _arm(recipe: ScenesRecipe, folder: Path, arm: Literal["none", "adaptive"]) -> list[Step]:
    """Both stages and the benchmark, with alignment or without; in nothing else do the arms differ."""
    data = folder / "data"
    pictures = data / "pictures"
    stage1, stage2, answers = (folder / f"{name}-{arm}" for name in ("pretrain", "finetune", "eval"))
    levels = {} if arm == "none" else {"levels": folder / "levels"}
    pretrain = replace(
        recipe.pretrain, alignment="none" if arm == "none" else "levels", num_alignment_levels=recipe.num_levels
    )
    first: dict[str, Any] = {"pairs": data / "pretrain.json", "images": pictures, **levels, "output": stage1}
    first |= {"language_model": "scenes-llm", "vision_tower": "scenes-clip"}
    second = {"conversations": data / "finetune.json", "images": pictures, "stage1": stage1, "output": stage2}
    finetune = replace(recipe.finetune, alignment=arm)
    return [
        Step(
            stage1.name,
            _command("pretrain", **first, recipe=_written(pretrain, folder, stage1.name)),
            stage1 / "training.json",
            after=("make",) if arm == "none" else ("make", "level"),
        ),
        Step(
            stage2.name,
            _command("finetune", **second, recipe=_written(finetune, folder, stage2.name)),
            stage2 / "training.json",
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


def _written(recipe: PretrainRecipe | FinetuneRecipe, folder: Path, name: str) -> Path:
    path = folder / "recipes" / f"{name}.json"
    write_json(path, asdict(recipe))
    return path


# ----------------------------------------------------------------------------------------------------------- running


def run_steps(steps: Sequence[Step], folder: Path, threads: int | None = None) -> dict[str, dict[str, float]]:
    """Run what is not done, up to two steps at a time.

    Args:
        steps: In any order; `after` decides.
        folder: Gets `logs/<step>.log` and `steps.json`.
        threads: Processor threads of one step; half of the cores by default.

    Returns:
        `seconds` and `memory_mb` (peak resident memory) of each step, also of those done earlier.

    Raises:
        RuntimeError: A step failed; the others are stopped, and go on at the next call.
        ValueError: Steps wait for each other, or for one that is not there.
    """
    console = Console(stderr=True, highlight=False)
    costs: dict[str, dict[str, float]] = read_json(folder / "steps.json") if (folder / "steps.json").is_file() else {}
    cores = os.cpu_count() or 1
    environment = os.environ | {"OMP_NUM_THREADS": str(threads or max(1, cores // _LANES))}
    done = {step.name for step in steps if step.name in costs and step.result.is_file()}
    for name in sorted(done):
        console.print(f"  {name}: done before", style="dim")
    running: list[_Process] = []
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
                costs[name] = process.cost()
                write_json(folder / "steps.json", costs)
                done.add(name)
                console.print(f"  {name}: {costs[name]['seconds']:.0f} s, {costs[name]['memory_mb']:.0f} MB")
    finally:
        for process in running:
            process.stop()
    return {step.name: costs[step.name] for step in steps}


class _Process:
    """A step at work; its output goes to a log, its peak memory is asked of the system when it ends."""

    def __init__(self, step: Step, folder: Path, environment: Mapping[str, str]) -> None:
        self.step = step
        self.log = folder / "logs" / f"{step.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._peak = 0
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*_PROGRAM, *step.command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environment),
            )

    def ended(self) -> bool:
        """Whether it has ended."""
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid:
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._peak = usage.ru_maxrss
        return bool(pid)

    def cost(self) -> dict[str, float]:
        """Seconds and peak memory in MB, once it has ended.

        The system counts into the peak what the calling process held when it started the step: little from the command
        line, which imports nothing heavy.

        Raises:
            RuntimeError: It failed.
        """
        if self._process.returncode != 0:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(f"step {self.step.name} failed: {lines[-1] if lines else 'no output'} (log: {self.log})")
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        return {
            "seconds": round(time.monotonic() - self._started, 2),
            "memory_mb": round(self._peak * unit / 1e6, 1),
        }

    def stop(self) -> None:
        """End it if it still runs; what it has written so far is resumed by the next call."""
        self._process.terminate()
        self._process.wait()
