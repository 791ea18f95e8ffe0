"""What a run on a benchmark is: its settings, its questions and images, and what tells it from another run."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligngpt.data.images import BadImage, UnreadableImage, load_image
from aligngpt.evaluation.prediction_files import Record, read_parts
from aligngpt.evaluation.readers import find
from aligngpt.evaluation.types import Benchmark, Question
from aligngpt.modeling import AlignGPTConfig, load_template, parse_alignment
from aligngpt.modeling.checkpoints import INFO_FILE
from aligngpt.modeling.processing import TEMPLATES
from aligngpt.modeling.tokens import MARK
from aligngpt.synthetic.artifacts import DATASET_INFO
from aligngpt.utils.constants import ALIGN_TOKEN
from aligngpt.utils.io import file_size, hash_file, hash_folder, read_json, versions, write_json

if TYPE_CHECKING:
    from aligngpt.evaluation.judge.config import JudgeConfig

DTYPES = ("float32", "float16", "bfloat16")
_MODEL_FILES = (
    "*.safetensors", "*.bin", "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
    "processor_config.json", "preprocessor_config.json", "chat_template.jinja", INFO_FILE,
)  # fmt: skip
_SAMPLED_IMAGES = 100
# What two calls must share to go on in one folder. Batch size and processes change nothing about the answers.
_IDENTITY = (
    "benchmark", "model_hash", "template_hash", "alignment", "dtype", "decoding", "limit", "data_hash",
)  # fmt: skip


class MissingData(FileNotFoundError):
    """Questions or images of a benchmark that are not there; the message says where they can be had."""


@dataclass(frozen=True)
class RunSettings:
    """How benchmarks are run.

    Args:
        model: Model folder or stage-1 checkpoint.
        data: The folder of all benchmarks, LLaVA's `playground/data/eval`.
        output: Folder for the results, with a folder for each benchmark in it.
        alignment: Overrides the model's setting.
        batch_size: Questions answered at once.
        processes: Processes that answer, each with a model of its own; one for each GPU by default.
        shard: Which share this call answers, from 1, and of how many; None for all of it.
        limit: Only the first so many questions.
        dtype: One of `DTYPES`; the model's own by default.
        judge: Who marks the answers to LLaVA-Bench and MM-Vet.
        progress: Whether to show how far it is.
    """

    model: Path
    data: Path
    output: Path
    alignment: Any = None
    batch_size: int = 16
    processes: int | None = None
    shard: tuple[int, int] | None = None
    limit: int | None = None
    dtype: str | None = None
    judge: JudgeConfig | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.batch_size, self.processes or 1, self.limit or 1) < 1:
            raise ValueError("batch_size, processes and limit must be at least 1")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError(f"shard {self.shard[0]}/{self.shard[1]}: expected i/n with i from 1 to n")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Task:
    """One benchmark to be run: its questions, where its images lie, and the folder it writes."""

    benchmark: Benchmark
    question_file: Path
    image_folder: Path | None
    questions: tuple[Question, ...]
    folder: Path

    @property
    def parts(self) -> Path:
        """Folder of the answers on their way."""
        return self.folder / "parts"

    @property
    def answers(self) -> Path:
        """The answers file."""
        return self.folder / "answers.jsonl"

    def image_of(self, question: Question) -> Path | bytes | UnreadableImage | None:
        """The question's image: its file, its content, why there is none, or None where it speaks of none."""
        if not isinstance(question.image, str):
            return question.image
        assert self.image_folder is not None
        path = Path(os.path.normpath(self.image_folder / question.image))
        inside = path.is_relative_to(os.path.normpath(self.image_folder))
        return path if inside else UnreadableImage("leaves the image folder")

    def batches(self, size: int) -> list[list[int]]:
        """The places of the questions in batches, the longest questions first, those without an image apart.

        They depend on nothing but the questions and the size. The longest come first: what does not fit into memory
        shows at once.
        """
        batches = []
        for imaged in (True, False):
            places = [place for place, one in enumerate(self.questions) if (one.image is not None) == imaged]
            places.sort(key=lambda place: -len(self.questions[place].prompt))
            batches += [places[start : start + size] for start in range(0, len(places), size)]
        return batches

    def answered(self) -> set[int]:
        """The places that need not be asked again: those with an answer, or with an image that stays unreadable."""
        records = read_parts(self.parts, len(self.questions))
        return {place for place, record in records.items() if not self.readable_now(record)}

    def readable_now(self, record: Record) -> bool:
        """Whether an answer is empty for want of an image that can be read by now."""
        image = self.image_of(self.questions[record.place])
        if not (record.unreadable and isinstance(image, Path)):
            return False
        try:
            load_image(image)
        except BadImage:
            return False
        return True


def open_task(benchmark: Benchmark, settings: RunSettings) -> Task:
    """Read a benchmark's questions and see that its images are there.

    Raises:
        MissingData: If the question file is missing, or all images are.
        ValueError: If the question file is broken, or a question cannot be asked.
    """
    layout, remedy = benchmark.files, f"to get {benchmark.title}: {benchmark.files.source}"
    path = find(settings.data, layout.questions)
    if path is None:
        raise MissingData(f"{settings.data / layout.questions}: no such file; {remedy}")
    questions = tuple(benchmark.read_questions(path)[: settings.limit])
    for question in questions:
        _require_words(question, path)
    images = None if layout.images is None else settings.data / layout.images
    task = Task(benchmark, path, images, questions, settings.output / benchmark.name)
    if images is None and all(question.image is None for question in questions):
        raise MissingData(f"{path}: a table without images; {remedy}")
    files = [file for file in map(task.image_of, questions) if isinstance(file, Path)]
    if images is not None and files and not images.is_dir():
        raise MissingData(f"{images}: no such folder; {remedy}")
    if files and all(file_size(file) < 0 for file in files):
        raise MissingData(
            f"{images}: not one of the {len(files)} images of {path.name} is there, such as {files[0].name}; {remedy}"
        )
    return task


def _require_words(question: Question, source: Path) -> None:
    """What no template takes is said before the model is loaded, not in the middle of the run."""
    try:
        question.prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{source}: question {question.id} holds half of a surrogate pair: mend its text") from None
    found = ALIGN_TOKEN if ALIGN_TOKEN in question.prompt else MARK.search(question.prompt)
    if found:
        what = found if isinstance(found, str) else f"U+{ord(found[0]):04X}"
        raise ValueError(f"{source}: question {question.id} holds {what}, which is reserved: take it out")


# Two runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelRecord:
    """What makes a model answer as it does, read from its folder without loading it."""

    name: str
    hash: str
    template: str
    template_hash: str
    alignment: Any
    dtype: str

    @property
    def fields(self) -> dict[str, Any]:
        """As `run.json` has them."""
        return {
            "model": self.name,
            "model_hash": self.hash,
            "template": self.template,
            "template_hash": self.template_hash,
            "alignment": self.alignment,
            "dtype": self.dtype,
        }


def read_model(settings: RunSettings) -> ModelRecord:
    """Read what a run records about its model.

    Raises:
        FileNotFoundError: If the folder holds no model.
        ValueError: If the alignment setting does not fit the model.
    """
    folder = settings.model
    if (folder / INFO_FILE).is_file():
        known = read_json(folder / INFO_FILE)["settings"]
        own, levels, dtype = known["alignment"], known["num_alignment_levels"], "float32"
        text, aligned = load_template(known["template"]), own != "none"
    else:
        kind = read_json(folder / "config.json").get("model_type")
        if kind != AlignGPTConfig.model_type:
            raise ValueError(f"{folder} is a {kind} model, not an AlignGPT: give a folder that finetune wrote")
        config = AlignGPTConfig.from_pretrained(folder)
        own, levels, dtype = config.alignment, config.num_alignment_levels, config.dtype or "float32"
        processor = read_json(folder / "processor_config.json")
        text, aligned = _template(folder), processor.get("use_alignment", True)
    alignment = parse_alignment(own if settings.alignment is None else settings.alignment, levels)
    if not aligned and alignment != "none":
        raise ValueError(f"{folder} was trained without alignment: leave out the setting {settings.alignment!r}")
    return ModelRecord(
        name=folder.resolve().name,
        hash=hash_folder(folder, _MODEL_FILES),
        template=_name_of(text),
        template_hash=hashlib.sha256(text.encode()).hexdigest(),
        alignment=list(alignment) if isinstance(alignment, tuple) else alignment,
        dtype=settings.dtype or str(dtype).removeprefix("torch."),
    )


def _template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no conversation template; is this a folder that finetune or convert wrote?")
    return path.read_text(encoding="utf-8")


def _name_of(template: str) -> str:
    """The name of a shipped template with this text."""
    shipped = {path.read_text(encoding="utf-8").strip(): path.stem for path in sorted(TEMPLATES.glob("*.jinja"))}
    return shipped.get(template.strip(), "its own")


def read_data_note(data: Path) -> str | None:
    """Return the `note` of a data folder's `dataset_info.json`, None if there is none."""
    path = data / DATASET_INFO
    info = read_json(path) if path.is_file() else None
    return info.get("note") if isinstance(info, dict) else None


def describe_run(task: Task, settings: RunSettings, model: ModelRecord) -> dict[str, Any]:
    """What `run.json` says when a run begins."""
    sizes = [file_size(file) for file in map(task.image_of, _sample(task)) if isinstance(file, Path)]
    return {
        "benchmark": task.benchmark.name,
        **model.fields,
        "decoding": {"do_sample": False, "num_beams": 1, "max_new_tokens": task.benchmark.max_new_tokens},
        "limit": settings.limit,
        "data_note": read_data_note(settings.data),
        "data_hash": hash_file(task.question_file),
        "image_sizes": " ".join(map(str, sizes)),
        "batch_size": settings.batch_size,
        "versions": versions(),
    }


def _sample(task: Task) -> list[Question]:
    """Some questions with an image of its own file, all over the benchmark."""
    imaged = [question for question in task.questions if isinstance(task.image_of(question), Path)]
    return imaged[:: -(-len(imaged) // _SAMPLED_IMAGES) or 1]


def claim(task: Task, run: dict[str, Any], alone: bool = True) -> bool:
    """Begin a run in its folder or go on with it; whether it had been finished.

    Args:
        alone: Nobody else is at work in the folder: a run that was begun there without an answer may be replaced.

    Raises:
        ValueError: If the folder holds another run; the message says what differs.
    """
    path = task.folder / "run.json"
    begun = task.answers.is_file() or any(part.stat().st_size for part in task.parts.glob("*.jsonl"))
    if begun and not path.is_file():
        raise ValueError(f"{task.folder} holds answers but no run.json: give another --output, or delete this one")
    if path.is_file() and not (alone and not begun):
        known = read_json(path)
        differing = [
            _difference(name, known.get(name), run[name]) for name in _IDENTITY if known.get(name) != run[name]
        ]
        if not differing and _other_images(task, known, run):
            differing = ["other images (files of other sizes)"]
        if differing:
            raise ValueError(
                f"{task.folder} holds another run: {'; '.join(differing)}: give another --output, or delete this one"
            )
        finished = bool(known.get("complete")) and task.answers.is_file()
        if finished and alone:
            shutil.rmtree(task.parts, ignore_errors=True)  # there if the run was killed at its very end
        return finished
    write_json(path, run | {"complete": False})
    return False


def _other_images(task: Task, known: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether an image has become another; one that was absent or could not be read may have been mended."""
    records = read_parts(task.parts, len(task.questions))
    mended = {one["image"] for one in known.get("unreadable_images", ())}
    mended |= {task.questions[place].image for place, record in records.items() if record.unreadable}
    sizes = zip(_sample(task), str(known.get("image_sizes")).split(), run["image_sizes"].split(), strict=False)
    return any(
        there != here and "-1" not in (there, here) and question.image not in mended for question, there, here in sizes
    )


def _difference(name: str, known: Any, given: Any) -> str:
    what = name.removesuffix("_hash")
    if name.endswith("_hash"):
        return f"another {what} (hash {str(known)[:12]} there, {str(given)[:12]} here)"
    return f"{what} is {known!r} there and {given!r} here"
