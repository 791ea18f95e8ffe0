"""Running benchmarks with a model, from their questions to results; what is done is kept, what was cut off goes on.

A run's folder has a folder for each benchmark: `answers.jsonl`, `run.json`, `gates.json`, `score.json`,
`submission.*`, `reviews.*`, and while it is under way `parts/`. `results.json` has a row for each benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.parallel import Advance, Worker, answer_tasks, left_of, share_of
from aligngpt.evaluation.postprocess import evaluate_answers, finish, reopen, unfinished_row
from aligngpt.evaluation.prediction_files import at_work_in, read_parts
from aligngpt.evaluation.tasks import (
    MissingData,
    ModelRecord,
    RunSettings,
    Task,
    claim,
    describe_run,
    open_task,
    read_model,
)
from aligngpt.evaluation.types import Benchmark
from aligngpt.utils.io import read_json, versions, write_json
from aligngpt.utils.progress import progress

RESULTS = "results.json"
_PATIENCE = 60.0  # seconds in which another call has written its own rows


def run_benchmarks(
    benchmarks: Sequence[Benchmark], settings: RunSettings, skip_missing: bool = False
) -> dict[str, Any]:
    """Answer, score and submit benchmarks; what is finished is not done again.

    Args:
        benchmarks: Which ones.
        skip_missing: Leave out, with a row that says why, those whose questions or images are missing or broken.

    Returns:
        What `results.json` holds, and `finished_before`: the benchmarks for which there was nothing to do.

    Raises:
        MissingData: If a benchmark's data are missing; with `skip_missing` if all are.
        ValueError: If a file is broken, or a folder holds another run.
    """
    tasks, left_out = _open_tasks(benchmarks, settings, skip_missing)
    model = read_model(settings)
    _known_rows(settings.output, model)
    with ExitStack() as held:
        for task in tasks:
            held.enter_context(at_work_in(task.folder, shared=settings.shard is not None))
        runs = {task.benchmark.name: describe_run(task, settings, model) for task in tasks}
        with at_work_in(settings.output, patience=_PATIENCE):
            _known_rows(settings.output, model)
            before = [task.benchmark.name for task in tasks if _claim(task, runs[task.benchmark.name], settings)]
            if not (settings.output / RESULTS).is_file():  # another model is to be refused from now on
                _write_results(settings.output, model, {})
        pending = [task for task in tasks if task.benchmark.name not in before]
        with _progress(pending, settings) as advance:
            answer_tasks([task for task in pending if left_of(task, settings)], settings, model, advance)
        rows = {one.name: unfinished_row(one, left_out[one.name]) for one in benchmarks if one.name in left_out}
        for task in tasks:
            rows[task.benchmark.name] = _close(task, settings, runs, before)
    with at_work_in(settings.output, patience=_PATIENCE):
        results = _write_results(settings.output, model, rows)
    return {**results, "finished_before": before}


def _open_tasks(
    benchmarks: Sequence[Benchmark], settings: RunSettings, skip_missing: bool
) -> tuple[list[Task], dict[str, str]]:
    tasks, left_out = [], {}
    for benchmark in benchmarks:
        try:
            tasks.append(open_task(benchmark, settings))
        except (OSError, ValueError) as error:
            if not skip_missing:
                raise
            left_out[benchmark.name] = str(error)
    if not tasks:
        names = ", ".join(benchmark.files.questions for benchmark in benchmarks)
        raise MissingData(f"{settings.data}: no benchmark to run; expected LLaVA's playground/data/eval with {names}")
    return tasks, left_out


def _known_rows(output: Path, model: ModelRecord) -> dict[str, Any]:
    """The rows of earlier calls, by benchmark.

    Raises:
        ValueError: If they are another model's, or the file is another command's.
    """
    path = output / RESULTS
    if not path.is_file():
        return {}
    known = read_json(path)
    if not (isinstance(known, dict) and "model_hash" in known and isinstance(known.get("benchmarks"), list)):
        raise ValueError(f"{path}: not written by eval run: give another --output, or delete it")
    if known["model_hash"] != model.hash:
        raise ValueError(
            f"{output} holds results of another model ({known.get('model')}): give another --output, or delete it"
        )
    return {row["benchmark"]: row for row in known["benchmarks"]}


def _claim(task: Task, run: dict[str, Any], settings: RunSettings) -> bool:
    """Claim a benchmark's folder; whether nothing is left to be asked there."""
    alone = settings.shard is None
    return claim(task, run, alone) and not (alone and reopen(task))


def _close(
    task: Task, settings: RunSettings, runs: Mapping[str, dict[str, Any]], before: Sequence[str]
) -> dict[str, Any]:
    """Finish a benchmark if all of its answers are there, and make its row."""
    name = task.benchmark.name
    if name in before or (settings.shard is None and finish(task, runs[name])):
        return evaluate_answers(task, settings)
    given = len(read_parts(task.parts, len(task.questions)))
    reason = f"{given} of {len(task.questions)} questions are answered"
    if given == len(task.questions):
        reason += ": run the same command without --shard to put them together"
    return unfinished_row(task.benchmark, reason)


def _write_results(output: Path, model: ModelRecord, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Write `results.json`; rows of earlier calls stay."""
    known = {**_known_rows(output, model), **rows}
    order = [*BENCHMARKS, *(name for name in known if name not in BENCHMARKS)]
    results = {
        "model": model.name,
        "model_hash": model.hash,
        "versions": versions(),
        "benchmarks": [known[name] for name in order if name in known],
    }
    write_json(output / RESULTS, results)
    return results


@contextmanager
def _progress(tasks: Sequence[Task], settings: RunSettings) -> Iterator[Advance]:
    """A function to be told how many questions of a benchmark are answered; the time left is that of all of them."""
    titles = {task.benchmark.name: task.benchmark.title for task in tasks}
    shares = [share_of(task.batches(settings.batch_size), settings, Worker()) for task in tasks]
    total = sum(len(batch) for share in shares for batch in share)
    left = sum(len(batch) for task in tasks for batch in left_of(task, settings))
    with progress("loading the model", total, settings.progress, total - left) as advance:
        yield lambda name, count: advance(count, titles[name])
