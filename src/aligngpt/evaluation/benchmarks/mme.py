"""MME: two yes-or-no questions an image in 14 tasks; the reported number sums the ten of perception."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligngpt.evaluation.metrics import mean, total
from aligngpt.evaluation.readers import gather, load_records, load_text, read_answers, read_questions
from aligngpt.evaluation.types import (
    LLAVA_FILES,
    Benchmark,
    BenchmarkFiles,
    Id,
    MatchCounts,
    Prediction,
    Predictions,
    Protocol,
    Question,
    SampleScore,
    Score,
    count_duplicates,
)

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)

_SHORT = "Answer the question using a single word or phrase."
_YES_NO = "Please answer yes or no."
_LABELS = tuple(f"{folder}{task}.txt" for folder in ("", "Your_Results/", "eval_tool/Your_Results/") for task in TASKS)
_RELEASE = ("", "MME_Benchmark_release_version/")
_WIDE = 4  # fields of a result line; one of a skeleton has the first three

Key = tuple[str, str, str]  # task, image without directory and suffix, question


@dataclass(frozen=True)
class Line:
    """A line of the official skeleton or of a result file; the answer is None in a skeleton."""

    task: str
    image: str
    question: str
    gold: str
    answer: str | None = None
    place: int = 0

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.task, _stem(self.image), self.question


def _stem(image: str) -> str:
    return image.split("/")[-1].split(".")[0]


def read_labels(paths: Sequence[Path]) -> list[Line]:
    """Read the labels: the skeleton `<task>.txt` of the evaluation tool, or the folders of the benchmark's release.

    Returns:
        The lines; none if no path is given, which does for finished result lines.

    Raises:
        ValueError: If there are none in what is given.
    """
    lines = [line for path in gather(paths, _LABELS) for line in _read_lines(path)]
    for path in paths:
        if not lines and path.is_dir():
            lines = _read_release(path)
    if paths and not lines:
        raise ValueError(f"{paths[0]}: no MME labels, expected {_LABELS[0]} and the other tasks beside it")
    return lines


def _read_lines(path: Path) -> list[Line]:
    task = path.name.split(".")[0]
    if task not in TASKS:
        raise ValueError(
            f"{path}: {task} is no task of MME, whose files are called {TASKS[0]}.txt, {TASKS[1]}.txt, ..."
        )
    lines = load_text(path).replace("\r\n", "\n").split("\n")
    return [_line(task, line, path, place) for place, line in enumerate(lines, start=1) if line]


def _line(task: str, text: str, path: Path, place: int) -> Line:
    fields = text.split("\t")
    if len(fields) not in (_WIDE - 1, _WIDE) or fields[2].lower() not in ("yes", "no"):
        raise ValueError(
            f"{path}:{place}: expected image, question, Yes or No and, in results, the answer, separated by tabs; "
            f"got {len(fields)} fields"
        )
    return Line(task, fields[0], fields[1], fields[2], fields[3] if len(fields) == _WIDE else None, place)


def _read_release(folder: Path) -> list[Line]:
    """Read `<task>/<image>.txt` or `<task>/questions_answers_YN/<image>.txt`: lines of question and gold answer."""
    lines = []
    for task in TASKS:
        for path in gather(
            [folder / part / task for part in _RELEASE if (folder / part / task).is_dir()], _release_files
        ):
            for place, text in enumerate(load_text(path).split("\n"), start=1):
                question, _, gold = text.strip().partition("\t")
                if text.strip() and gold.lower() not in ("yes", "no"):
                    raise ValueError(f"{path}:{place}: expected a question and Yes or No, separated by a tab")
                if text.strip():
                    lines.append(Line(task, path.name, question, gold))
    return lines


_release_files = ("*.txt", "questions_answers_YN/*.txt")


def read_results(path: Path) -> Predictions:
    """Read answers: LLaVA's lines; or finished result lines, as a folder of `<task>.txt` or JSON Lines.

    The latter have `category` and `line`, the four fields of a result line.

    Raises:
        ValueError: If a line has another form.
    """
    if path.is_dir():
        files = gather([path], tuple(f"{task}.txt" for task in TASKS))
        if not files:
            raise ValueError(f"{path}: no result files in this folder, expected {TASKS[0]}.txt and the other tasks")
        lines = [line for file in files for line in _read_lines(file)]
    elif path.suffix == ".txt":
        lines = _read_lines(path)
    else:
        first = load_records(path)[0][1]
        if not {"category", "line"} <= first.keys():
            return read_answers(path)
        lines = [_line(str(one["category"]), str(one["line"]), path, place) for place, one in load_records(path)]
    for line in lines:
        if line.answer is None:
            raise ValueError(f"{path}: {line.task} line {line.place} has no answer, only a skeleton's three fields")
    rows = [
        Prediction(f"{one.task}/{one.image}", one.answer or "", one.question, one.place, {"label": one.gold})
        for one in lines
    ]
    return Predictions(str(path), rows, submission=True)


def read_yes_no(text: str) -> str:
    """Read an answer: yes, no or other, by what its first four characters hold, whatever their case."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def score(labels: Sequence[Line], answers: Predictions, protocol: Protocol) -> Score:
    """Score each task by 100 x (share of right answers + share of images with both right).

    Raises:
        ValueError: If no line can be scored, or officially if a task's lines are odd in number.
    """
    found = _with_gold(labels, answers)
    pairs = _pairs_by_position(found) if protocol == "official" else _pairs_by_image(labels, found)
    keys = [line.key for line in found]
    known = {label.key for label in labels} or set(keys)
    count = MatchCounts(len(known - set(keys)), len(answers.rows) - len(found), count_duplicates(map(str, keys)))
    samples = [_item(pair) for pair in pairs]
    tasks = {task: _task_score([pair for pair in pairs if pair[0].task == task]) for task in TASKS}
    scores = {task: value for task, value in tasks.items() if value is not None}
    perception = total(scores[task] for task in PERCEPTION if task in scores)
    cognition = total(scores[task] for task in COGNITION if task in scores)
    details = {"perception": perception, "cognition": cognition, "tasks": scores}
    notes = _notes(pairs, scores, answers) if protocol == "official" else ()
    return Score(perception, f"{perception:.2f}", samples, count, details, notes)


def _with_gold(labels: Sequence[Line], answers: Predictions) -> list[Line]:
    """The answers as result lines, in their order; those that no label fits are left out."""
    gold = {label.key: label.gold for label in labels}
    found = []
    for row in answers.rows:
        task, _, image = str(row.id).partition("/")
        if "label" in row.extra:
            found.append(Line(task, image, row.prompt, row.extra["label"], row.text, row.line))
            continue
        question = _question_of(task, image, row.prompt, gold)
        if (task, _stem(image), question) in gold:
            found.append(Line(task, image, question, gold[task, _stem(image), question], row.text, row.line))
    if not found:
        remedy = "are these answers to MME?" if labels else "name the skeleton of the evaluation tool with --labels"
        raise ValueError(f"{answers.source}: none of its {len(answers.rows)} answers has a label; {remedy}")
    return found


def _question_of(task: str, image: str, prompt: str, gold: Mapping[Key, str]) -> str:
    """The question of a prompt as the labels have it: the way of answering replaced by the official one."""
    question = prompt.replace(_SHORT, "").strip() if _SHORT in prompt else prompt
    if _YES_NO in question:
        return question
    one_space = f"{question} {_YES_NO}"
    return one_space if (task, _stem(image), one_space) in gold else f"{question}  {_YES_NO}"


def _pairs_by_position(lines: Sequence[Line]) -> list[list[Line]]:
    pairs = []
    for task in TASKS:
        own = [line for line in lines if line.task == task]
        if len(own) % 2:
            raise ValueError(
                f"{task} has {len(own)} answers; the official scorer takes them two by two and stops at an odd "
                "number: use --protocol strict, which pairs by image"
            )
        pairs += [own[place : place + 2] for place in range(0, len(own), 2)]
    return pairs


def _pairs_by_image(labels: Sequence[Line], found: Sequence[Line]) -> list[list[Line]]:
    """Every image with its questions, each with its last answer, or without one."""
    answered = {line.key: line for line in found}
    pairs: dict[tuple[str, str], dict[Key, Line]] = {}
    for label in labels or found:
        line = answered.get(label.key) or Line(label.task, label.image, label.question, label.gold)
        pairs.setdefault(label.key[:2], {})[label.key] = line
    return [list(pair.values()) for pair in pairs.values()]


def _right(line: Line) -> bool:
    return line.answer is not None and read_yes_no(line.answer) == line.gold.lower()


def _task_score(pairs: Sequence[Sequence[Line]]) -> float | None:
    if not pairs:
        return None
    accuracy = mean(float(_right(line)) for pair in pairs for line in pair)
    both = mean(float(all(map(_right, pair))) for pair in pairs)
    return accuracy * 100 + both * 100


def _item(pair: Sequence[Line]) -> SampleScore:
    task = pair[0].task
    right = [_right(line) for line in pair]
    parts = tuple(
        SampleScore(line.image, float(_right(line)), line.answer, read_yes_no(line.answer or ""), line.gold.lower())
        for line in pair
    )
    return SampleScore(
        _item_id(task, pair[0].image),
        (mean(map(float, right)) + all(right)) / 2,
        groups={"task": task},
        aggregation_group=task if task in PERCEPTION else None,
        parts=parts,
    )


def _notes(pairs: Sequence[Sequence[Line]], scores: Mapping[str, float], answers: Predictions) -> tuple[str, ...]:
    notes = []
    absent = [task for task in TASKS if task not in scores]
    if absent:
        notes.append(f"no answers in {', '.join(absent)}; the official scorer stops, here the sum goes without them")
    apart = sum(_stem(first.image) != _stem(second.image) for first, second in pairs)
    if apart:
        notes.append(f"pairs of lines about two different images: {apart}")
    unread = [
        task
        for task in scores
        if all(read_yes_no(line.answer or "") == "other" for pair in pairs if pair[0].task == task for line in pair)
    ]
    if unread:
        notes.append(
            f"{', '.join(unread)}: no answer is yes or no; the official scorer stops, here such a task scores 0"
        )
    broken = sum("\t" in row.text or "\n" in row.text for row in answers.rows)
    if broken:
        notes.append(f"answers with a tab or a newline, at which the official scorer stops: {broken}")
    return tuple(notes)


def sample_ids(questions: Sequence[Question], labels: Sequence[Line] | None) -> list[Id]:
    """Both questions of an image are one item."""
    return [_item_id(*str(question.id).split("/", 1)) for question in questions]


def _item_id(task: str, image: str = "") -> str:
    return f"{task}/{_stem(image)}"


MME = Benchmark(
    name="mme",
    title="MME",
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
    read_questions=read_questions,
    read_labels=read_labels,
    read_answers=read_results,
    score=score,
    official_caveat="the official scorer takes answers two by two by position, so that a missing one pairs others "
    "wrongly",
    scale=200.0,
    combine="sum",
    sample_ids=sample_ids,
)
