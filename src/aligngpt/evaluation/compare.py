"""Compare two models on the same questions: the difference with its interval, a paired test, and example questions."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.data.schema import RecordError, check_image_path
from aligngpt.evaluation.artifacts import (
    BenchmarkScore,
    ComparedModel,
    Comparison,
    DifferingSample,
    JudgeResult,
    SampleScore,
    SkippedComparison,
)
from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.metrics import paired_test, percentile_interval
from aligngpt.evaluation.readers import find, read_predictions
from aligngpt.evaluation.scoring import compute_metric, resample_metric, score_files
from aligngpt.evaluation.types import Protocol, Question
from aligngpt.utils.errors import ArgumentError

_COMMON_LINES = (  # lines of prompts that are the same for every question
    "Answer ",
    "Reference OCR token:",
    "When the provided information is insufficient",
)


@dataclass(frozen=True)
class ScoredModel:
    """The samples of one of two models that count in the primary metric, and their origin."""

    name: str
    source: str  # file
    benchmark: Benchmark
    protocol: str
    samples: Sequence[SampleScore]
    judge: str | None = None  # judge that scored the predictions, if any


def read_scored_model(path: Path, name: str = "") -> ScoredModel:
    """Read a score file of `eval score --output` or `eval run`; the model has the file's name by default.

    Raises:
        ValueError: It is another file.
    """
    try:
        score = BenchmarkScore.read(path)
        benchmark = BENCHMARKS[score.benchmark]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not a score file of `aligngpt eval score --output` ({error}); for predictions pass --benchmark "
            "and --labels"
        ) from None
    samples = [sample for sample in score.samples if sample.aggregation_group]
    return ScoredModel(name or path.stem, str(path), benchmark, score.protocol, samples, _read_judge(path))


def _read_judge(score: Path) -> str | None:
    """Return the judge that scored the predictions, where `eval run` recorded it next to the score."""
    path = score.with_name(JudgeResult.FILE)
    if score.name != BenchmarkScore.FILE or not path.is_file():
        return None
    result = JudgeResult.read(path)
    names = [name for name in result.answered_by if name != "not named"]
    return ", ".join(names) or str(result.config["judge_model"])


def score_model(
    benchmark: Benchmark, labels: Sequence[Path], answers: Path, protocol: Protocol, name: str = ""
) -> ScoredModel:
    """Score a predictions file for a comparison; errors as `scoring.score_files`."""
    samples = score_files(benchmark, labels, answers, protocol).samples
    counted = [sample for sample in samples if sample.aggregation_group]
    return ScoredModel(name or answers.stem, str(answers), benchmark, protocol, counted)


def distinguish_names(left: Path, right: Path) -> tuple[str, str]:
    """Return different names for two files or folders: their stems or, where these are equal, those of their parents.

    Raises:
        ValueError: Both are the same file or folder.
    """
    left, right = left.resolve(), right.resolve()
    if left == right:
        raise ArgumentError(f"{left}: model and baseline are the same; pass two different paths")
    while left.name == right.name:
        left, right = left.parent, right.parent
    names = [path.stem if path.is_file() else path.name for path in (left, right)]
    return (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (1)", f"{names[1]} (2)")


def compare_models(model: ScoredModel, baseline: ScoredModel) -> Comparison:
    """Compare two models on the samples of both; differences are model minus baseline.

    The interval of the difference is a paired bootstrap: each resample has the same samples for both models.

    Raises:
        ValueError: The scores are of different benchmarks or protocols, or have no sample in common.
    """
    kinds = [f"{scored.benchmark.name} by the {scored.protocol} protocol" for scored in (model, baseline)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{model.source} is scored as {kinds[0]}, {baseline.source} as {kinds[1]}; score both alike")
    pairs = _pair_samples(model.samples, baseline.samples)
    if not pairs:
        raise ValueError(f"{model.source} and {baseline.source} have no question in common; compare the same split")
    benchmark, sides = model.benchmark, [[pair[index] for pair in pairs] for index in (0, 1)]
    scores = [compute_metric(samples, benchmark) for samples in sides]
    resampled = resample_metric(sides, benchmark)
    test = paired_test(*([sample.score for sample in samples] for samples in sides))
    judges = {scored.judge: None for scored in (model, baseline) if scored.judge is not None}
    note = f"scored by different judges, {' and '.join(judges)}: part of the difference may be theirs"
    differing = [_describe_sample(*pair) for pair in pairs if pair[0].score != pair[1].score]
    return Comparison(
        benchmark=benchmark.name,
        title=benchmark.title,
        metric=benchmark.metric,
        protocol=model.protocol,
        model=_describe_model(model, scores[0], test.n_left_better),
        baseline=_describe_model(baseline, scores[1], test.n_right_better),
        n_samples=len(pairs),
        n_unpaired=len(model.samples) + len(baseline.samples) - 2 * len(pairs),
        n_equal=len(pairs) - len(differing),
        difference=scores[0] - scores[1],
        ci95=percentile_interval(resampled[0] - resampled[1]),
        test=test.test,
        p_value=test.p_value,
        notes=[note] if len(judges) > 1 else [],
        differing=differing,
    )


def compare(
    model: str | Path, baseline: str | Path, *, data: str | Path | None = None, num_examples: int = 12
) -> list[Comparison | SkippedComparison]:
    """Compare two output folders of `evaluate` on every benchmark that both have a score of.

    Args:
        model: Output folder of the model.
        baseline: Output folder of the model it is compared with; differences are model minus baseline.
        data: Folder of the benchmark files, for questions and images of the examples.
        num_examples: Maximum number of examples per benchmark.

    Returns:
        One entry per benchmark, in the order of `BENCHMARKS`.

    Raises:
        ValueError: Both are the same folder, no benchmark has a score in both, or a question file is broken.
    """
    folders = (Path(model), Path(baseline))
    names = [name for name in BENCHMARKS if all((folder / name / BenchmarkScore.FILE).is_file() for folder in folders)]
    if not names:
        raise ValueError(
            f"{model} and {baseline}: no benchmark has a score.json in both; pass two outputs of aligngpt eval run"
        )
    models = distinguish_names(*folders)
    results: list[Comparison | SkippedComparison] = []
    for name in names:
        scored = [
            read_scored_model(folder / name / BenchmarkScore.FILE, title)
            for folder, title in zip(folders, models, strict=True)
        ]
        try:
            comparison = compare_models(*scored)
        except ValueError as error:
            results.append(SkippedComparison(benchmark=name, title=BENCHMARKS[name].title, reason=str(error)))
            continue
        answers = [folder / name / "answers.jsonl" for folder in folders]
        results.append(add_examples(comparison, None if data is None else Path(data), answers, num_examples))
    return results


def _describe_model(model: ScoredModel, score: float, n_better: int) -> ComparedModel:
    return ComparedModel(name=model.name, source=model.source, score=score, n_better=n_better, judge=model.judge)


def _pair_samples(left: Sequence[SampleScore], right: Sequence[SampleScore]) -> list[tuple[SampleScore, SampleScore]]:
    """Pair samples by id, the k-th occurrence of an id with the k-th; samples without a partner are skipped."""
    partners: defaultdict[str, deque[SampleScore]] = defaultdict(deque)
    for sample in right:
        partners[str(sample.id)].append(sample)
    return [(sample, partners[str(sample.id)].popleft()) for sample in left if partners[str(sample.id)]]


def _describe_sample(left: SampleScore, right: SampleScore) -> DifferingSample:
    texts = [[part.text for part in sample.parts] if sample.parts else sample.text for sample in (left, right)]
    label = [part.label for part in left.parts] if left.parts else left.label
    return DifferingSample(id=left.id, label=label, scores=(left.score, right.score), texts=(texts[0], texts[1]))


# Example questions ---------------------------------------------------------------------------------------------------


def add_examples(
    comparison: Comparison, data: Path | None, answers: Sequence[Path] = (), num_examples: int = 12
) -> Comparison:
    """Return the comparison with example questions: as many that either model answers better, by a fixed seed.

    Args:
        data: Folder of the benchmark files; without it the examples have no question and no image.
        answers: Predictions files of both models, for benchmarks that a judge scores.
        num_examples: Maximum number of examples.

    Raises:
        ValueError: The question file is broken or of another benchmark.
    """
    benchmark = BENCHMARKS[comparison.benchmark]
    path = data and find(data, benchmark.files.questions)
    questions = _read_by_sample(benchmark, path, data) if path and data else {}
    no_data = "pass --data with the folder of the benchmark files"
    note = None if path else f"{data} has no {benchmark.files.questions}" if data else no_data
    predicted = [_read_texts(benchmark, file, questions) for file in answers] or [{}, {}]
    examples = []
    for sample in _choose(comparison.differing, num_examples):
        asked = questions.get(str(sample.id), [])
        left, right = (texts.get(str(sample.id), text) for texts, text in zip(predicted, sample.texts, strict=True))
        changes = {
            "texts": (left, right),
            "question": "\n".join(map(_shorten_prompt, asked)) or None,
            "image": _find_image(asked[0], benchmark, data) if asked and data else None,
        }
        examples.append(sample.model_copy(update=changes))
    return comparison.model_copy(update={"examples": examples, "examples_note": note})


def _choose(differing: Sequence[DifferingSample], number: int) -> list[DifferingSample]:
    """Choose as many samples that favor either model as there are, the widest differences first."""
    shuffled = random.Random(0).sample(list(differing), len(differing))
    sides: list[list[DifferingSample]] = [[], []]
    for sample in sorted(shuffled, key=lambda sample: -abs(sample.scores[0] - sample.scores[1])):
        sides[sample.scores[1] > sample.scores[0]].append(sample)
    first = sides[0][: max(number // 2, number - len(sides[1]))]
    return first + sides[1][: number - len(first)]


def _read_by_sample(benchmark: Benchmark, path: Path, data: Path) -> dict[str, list[Question]]:
    labels = [file for name in benchmark.files.labels if (file := find(data, name))] if benchmark.sample_ids else []
    return benchmark.group_by_sample(benchmark.read_questions(path), benchmark.read_labels(labels) if labels else None)


def _read_texts(benchmark: Benchmark, path: Path, questions: Mapping[str, Sequence[Question]]) -> dict[str, str]:
    """Return the predictions that a judge scored, by sample; the scores of other benchmarks have them already."""
    if benchmark.judge is None or not path.is_file():
        return {}
    texts = {str(row.id): row.text for row in read_predictions(path).rows}
    return {sample: texts[str(asked[0].id)] for sample, asked in questions.items() if str(asked[0].id) in texts}


def _shorten_prompt(question: Question) -> str:
    """Return a prompt without the lines after the first that are the same for every question."""
    first, *others = (question.stored_prompt or question.prompt).split("\n")
    return "\n".join([first, *(line for line in others if not line.startswith(_COMMON_LINES))])


def _find_image(question: Question, benchmark: Benchmark, data: Path) -> Any:
    if not isinstance(question.image, str):
        return question.image if isinstance(question.image, bytes) else None
    try:
        return data / (benchmark.files.images or "") / check_image_path(question.image)
    except RecordError:
        return None
