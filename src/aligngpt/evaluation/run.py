"""Run benchmarks with a model: generate predictions, score them, and collect the results.

The output folder has `results.json`, `config.yaml` and a folder per benchmark: `run_config.json` (what makes the
predictions what they are; never rewritten), `answers.jsonl` (the predictions), and files derived from them on every
call: `score.json`, `gate_stats.json`, `submission.*`. A judge's reviews are in `reviews.*`. Interrupted runs resume.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aligngpt.evaluation.artifacts import BenchmarkResult, EvalResults, ModelInfo
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.benchmarks import BENCHMARKS, select_benchmarks
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
from aligngpt.evaluation.types import EvalConfig
from aligngpt.utils.config import CONFIG_FILE, write_yaml
from aligngpt.utils.io import versions
from aligngpt.utils.output_dir import OutputDir, exclusive_lock
from aligngpt.utils.progress import progress

_WAIT_SECONDS = 60.0  # for another call to write its rows
_logger = logging.getLogger(__name__)


def evaluate(
    model: str | Path,
    *,
    tasks: str | Sequence[str] = "all",
    data: str | Path,
    output: str | Path,
    config: EvalConfig | None = None,
    shard: tuple[int, int] | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> EvalResults:
    """Run benchmarks with a model; completed ones are not run again.

    Args:
        model: Model folder, stage-1 checkpoint or hub name.
        tasks: Names of benchmarks, as a list or separated by commas; `"all"` runs those whose files are in `data`.
        data: Folder of the benchmark files, LLaVA's `playground/data/eval`, or a synthetic dataset.
        output: Output folder.
        config: Settings; the defaults of `EvalConfig` if omitted.
        shard: Shard (i, n) of this call, from 1; call without it to merge the shards.
        show_progress: Whether to show progress on standard error.
        settings: Fields of `EvalConfig` that replace those of `config`, such as `alignment=3`.

    Raises:
        MissingData: Files of a benchmark are missing; of several benchmarks, all of them.
        ValueError: A name is unknown, a file is broken, or a folder belongs to another run.
    """
    config = replace(config or EvalConfig(), **settings)
    return run_benchmarks(
        select_benchmarks(tasks), EvalSettings(model, Path(data), Path(output), config, shard, show_progress)
    )


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
            write_yaml(settings.output / CONFIG_FILE, settings.config, "aligngpt eval run; settings of the last call")
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
    if not (output / EvalResults.FILE).is_file():
        return {}
    results = EvalResults.read(output)
    OutputDir(output, {"model_hash": model.model_hash}, run_file=results.FILE, result_file=results.FILE).check()
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
    batches = [state.task.plan_batches(settings.config.batch_size)[shard - 1 :: num_shards] for state in states]
    total = sum(len(batch) for planned in batches for batch in planned)
    left = sum(len(batch) for work in plan_work(states, settings) for batch in work.batches)
    with progress("loading the model", total, settings.show_progress, total - left) as advance:
        yield lambda name, count: advance(count, titles[name])
