"""The processes that answer: each loads the model once and takes its share of every benchmark's batches."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

import torch

from aligngpt.evaluation.metrics import entropy
from aligngpt.evaluation.prediction_files import PartFile, Record
from aligngpt.evaluation.tasks import ModelRecord, RunSettings, Task, open_task
from aligngpt.evaluation.types import Benchmark
from aligngpt.inference.batch_generation import Completion, GenerationSettings, generate_batches
from aligngpt.inference.prompts import Prompt, build_prompt
from aligngpt.modeling import AlignGPTProcessor
from aligngpt.modeling.alignment import needs_gate
from aligngpt.modeling.checkpoints import load_model

Advance = Callable[[str, int], object]  # told the benchmark's name and how many more are answered


@dataclass(frozen=True)
class Worker:
    """One of the processes: its number from 0, and how many there are."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Failure:
    """What ended a process: the message, and where it happened."""

    message: str
    trace: str


class InWorker(Exception):
    """The traceback of an error in another process, as the cause of the one that is raised here."""


def number_of_processes(settings: RunSettings) -> int:
    """As asked for, or one for each GPU, or one."""
    return settings.processes or max(1, torch.cuda.device_count())


def share_of(batches: Sequence[list[int]], settings: RunSettings, worker: Worker) -> Sequence[list[int]]:
    """The batches of this call's shard that fall to one of its processes."""
    shard, shards = settings.shard or (1, 1)
    return batches[shard - 1 :: shards][worker.rank :: worker.world]


def left_of(task: Task, settings: RunSettings, worker: Worker | None = None) -> list[list[int]]:
    """What is still to be asked of the share of this call, or of one of its processes, batch by batch."""
    known = task.answered()
    share = share_of(task.batches(settings.batch_size), settings, worker or Worker())
    return [left for batch in share if (left := [place for place in batch if place not in known])]


def answer_tasks(tasks: Sequence[Task], settings: RunSettings, model: ModelRecord, advance: Advance) -> None:
    """Answer what is left of this call's share of each benchmark, in this process or in several.

    Raises:
        ValueError: If a process fails, or another run is at work in a folder.
    """
    world = number_of_processes(settings)
    if world == 1:
        _answer(tasks, settings, model, Worker(), advance)
    else:
        _answer_in_processes([task.benchmark for task in tasks], settings, model, world, advance)


def _answer(tasks: Sequence[Task], settings: RunSettings, model: ModelRecord, worker: Worker, advance: Advance) -> None:
    loaded: tuple[Any, AlignGPTProcessor] | None = None
    for task in tasks:
        batches = left_of(task, settings, worker)
        if not batches:
            continue
        if loaded is None:
            loaded = _load(settings, worker)
        with PartFile(task.parts / _part_name(settings, worker)) as part:
            for records in _answered(task, batches, loaded, settings, model):
                part.add(records)
                advance(task.benchmark.name, len(records))


def _part_name(settings: RunSettings, worker: Worker) -> str:
    shard, shards = settings.shard or (1, 1)
    return f"{shard}-of-{shards}.{worker.rank}.jsonl"


def _load(settings: RunSettings, worker: Worker) -> tuple[Any, AlignGPTProcessor]:
    device = f"cuda:{worker.rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    options = {} if settings.dtype is None else {"dtype": getattr(torch, settings.dtype)}
    return load_model(settings.model, device=device, **options)


def _answered(
    task: Task,
    batches: Sequence[list[int]],
    loaded: tuple[Any, AlignGPTProcessor],
    settings: RunSettings,
    model: ModelRecord,
) -> Iterator[list[Record]]:
    """The records of each batch, in the order of the batches."""
    network, processor = loaded
    generation = GenerationSettings(
        max_new_tokens=task.benchmark.max_new_tokens,
        alignment=settings.alignment,
        return_gate_weights=needs_gate(model.alignment),
    )
    prompts = ([_prompt(task, place, processor) for place in batch] for batch in batches)
    started = time.monotonic()
    for batch, answers in zip(batches, generate_batches(network, processor, prompts, generation), strict=True):
        seconds = round((time.monotonic() - started) / len(batch), 4)
        lines = [_line(task, place, one, model) for place, one in zip(batch, answers, strict=True)]
        yield [Record(place, line, seconds) for place, line in zip(batch, lines, strict=True)]
        started = time.monotonic()


def _prompt(task: Task, place: int, processor: AlignGPTProcessor) -> Prompt:
    """A question in the model's template, its image in front, as the official code has it."""
    question = task.questions[place]
    image = task.image_of(question)
    return build_prompt(processor, question.prompt, () if image is None else (image,), placeholders=False)


def _line(task: Task, place: int, answer: Completion, model: ModelRecord) -> dict[str, Any]:
    """A line of LLaVA's answers files. Its `answer_id` is random there; here the same run gives the same."""
    question = task.questions[place]
    metadata: dict[str, Any] = {}
    if answer.gate_weights is not None:
        metadata["gate_weights"] = [round(weight, 5) for weight in answer.gate_weights]
        metadata["gate_entropy"] = round(entropy(answer.gate_weights), 4)
    if answer.error is not None:
        metadata["unreadable_image"] = answer.error
    name = f"{model.hash} {model.alignment} {task.benchmark.name} {place}"
    return {
        "question_id": question.id,
        "prompt": question.prompt if question.stored_prompt is None else question.stored_prompt,
        "text": answer.text,
        "answer_id": hashlib.sha256(name.encode()).hexdigest()[:22],
        "model_id": model.name,
        "metadata": metadata,
        **question.extra,
    }


# Several processes ---------------------------------------------------------------------------------------------------


def _answer_in_processes(
    benchmarks: Sequence[Benchmark], settings: RunSettings, model: ModelRecord, world: int, advance: Advance
) -> None:
    context = torch.multiprocessing.get_context("spawn")
    messages = context.Queue()
    quiet = replace(settings, judge=None)
    workers = [
        context.Process(target=_work, args=(benchmarks, quiet, model, Worker(rank, world), messages), daemon=True)
        for rank in range(world)
    ]
    try:
        for worker in workers:
            worker.start()
        _listen(workers, messages, advance)
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()


def _listen(workers: Sequence[Any], messages: Any, advance: Advance) -> None:
    """Pass on what the processes tell until all have ended."""
    left = len(workers)
    while left:
        try:
            message = messages.get(timeout=0.5)
        except queue.Empty:
            lost = [worker.exitcode for worker in workers if worker.exitcode]
            if lost:
                raise ValueError(
                    f"a process ended with {lost[0]}, perhaps for want of memory: give fewer --processes or a smaller "
                    "--batch-size; what is answered is kept"
                ) from None
            continue
        if message is None:
            left -= 1
        elif isinstance(message, Failure):
            raise ValueError(message.message) from InWorker(message.trace)
        else:
            advance(*message)


def _work(
    benchmarks: Sequence[Benchmark], settings: RunSettings, model: ModelRecord, worker: Worker, messages: Any
) -> None:
    """What one process does; it ends with the process that started it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starting process hears of it, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // worker.world))
    try:
        tasks = [open_task(benchmark, settings) for benchmark in benchmarks]
        _answer(tasks, settings, model, worker, lambda name, count: messages.put((name, count)))
        messages.put(None)
    except Exception as error:
        known = isinstance(error, ValueError | OSError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        messages.put(Failure(text, traceback.format_exc()))


def _end_with_parent() -> None:
    parent = torch.multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
