"""Settings of a run, its model, and the state of each benchmark: questions, identity, predictions so far."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aligngpt.data.images import load_image
from aligngpt.data.schema import BadImage, UnreadableImage
from aligngpt.evaluation.artifacts import EvalRunConfig, ModelInfo
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.readers import find
from aligngpt.evaluation.types import EvalConfig, Question
from aligngpt.inference.batch_generation import plan_batches
from aligngpt.modeling.artifacts import Stage1Checkpoint
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.hub import resolve_model
from aligngpt.modeling.processing import load_template, name_template
from aligngpt.modeling.settings import parse_setting
from aligngpt.modeling.tokens import MARK
from aligngpt.synthetic.artifacts import DATASET_INFO
from aligngpt.utils.constants import ALIGN_TOKEN
from aligngpt.utils.io import file_size, fingerprint_file, hash_file, read_json, read_jsonl, versions
from aligngpt.utils.models import name_model
from aligngpt.utils.output_dir import OutputDir, shared_lock

_MODEL_FILES = (
    "*.safetensors", "*.bin", "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
    "processor_config.json", "preprocessor_config.json", "chat_template.jinja", Stage1Checkpoint.FILE,
)  # fmt: skip
_SAMPLED_IMAGES = 100
_WAIT_SECONDS = 10.0  # for a worker whose main process was killed to end


class MissingData(FileNotFoundError):
    """Questions or images of a benchmark are missing; the message names the source."""


@dataclass(frozen=True)
class EvalSettings:
    """The arguments of `evaluate`."""

    model: str | Path
    data: Path
    output: Path
    config: EvalConfig
    shard: tuple[int, int] | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError(f"shard {self.shard[0]}/{self.shard[1]}: expected i/n with i from 1 to n")


# The benchmark -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One benchmark of a run: its questions, the folder of its images, and the folder it writes."""

    benchmark: Benchmark
    question_file: Path
    image_folder: Path | None
    questions: Sequence[Question]
    folder: Path

    @property
    def parts(self) -> Path:
        """Folder of the workers' predictions."""
        return self.folder / "parts"

    @property
    def answers(self) -> Path:
        """File of the complete predictions."""
        return self.folder / "answers.jsonl"

    def find_image(self, question: Question) -> Path | bytes | UnreadableImage | None:
        """Return the image of a question: its file, its content, why it cannot be read, or None without an image."""
        if not isinstance(question.image, str):
            return question.image
        assert self.image_folder is not None
        path = Path(os.path.normpath(self.image_folder / question.image))
        inside = path.is_relative_to(os.path.normpath(self.image_folder))
        return path if inside else UnreadableImage("leaves the image folder")

    def plan_batches(self, size: int) -> list[list[int]]:
        """Return the indices of the questions in batches, with images first, the same in every process."""
        prompts = [question.prompt for question in self.questions]
        return plan_batches(prompts, [question.image is None for question in self.questions], size)


def open_task(benchmark: Benchmark, settings: EvalSettings) -> Task:
    """Read the questions of a benchmark.

    Raises:
        MissingData: The question file is missing, or all images of a benchmark that is not complete.
        ValueError: The question file is broken, or a question contains reserved text.
    """
    files, remedy = benchmark.files, f"to get {benchmark.title}: {benchmark.files.source}"
    path = find(settings.data, files.questions)
    if path is None:
        raise MissingData(f"{settings.data / files.questions}: no such file; {remedy}")
    questions = tuple(benchmark.read_questions(path)[: settings.config.limit])
    for question in questions:
        _check_text(question, path)
    images = None if files.images is None else settings.data / files.images
    if images is None and all(question.image is None for question in questions):
        raise MissingData(f"{path}: a table without images; {remedy}")
    task = Task(benchmark, path, images, questions, settings.output / benchmark.name)
    image_files = [file for file in map(task.find_image, task.questions) if isinstance(file, Path)]
    # The run reports single missing images.
    if image_files and not task.answers.is_file() and all(file_size(file) < 0 for file in image_files):
        raise MissingData(
            f"{images}: none of the {len(image_files)} images of {path.name} exists, such as {image_files[0].name}; "
            f"{remedy}"
        )
    return task


def _check_text(question: Question, source: Path) -> None:
    """Refuse before the model is loaded what no template accepts."""
    try:
        question.prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{source}: question {question.id} contains an unpaired surrogate; fix its text") from None
    reserved = MARK.search(question.prompt)
    if reserved or ALIGN_TOKEN in question.prompt:
        name = f"U+{ord(reserved[0]):04X}" if reserved else ALIGN_TOKEN
        raise ValueError(f"{source}: question {question.id} contains {name}, which is reserved; remove it")


# The model -----------------------------------------------------------------------------------------------------------


def read_model_info(settings: EvalSettings) -> ModelInfo:
    """Read what identifies a model.

    Raises:
        FileNotFoundError: The folder holds no model.
        ValueError: The alignment setting does not fit the model.
    """
    folder = resolve_model(settings.model)
    if (folder / Stage1Checkpoint.FILE).is_file():
        trained = Stage1Checkpoint.read(folder).settings
        default, levels, dtype = trained.alignment, trained.num_alignment_levels, "float32"
        template, aligned = load_template(trained.template), default != "none"
    else:
        kind = read_json(folder / "config.json").get("model_type")
        if kind != AlignGPTConfig.model_type:
            raise ValueError(f"{folder} is a {kind} model; pass a folder that aligngpt finetune or convert wrote")
        config = AlignGPTConfig.from_pretrained(folder)
        default, levels, dtype = config.alignment, config.num_alignment_levels, config.dtype or "float32"
        aligned = read_json(folder / "processor_config.json").get("use_alignment", True)
        path = folder / "chat_template.jinja"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no chat template; pass a folder that aligngpt finetune or convert wrote")
        template = load_template(path)
    alignment = parse_setting(default if settings.config.alignment is None else settings.config.alignment, levels)
    if not aligned and alignment != "none":
        raise ValueError(
            f"{settings.model} was trained without alignment; omit --alignment {settings.config.alignment}"
        )
    return ModelInfo(
        model=name_model(folder),
        model_hash=_fingerprint(folder),
        template=name_template(template) or "custom",
        template_hash=hashlib.sha256(template.encode()).hexdigest(),
        alignment=list(alignment) if isinstance(alignment, tuple) else alignment,
        dtype=settings.config.dtype or str(dtype).removeprefix("torch."),
    )


def _fingerprint(folder: Path) -> str:
    """Return a hash of the names and fingerprints of a model's files."""
    paths = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    lines = [f"{path.name} {fingerprint_file(path)}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# Predictions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictionRecord:
    """The prediction of one question."""

    index: int  # of the question, from 0
    line: Mapping[str, Any]  # of `answers.jsonl`
    seconds: float  # generation time

    @property
    def unreadable(self) -> bool:
        """Whether it is empty because the image could not be read."""
        return "unreadable_image" in self.line.get("metadata", ())


@contextmanager
def append_predictions(path: Path) -> Iterator[Callable[[Sequence[PredictionRecord]], None]]:
    """Open the file of one worker and yield a function that appends predictions; they are on the disk when it returns.

    An incomplete last line, left by a killed process, is removed when the file is opened.
    """
    with shared_lock(path.parent, path.stem, timeout=_WAIT_SECONDS), open(path, "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)

        def append(records: Sequence[PredictionRecord]) -> None:
            file.write("".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())

        yield append


def read_worker_files(folder: Path, count: int) -> dict[int, PredictionRecord]:
    """Read the predictions of all workers on `count` questions, by the index of the question.

    Of several predictions for one question the last with a readable image counts. The folder may not exist.

    Raises:
        ValueError: A line other than the last is broken or belongs to another run.
    """
    records: dict[int, PredictionRecord] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")[:-1]  # without an incomplete line, or one being written
        for number, line in enumerate(lines, start=1):
            try:
                record = PredictionRecord(**json.loads(line))
                valid = 0 <= record.index < count
            except (ValueError, TypeError):
                valid = False
            if not valid:
                raise ValueError(f"{path}:{number}: not a prediction of this run; delete the file to run again")
            if record.index not in records or records[record.index].unreadable:
                records[record.index] = record
    return records


# The run of one benchmark --------------------------------------------------------------------------------------------


@dataclass
class TaskState:
    """A task with its run: identity, and the predictions so far, which are read once."""

    task: Task
    config: EvalRunConfig  # content of `run_config.json`
    output: OutputDir
    records: dict[int, PredictionRecord] = field(default_factory=dict)  # by the index of the question
    # Questions without a prediction, or with an image that was unreadable and is readable now.
    pending: frozenset[int] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether the predictions are complete."""
        return self.task.answers.is_file()

    def is_pending(self, index: int) -> bool:
        """Whether to generate a prediction, see `pending`."""
        record = self.records.get(index)
        if record is None or not record.unreadable:
            return record is None
        image = self.task.find_image(self.task.questions[index])
        if not isinstance(image, Path):
            return False
        try:
            load_image(image)
        except BadImage:
            return False
        return True

    def read(self) -> None:
        """Read the predictions so far: the complete ones, replaced by later ones where an image was unreadable."""
        records = read_worker_files(self.task.parts, len(self.task.questions))
        if self.is_complete:
            for index, line in enumerate(read_jsonl(self.task.answers)):
                complete = PredictionRecord(index, line, 0.0)
                if index not in records or not complete.unreadable:
                    records[index] = complete
        self.records = records


def describe_task(task: Task, settings: EvalSettings, model: ModelInfo) -> TaskState:
    """Return the state of a task whose predictions are not read yet."""
    sizes = [file_size(file) for file in map(task.find_image, _sample_questions(task)) if isinstance(file, Path)]
    info = settings.data / DATASET_INFO
    config = EvalRunConfig(
        **dict(model),
        benchmark=task.benchmark.name,
        generation={"do_sample": False, "num_beams": 1, "max_new_tokens": task.benchmark.max_new_tokens},
        limit=settings.config.limit,
        data_hash=hash_file(task.question_file),
        data_note=read_json(info).get("note") if info.is_file() else None,
        image_sizes=sizes,
        versions=versions(),
    )
    identity = config.model_dump(mode="json", exclude={"image_sizes", "data_note", "versions", "template", "model"})
    return TaskState(task, config, OutputDir(task.folder, identity, result_file=task.answers.name))


def start_task(state: TaskState, exclusive: bool) -> None:
    """Start the run of a task whose folder is locked, or resume it, and read its predictions.

    If `exclusive`, no other shard may run: then a run without any prediction may be replaced by another one.

    Raises:
        ValueError: The folder belongs to another run, or its images have changed.
    """
    task, output = state.task, state.output
    has_predictions = state.is_complete or any(path.stat().st_size for path in task.parts.glob("*.jsonl"))
    reset = exclusive and not has_predictions
    if reset:
        shutil.rmtree(task.parts, ignore_errors=True)
    output.start(reset=reset, **state.config.model_dump(mode="json", exclude=set(output.identity)))
    state.read()
    state.pending = frozenset(filter(state.is_pending, range(len(task.questions))))
    _check_sizes(state, EvalRunConfig.read(output.run_file))


def _check_sizes(state: TaskState, existing: EvalRunConfig) -> None:
    """Refuse images that have changed; one that was missing or unreadable may have been replaced."""
    unreadable = {index for index, record in state.records.items() if record.unreadable}
    replaced = {state.task.questions[index].image for index in unreadable}
    sampled = zip(_sample_questions(state.task), existing.image_sizes, state.config.image_sizes, strict=False)
    for question, before, now in sampled:
        if before != now and -1 not in (before, now) and question.image not in replaced:
            raise ValueError(
                f"{state.task.folder} belongs to a run with other images: {question.image!r} had {before} bytes and "
                f"has {now} now; choose another --output or delete this folder"
            )


def _sample_questions(task: Task) -> list[Question]:
    """Return up to 100 questions with an image file, evenly spaced."""
    imaged = [question for question in task.questions if isinstance(task.find_image(question), Path)]
    return imaged[:: -(-len(imaged) // _SAMPLED_IMAGES) or 1]
