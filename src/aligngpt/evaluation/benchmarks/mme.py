"""MME: two yes-or-no questions per image in 14 tasks; the primary metric is the sum of the ten perception tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligngpt.evaluation import readers
from aligngpt.evaluation.artifacts import FULL_SUB_SCORES, TITLES, Id, PredictionCounts, SampleScore
from aligngpt.evaluation.benchmark import LLAVA_FILES, Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import count_duplicates
from aligngpt.evaluation.metrics import mean, total
from aligngpt.evaluation.types import Prediction, Predictions, Protocol, Question, Score

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)

_INSTRUCTION = "Answer the question using a single word or phrase."
_YES_NO = "Please answer yes or no."
_LABELS = tuple(f"{folder}{task}.txt" for folder in ("", "Your_Results/", "eval_tool/Your_Results/") for task in TASKS)
_RELEASE_FOLDERS = ("", "MME_Benchmark_release_version/")
_RELEASE_FILES = ("*.txt", "questions_answers_YN/*.txt")

Key = tuple[str, str, str]  # task, image without folder and suffix, question


@dataclass(frozen=True)
class MmeLine:
    """A line of the official label or result files; `answer` is None in a label file or where it is missing."""

    task: str
    image: str
    question: str
    label: str
    answer: str | None = None
    number: int = 0

    @property
    def key(self) -> Key:
        """What identifies the question."""
        return self.task, _stem(self.image), self.question

    @property
    def is_correct(self) -> bool:
        """Whether the answer is the label."""
        return self.answer is not None and read_yes_no(self.answer) == self.label.lower()


def _stem(image: str) -> str:
    return image.split("/")[-1].split(".")[0]


def read_labels(paths: Sequence[Path]) -> list[MmeLine]:
    """Read the labels: `<task>.txt` of the evaluation tool, or the folders of the benchmark's release.

    Returns:
        The lines; none without a path, since finished result lines hold their labels.

    Raises:
        ValueError: If the paths hold no labels.
    """
    lines = [line for path in readers.collect_files(paths, _LABELS) for line in _read_lines(path)]
    for path in paths:
        if not lines and path.is_dir():
            lines = _read_release(path)
    if paths and not lines:
        raise ValueError(f"{paths[0]}: no MME labels; expected {_LABELS[0]} and the files of the other tasks")
    return lines


def _read_lines(path: Path) -> list[MmeLine]:
    task = path.name.split(".")[0]
    if task not in TASKS:
        raise ValueError(f"{path}: {task} is not an MME task; expected {TASKS[0]}.txt, {TASKS[1]}.txt, ...")
    lines = readers.load_text(path).replace("\r\n", "\n").split("\n")
    return [_parse_line(task, line, path, number) for number, line in enumerate(lines, start=1) if line]


def _parse_line(task: str, text: str, path: Path, number: int) -> MmeLine:
    fields = text.split("\t")
    if len(fields) not in (3, 4) or fields[2].lower() not in ("yes", "no"):
        form = "image, question, Yes or No and, in results, the answer, separated by tabs"
        raise ValueError(f"{path}:{number}: expected {form}; got {len(fields)} fields")
    return MmeLine(task, fields[0], fields[1], fields[2], fields[3] if len(fields) == 4 else None, number)


def _read_release(folder: Path) -> list[MmeLine]:
    """Read `<task>/<image>.txt` or `<task>/questions_answers_YN/<image>.txt`: lines of question and label."""
    lines = []
    for task in TASKS:
        folders = [folder / name / task for name in _RELEASE_FOLDERS if (folder / name / task).is_dir()]
        for path in readers.collect_files(folders, _RELEASE_FILES):
            for number, text in enumerate(map(str.strip, readers.load_text(path).split("\n")), start=1):
                question, _, label = text.partition("\t")
                if text and label.lower() not in ("yes", "no"):
                    raise ValueError(f"{path}:{number}: expected a question and Yes or No, separated by a tab")
                lines += [MmeLine(task, path.name, question, label)] if text else []
    return lines


def read_results(path: Path) -> Predictions:
    """Read predictions: LLaVA's lines; or finished result lines, as a folder of `<task>.txt` or JSON Lines.

    JSON Lines have `category` and `line`, the four fields of a result line.

    Raises:
        ValueError: If a line has another form.
    """
    if path.is_dir():
        files = readers.collect_files([path], tuple(f"{task}.txt" for task in TASKS))
        if not files:
            raise ValueError(f"{path}: no result files; expected {TASKS[0]}.txt and the files of the other tasks")
        lines = [line for file in files for line in _read_lines(file)]
    elif path.suffix == ".txt":
        lines = _read_lines(path)
    else:
        records = readers.load_records(path)
        if not {"category", "line"} <= records[0][1].keys():
            return readers.read_predictions(path)
        lines = [_parse_line(str(row["category"]), str(row["line"]), path, number) for number, row in records]
    for line in lines:
        if line.answer is None:
            raise ValueError(f"{path}: {line.task} line {line.number} has no answer; pass result lines, not labels")
    rows = [
        Prediction(f"{line.task}/{line.image}", line.answer or "", line.question, line.number, {"label": line.label})
        for line in lines
    ]
    return Predictions(str(path), rows, submission=True)


def read_yes_no(text: str) -> str:
    """Return yes, no or other, by what the first four characters contain, ignoring case."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def score(labels: Sequence[MmeLine], predictions: Predictions, protocol: Protocol) -> Score:
    """Score each task by 100 x (accuracy over questions + accuracy over images, correct if both questions are).

    Raises:
        ValueError: If no line can be scored, or officially if a task has an odd number of lines.
    """
    lines = _match_lines(labels, predictions)
    pairs = _pairs_by_position(lines) if protocol == "official" else _pairs_by_image(labels, lines)
    keys = [line.key for line in lines]
    expected = {label.key for label in labels} or set(keys)
    counts = PredictionCounts(
        n_predictions=len(predictions.rows),
        n_missing=len(expected - set(keys)),
        n_extra=len(predictions.rows) - len(lines),
        n_duplicates=count_duplicates(map(str, keys)),
    )
    samples = [_sample(pair) for pair in pairs]
    by_task = {task: [pair for pair in pairs if pair[0].task == task] for task in TASKS}
    tasks = {task: _task_score(group) for task, group in by_task.items() if group}
    perception, cognition = (total(tasks.get(task, 0.0) for task in names) for names in (PERCEPTION, COGNITION))
    details = {"perception": perception, "cognition": cognition, "tasks": tasks}
    notes = _official_notes(by_task, predictions) if protocol == "official" else ()
    return Score(perception, f"{perception:.2f}", samples, counts, details, notes)


def _match_lines(labels: Sequence[MmeLine], predictions: Predictions) -> list[MmeLine]:
    """Return the predictions as result lines, in their order; those without a label are skipped."""
    gold = {label.key: label.label for label in labels}
    lines = []
    for row in predictions.rows:
        task, _, image = str(row.id).partition("/")
        if "label" in row.extra:
            lines.append(MmeLine(task, image, row.prompt, row.extra["label"], row.text, row.line))
            continue
        key = task, _stem(image), _official_question(task, image, row.prompt, gold)
        if key in gold:
            lines.append(MmeLine(task, image, key[2], gold[key], row.text, row.line))
    if not lines:
        remedy = "check that these are predictions for MME" if labels else "pass the official label files with --labels"
        raise ValueError(f"{predictions.source}: none of its {len(predictions.rows)} predictions has a label; {remedy}")
    return lines


def _official_question(task: str, image: str, prompt: str, gold: Mapping[Key, str]) -> str:
    """Return the question of a prompt as the labels have it, with the official answer instruction."""
    question = prompt.replace(_INSTRUCTION, "").strip() if _INSTRUCTION in prompt else prompt
    if _YES_NO in question:
        return question
    one_space = f"{question} {_YES_NO}"
    return one_space if (task, _stem(image), one_space) in gold else f"{question}  {_YES_NO}"


def _pairs_by_position(lines: Sequence[MmeLine]) -> list[list[MmeLine]]:
    pairs = []
    for task in TASKS:
        group = [line for line in lines if line.task == task]
        if len(group) % 2:
            raise ValueError(
                f"{task} has {len(group)} predictions; the official scorer pairs them by position and stops at an odd "
                "number: use --protocol strict, which pairs by image"
            )
        pairs += [group[index : index + 2] for index in range(0, len(group), 2)]
    return pairs


def _pairs_by_image(labels: Sequence[MmeLine], lines: Sequence[MmeLine]) -> list[list[MmeLine]]:
    """Return the questions of every image, each with its last prediction or without one."""
    answered = {line.key: line for line in lines}
    pairs: dict[tuple[str, str], dict[Key, MmeLine]] = {}
    for label in labels or lines:
        line = answered.get(label.key) or MmeLine(label.task, label.image, label.question, label.label)
        pairs.setdefault(label.key[:2], {})[label.key] = line
    return [list(pair.values()) for pair in pairs.values()]


def _task_score(pairs: Sequence[Sequence[MmeLine]]) -> float:
    accuracy = mean(float(line.is_correct) for pair in pairs for line in pair)
    both = mean(float(all(line.is_correct for line in pair)) for pair in pairs)
    return accuracy * 100 + both * 100


def _sample(pair: Sequence[MmeLine]) -> SampleScore:
    task = pair[0].task
    parts = tuple(
        SampleScore(line.image, float(line.is_correct), line.answer, read_yes_no(line.answer or ""), line.label.lower())
        for line in pair
    )
    correct = [part.score for part in parts]
    name, group = f"{task}/{_stem(pair[0].image)}", task if task in PERCEPTION else None
    half = (mean(correct) + all(correct)) / 2
    return SampleScore(name, half, groups={"task": task}, aggregation_group=group, parts=parts)


def _official_notes(by_task: Mapping[str, Sequence[Sequence[MmeLine]]], predictions: Predictions) -> tuple[str, ...]:
    notes = []
    missing = [task for task, pairs in by_task.items() if not pairs]
    if missing:
        notes.append(f"no predictions for {', '.join(missing)}; the official scorer stops, here the sum skips them")
    mixed = sum(_stem(left.image) != _stem(right.image) for pairs in by_task.values() for left, right in pairs)
    if mixed:
        notes.append(f"pairs of lines about two different images: {mixed}")
    answers = {
        task: {read_yes_no(line.answer or "") for pair in group for line in pair} for task, group in by_task.items()
    }
    unparsed = [task for task, values in answers.items() if values == {"other"}]
    if unparsed:
        notes.append(f"{', '.join(unparsed)}: no prediction is yes or no; the official scorer stops, here it scores 0")
    broken = sum("\t" in row.text or "\n" in row.text for row in predictions.rows)
    if broken:
        notes.append(f"predictions with a tab or a newline, at which the official scorer stops: {broken}")
    return tuple(notes)


def sample_ids(questions: Sequence[Question], labels: Sequence[MmeLine] | None) -> list[Id]:
    """Return the sample of each question: both questions of an image are one sample."""
    ids = (str(question.id).partition("/") for question in questions)
    return [f"{task}/{_stem(image)}" for task, _, image in ids]


MME = Benchmark(
    name="mme",
    title=TITLES["mme"],
    metric="perception score",
    files=BenchmarkFiles(
        questions="MME/llava_mme.jsonl",
        images="MME/MME_Benchmark_release_version",
        labels=("MME/eval_tool/Your_Results",),
        answers="MME/answers/{model}.jsonl",
        source="images and labels: the branch Evaluation of "
        "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models; question file: " + LLAVA_FILES,
        other_labels=("MME/MME_Benchmark_release_version",),
    ),
    max_new_tokens=128,
    read_labels=read_labels,
    read_predictions=read_results,
    score=score,
    official_caveat="the official scorer pairs predictions by position, so a missing one mispairs those after it",
    scale=FULL_SUB_SCORES["mme"],
    combine="sum",
    sample_ids=sample_ids,
)
