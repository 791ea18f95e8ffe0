"""Run benchmarks with a model: generate predictions, score them, and collect the results.

The output folder has `results.json` and a folder per benchmark: `run_config.json` (what makes the predictions what they
are; never rewritten), `answers.jsonl` (the predictions), and files derived from them on every call: `score.json`,
`gate_stats.json`, `submission.*`. A judge's reviews are kept in `reviews.*`. Interrupted runs resume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import BenchmarkResult, EvalResults, ModelInfo
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.judge.config import JudgeConfig
from aligngpt.evaluation.parallel import Advance, generate_predictions, plan_work
from aligngpt.evaluation.results import finish_task
from aligngpt.evaluation.tasks import (
    EvalSettings,
    MissingData,
    Task,
    TaskState,
    describe_task,
    open_task,
    read_model_info,
    start_task,
)
from aligngpt.modeling.settings import Dtype
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.io import versions
from aligngpt.utils.output_dir import exclusive_lock
from aligngpt.utils.progress import progress
from aligngpt.utils.text import suggest

_WAIT_SECONDS = 60.0  # for another call to write its rows
_logger = logging.getLogger(__name__)


def evaluate(
    model: str | Path,
    *,
    tasks: str | Sequence[str] = "all",
    data: str | Path,
    output: str | Path,
    alignment: Any = None,
    batch_size: int = 16,
    num_workers: int | None = None,
    shard: tuple[int, int] | None = None,
    limit: int | None = None,
    dtype: Dtype | None = None,
    judge: JudgeConfig | None = None,
    show_progress: bool = True,
) -> EvalResults:
    """Run benchmarks with a model; completed ones are not run again.

    Args:
        model: Model folder, stage-1 checkpoint or hub name.
        tasks: Names of benchmarks, as a list or separated by commas; `"all"` runs those whose files are in `data`.
        data: Folder of the benchmark files, LLaVA's `playground/data/eval`, or a synthetic dataset.
        output: Output folder.
        alignment: Alignment setting: a name, a level from 1, or N weights; the model's own by default.
        batch_size: Questions per batch.
        num_workers: Processes with a model each; one per GPU by default.
        shard: Shard (i, n) of this call, from 1; call without it to merge the shards.
        limit: Only the first N questions, without a score.
        dtype: Type of the weights; the model's own by default.
        judge: Judge of LLaVA-Bench and MM-Vet.
        show_progress: Whether to show progress on standard error.

    Raises:
        MissingData: Files of a benchmark are missing; of several benchmarks, all of them.
        ValueError: A name is unknown, a file is broken, or a folder belongs to another run.
    """
    settings = EvalSettings(
        model=model,
        data=Path(data),
        output=Path(output),
        alignment=alignment,
        batch_size=batch_size,
        num_workers=num_workers,
        shard=shard,
        limit=limit,
        dtype=dtype,
        judge=judge,
        show_progress=show_progress,
    )
    return run_benchmarks(select_benchmarks(tasks), settings)


def select_benchmarks(tasks: str | Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of these names, in the given order; `"all"` returns all of them.

    Raises:
        ValueError: A name is unknown; the message lists all names.
    """
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    if names == ["all"]:
        return list(BENCHMARKS.values())
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        hint = suggest(unknown[0], BENCHMARKS) or f"; choose from {', '.join(BENCHMARKS)}, or all"
        raise ArgumentError(f"{unknown[0]!r} is not a benchmark{hint}")
    return [BENCHMARKS[name] for name in dict.fromkeys(names)]


def run_benchmarks(benchmarks: Sequence[Benchmark], settings: EvalSettings) -> EvalResults:
    """Run benchmarks; of several, those whose files are missing or broken are skipped with the reason.

    Raises:
        MissingData: No benchmark can be run.
        ValueError: A file is broken, or a folder belongs to another run.
    """
    tasks, skipped = _open_tasks(benchmarks, settings)
    model = read_model_info(settings)
    _read_rows(settings.output, model)
    states = [describe_task(task, settings, model) for task in tasks]
    with ExitStack() as locks:
        for state in states:
            locks.enter_context(state.output.lock(settings.shard))
        with exclusive_lock(settings.output, timeout=_WAIT_SECONDS):
            rows = _read_rows(settings.output, model)
            for state in states:
                start_task(state, exclusive=settings.shard is None)
            if not rows:  # from now on the folder is this model's
                _write_rows(settings.output, model, {})
        pending = [state for state in states if plan_work([state], settings)]
        for state in states:
            if state.is_complete and not state.pending:
                _logger.info("%s: predictions are complete, only scored again", state.task.benchmark.name)
        with _report_progress(pending, settings) as advance:
            generate_predictions(pending, settings, model, advance)
        for state in pending:
            state.read()
        for state in states:
            name = state.task.benchmark.name
            rows[name] = finish_task(state, settings, rows.get(name))
    with exclusive_lock(settings.output, timeout=_WAIT_SECONDS):
        finished = {state.task.benchmark.name: rows[state.task.benchmark.name] for state in states}
        return _write_rows(settings.output, model, skipped | finished)


def _open_tasks(
    benchmarks: Sequence[Benchmark], settings: EvalSettings
) -> tuple[list[Task], dict[str, BenchmarkResult]]:
    tasks, skipped = [], {}
    for benchmark in benchmarks:
        try:
            tasks.append(open_task(benchmark, settings))
        except (OSError, ValueError) as error:
            if len(benchmarks) == 1:
                raise
            skipped[benchmark.name] = BenchmarkResult(
                benchmark=benchmark.name, title=benchmark.title, metric=benchmark.metric, reasons=[str(error)]
            )
    if not tasks:
        names = ", ".join(benchmark.files.questions for benchmark in benchmarks)
        raise MissingData(f"{settings.data}: no benchmark to run; expected LLaVA's playground/data/eval with {names}")
    return tasks, skipped


def _read_rows(output: Path, model: ModelInfo) -> dict[str, BenchmarkResult]:
    """Return the rows of earlier calls, by benchmark.

    Raises:
        ValueError: They are of another model, or the file is not one of `eval run`.
    """
    path = output / EvalResults.FILE
    if not path.is_file():
        return {}
    try:
        results = EvalResults.read(path)
    except ValueError as error:
        raise ValueError(f"{error}; it is not a file of eval run: choose another --output or delete it") from None
    if results.model_hash != model.model_hash:
        raise ValueError(
            f"{output} holds results of another model ({results.model}); choose another --output or delete this folder"
        )
    return {row.benchmark: row for row in results.benchmarks}


def _write_rows(output: Path, model: ModelInfo, rows: Mapping[str, BenchmarkResult]) -> EvalResults:
    """Write `results.json`; other benchmarks keep their rows."""
    merged = {**_read_rows(output, model), **rows}
    benchmarks = [merged[name] for name in dict.fromkeys([*BENCHMARKS, *merged]) if name in merged]
    results = EvalResults(model=model.model, model_hash=model.model_hash, versions=versions(), benchmarks=benchmarks)
    results.write(output)
    return results


@contextmanager
def _report_progress(states: Sequence[TaskState], settings: EvalSettings) -> Iterator[Advance]:
    """Show the progress and the time left over all benchmarks."""
    titles = {state.task.benchmark.name: state.task.benchmark.title for state in states}
    shard, num_shards = settings.shard or (1, 1)
    batches = [state.task.plan_batches(settings.batch_size)[shard - 1 :: num_shards] for state in states]
    total = sum(len(batch) for own in batches for batch in own)
    left = sum(len(batch) for work in plan_work(states, settings) for batch in work.batches)
    with progress("loading the model", total, settings.show_progress, total - left) as advance:
        yield lambda name, count: advance(count, titles[name])
