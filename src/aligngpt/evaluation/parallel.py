"""Generate the predictions of a run in this process or in several, each of which loads the model."""

from __future__ import annotations

import hashlib
import queue
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import entropy  # type: ignore[import-untyped]

from aligngpt.evaluation.artifacts import ModelInfo
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.tasks import (
    EvalSettings,
    PredictionRecord,
    Task,
    TaskState,
    append_predictions,
    open_task,
)
from aligngpt.inference.batch_generation import Completion, GenerationSettings, generate_batches
from aligngpt.inference.prompts import Prompt, build_prompt
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.modeling.settings import needs_gate
from aligngpt.utils.processes import exit_with_parent

Advance = Callable[[str, int], object]  # called with the name of a benchmark and a number of predictions


@dataclass(frozen=True)
class Work:
    """The questions of one benchmark that one worker answers."""

    benchmark: Benchmark
    batches: Sequence[Sequence[int]]  # indices of the questions
    part: str  # name of the file that the worker writes


def generate_predictions(
    states: Sequence[TaskState], settings: EvalSettings, model: ModelInfo, advance: Advance
) -> None:
    """Generate the missing predictions of this call's shard of each benchmark.

    Raises:
        ValueError: A worker failed, or another process writes to the same folder.
    """
    num_workers = settings.config.num_workers or max(1, torch.cuda.device_count())
    plans = [plan_work(states, settings, rank, num_workers) for rank in range(num_workers)]
    if num_workers > 1:
        _run_workers([plan for plan in plans if plan], settings, model, advance)
    elif plans[0]:
        tasks = {state.task.benchmark.name: state.task for state in states}
        _generate([(tasks[work.benchmark.name], work) for work in plans[0]], settings, model, 0, advance)


def plan_work(states: Sequence[TaskState], settings: EvalSettings, rank: int = 0, num_workers: int = 1) -> list[Work]:
    """Return the missing predictions of one worker, for each benchmark that has any."""
    shard, num_shards = settings.shard or (1, 1)
    plan = []
    for state in states:
        assigned = state.task.plan_batches(settings.config.batch_size)[shard - 1 :: num_shards][rank::num_workers]
        batches = [missing for batch in assigned if (missing := [index for index in batch if index in state.pending])]
        if batches:
            plan.append(Work(state.task.benchmark, batches, f"{shard}-of-{num_shards}.{rank}.jsonl"))
    return plan


def _generate(
    work: Sequence[tuple[Task, Work]], settings: EvalSettings, info: ModelInfo, rank: int, advance: Advance
) -> None:
    device = f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    options = {} if settings.config.dtype is None else {"dtype": getattr(torch, settings.config.dtype)}
    model, processor = load_model(settings.model, device=device, **options)
    for task, item in work:
        with append_predictions(task.parts / item.part) as append:
            for records in _predict(task, item.batches, model, processor, settings, info):
                append(records)
                advance(task.benchmark.name, len(records))


def _predict(
    task: Task,
    batches: Sequence[Sequence[int]],
    model: Any,
    processor: AlignGPTProcessor,
    settings: EvalSettings,
    info: ModelInfo,
) -> Iterator[list[PredictionRecord]]:
    """Yield the predictions of each batch."""
    generation = GenerationSettings(
        max_new_tokens=task.benchmark.max_new_tokens,
        alignment=settings.config.alignment,
        return_gate_weights=needs_gate(info.alignment),
    )
    prompts = ([build_question_prompt(task, index, processor) for index in batch] for batch in batches)
    started = time.monotonic()
    for batch, completions in zip(batches, generate_batches(model, processor, prompts, generation), strict=True):
        seconds = round((time.monotonic() - started) / len(batch), 4)
        yield [
            PredictionRecord(index, _build_line(task, index, completion, info), seconds)
            for index, completion in zip(batch, completions, strict=True)
        ]
        started = time.monotonic()


def build_question_prompt(task: Task, index: int, processor: AlignGPTProcessor) -> Prompt:
    """Return the prompt of a question: the image first, as in the official code; `<image>` in its text is text."""
    question = task.questions[index]
    image = task.find_image(question)
    return build_prompt(processor, question.prompt, () if image is None else (image,), placeholders=False)


def _build_line(task: Task, index: int, completion: Completion, info: ModelInfo) -> dict[str, Any]:
    """Return a line of LLaVA's predictions files; its `answer_id`, random there, is the same for equal runs."""
    question = task.questions[index]
    metadata: dict[str, Any] = {}
    if completion.gate_weights is not None:
        metadata["gate_weights"] = [round(weight, 5) for weight in completion.gate_weights]
        metadata["gate_entropy"] = round(float(entropy(completion.gate_weights)), 4)
    if completion.error is not None:
        metadata["unreadable_image"] = completion.error
    key = f"{info.model_hash} {info.alignment} {task.benchmark.name} {index}"
    return {
        "question_id": question.id,
        "prompt": question.prompt if question.stored_prompt is None else question.stored_prompt,
        "text": completion.text,
        "answer_id": hashlib.sha256(key.encode()).hexdigest()[:22],
        "model_id": info.model,
        "metadata": metadata,
        **question.extra,
    }


# Several processes ---------------------------------------------------------------------------------------------------


def _run_workers(plans: Sequence[Sequence[Work]], settings: EvalSettings, model: ModelInfo, advance: Advance) -> None:
    context = torch.multiprocessing.get_context("spawn")
    messages = context.Queue()
    workers = [
        context.Process(target=_work, args=(plan, settings, model, rank, len(plans), messages), daemon=True)
        for rank, plan in enumerate(plans)
    ]
    try:
        for worker in workers:
            worker.start()
        _receive(workers, messages, advance)
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()


def _receive(workers: Sequence[Any], messages: Any, advance: Advance) -> None:
    """Report the progress of the workers until all have ended."""
    running = len(workers)
    while running:
        try:
            message = messages.get(timeout=0.5)
        except queue.Empty:
            codes = [worker.exitcode for worker in workers if worker.exitcode]
            if codes:
                raise ValueError(
                    f"a worker exited with code {codes[0]}, possibly out of memory; reduce --num-workers or "
                    "--batch-size and run the command again to resume"
                ) from None
            continue
        if message is None:
            running -= 1
        elif isinstance(message, ValueError):
            raise message
        else:
            advance(*message)


def _work(
    plan: Sequence[Work], settings: EvalSettings, model: ModelInfo, rank: int, num_workers: int, messages: Any
) -> None:
    """Run one worker process; it reads the questions itself, since those of some benchmarks contain images."""
    exit_with_parent()
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // num_workers))
    try:
        tasks = [(open_task(work.benchmark, settings), work) for work in plan]
        _generate(tasks, settings, model, rank, lambda name, count: messages.put((name, count)))
        messages.put(None)
    except Exception as error:
        expected = isinstance(error, ValueError | OSError)
        failure = ValueError(str(error) if expected else f"{type(error).__name__}: {error}")
        failure.add_note(traceback.format_exc())
        messages.put(failure)
