"""Read a run folder into frozen dataclasses; what was not run is `None` or empty, what is broken is an error.

Nothing here computes or draws: `findings` turns the numbers into sentences, `figures` into charts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.evaluation.artifacts import BenchmarkScore, GateStats, GroupScore
from aligngpt.utils.io import read_json

ALIGNMENTS = ("adaptive", "none")
STAGES = ("pretrain", "finetune")
_MARKS = ("metrics.json", "levels/levels.json", "scores/manifest.json", "captions/captions.json")
_MARKS_IN_STEPS = ("train_results.json", "results.json")


@dataclass(frozen=True)
class Pair:
    """A scored pair. `score` is NaN and `level` 0 where the scorer failed; truth is known for drawn images only.

    Attributes:
        score: CLIP cosine, -1 to 1.
        level: 1..N, low to high.
        coverage: Share of the image's facts that the caption tells, 0 to 1.
    """

    id: str
    score: float
    level: int
    image: str | None = None
    caption: str | None = None
    kind: str | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class Levels:
    """How pairs were cut into levels: N-1 rising `boundaries`, and the number of pairs in each of the N levels."""

    num_levels: int
    strategy: str
    boundaries: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One row of the table of what trains in a stage."""

    name: str
    parameters: int
    trains: bool


@dataclass(frozen=True)
class Training:
    """One stage of training. `curve` holds (step, loss); `loss_by_level` has N values, NaN for an empty level."""

    stage: str
    alignment: str
    steps: int
    samples: int
    truncated_samples: int
    seconds: float
    final_loss: float
    curve: tuple[tuple[int, float], ...]
    loss_by_level: tuple[float, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class CaptionLevel:
    """How well captions written at one level name an image's objects, 0 to 1, with a 95 % interval."""

    level: int
    precision: float
    recall: float
    recall_interval: tuple[float, float]


@dataclass(frozen=True)
class CaptionExample:
    """One image and its captions at levels 1..N."""

    image: str
    truth: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Captions:
    """What the stage-1 model writes when told each level."""

    by_level: tuple[CaptionLevel, ...]
    examples: tuple[CaptionExample, ...]


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, 0 to 1, its 95 % interval and the number of questions."""

    accuracy: float
    interval: tuple[float, float]
    count: int


@dataclass(frozen=True)
class Result:
    """One model's answers, scored. `scores` maps a question's id to its score, 0 to 1."""

    alignment: str
    overall: Accuracy
    by_kind: dict[str, Accuracy]
    scores: dict[str, float]


@dataclass(frozen=True)
class GateKind:
    """Mean gate weights of one kind of question: N-1 values that sum to 1, and their entropy in nats."""

    weights: tuple[float, ...]
    entropy: float


@dataclass(frozen=True)
class GateExample:
    """One question with what the gate saw: `dots` is (h * w,) in reading order, `gate_weights` (N-1,)."""

    image: str
    question: str
    answer: str
    prediction: str
    grid: tuple[int, int]
    dots: tuple[float, ...]
    gate_weights: tuple[float, ...]


@dataclass(frozen=True)
class Gates:
    """The gate at work (Eq. 2)."""

    by_kind: dict[str, GateKind]
    examples: tuple[GateExample, ...]


@dataclass(frozen=True)
class Run:
    """A run folder's contents. Trainings are keyed by (stage, alignment), results by alignment."""

    folder: Path
    summary: dict[str, Any]
    pairs: tuple[Pair, ...]
    levels: Levels | None
    trainings: dict[tuple[str, str], Training]
    captions: Captions | None
    results: dict[str, Result]
    gates: Gates | None
    recipes: dict[str, Any]

    @property
    def has_truth(self) -> bool:
        """Whether it is known how much of each image the captions tell."""
        return any(pair.coverage is not None for pair in self.pairs)


def load_run(folder: str | Path) -> Run:
    """Read a run folder as `aligngpt run synthetic` writes it; steps that were not run may be absent.

    Raises:
        ValueError: `folder` is not a run folder, or one of its files is broken; names the file and the remedy.
    """
    folder = Path(folder)
    marks = [folder / mark for mark in _MARKS]
    marks += [path for name in _MARKS_IN_STEPS for path in sorted(folder.glob(f"*/{name}"))]
    if not any(path.is_file() for path in marks):
        state = "holds none of its files" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"{folder}: expected a run folder with metrics.json, levels/ or eval-*/, but it {state}; "
            f"write one with `aligngpt run synthetic --output {folder}`"
        )
    return Run(
        folder=folder,
        summary=_optional_json(folder / "metrics.json", dict) or {},
        pairs=_pairs(folder),
        levels=_levels(folder / "levels" / "levels.json"),
        trainings=_trainings(folder),
        captions=_captions(folder / "captions" / "captions.json"),
        results=_results(folder),
        gates=_gates(folder),
        recipes=_recipes(folder),
    )


def _optional_json(path: Path, kind: type) -> Any:
    """The file's content, which must be of the given kind, or `None` where there is no file."""
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, found {type(content).__name__}; {_AGAIN}")
    return content


_AGAIN = "delete it and run the step again"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong inside into one line that names the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: field {error} is missing; {_AGAIN}") from error
    except (TypeError, AttributeError, IndexError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: not as expected ({error}); {_AGAIN}") from error


def _number(value: Any) -> float:
    """A float; JSON's null, which stands for `not measured`, becomes NaN."""
    return math.nan if value is None else float(value)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(_number(value) for value in values or ())


def _interval(values: Any) -> tuple[float, float]:
    low, high = values if values else (None, None)
    return _number(low), _number(high)


def _pairs(folder: Path) -> tuple[Pair, ...]:
    levels_path = folder / "levels" / "levels.parquet"
    parts = [levels_path] if levels_path.is_file() else sorted((folder / "scores").glob("part-*.parquet"))
    sources = _captioned_images(folder / "data" / "pretrain.json")
    truths = (_optional_json(folder / "data" / "truth.json", dict) or {}).get("pairs", {})
    pairs = []
    for path in parts:
        with _reading(path):
            for row in pq.read_table(path).to_pylist():
                image, caption = sources.get(row["id"], (None, None))
                truth = truths.get(row["id"], {})
                pairs.append(
                    Pair(
                        id=row["id"],
                        score=_number(row["clip_score"]),
                        level=row.get("alignment_level") or 0,
                        image=image,
                        caption=caption,
                        kind=truth.get("kind"),
                        coverage=truth.get("coverage"),
                    )
                )
    return tuple(pairs)


def _captioned_images(path: Path) -> dict[str, tuple[str, str]]:
    """Each pair's image and caption by its id."""
    with _reading(path):
        return {
            record["id"]: (record["image"], record["conversations"][-1]["value"])
            for record in _optional_json(path, list) or []
        }


def _levels(path: Path) -> Levels | None:
    content = _optional_json(path, dict)
    if content is None:
        return None
    with _reading(path):
        return Levels(
            content["num_levels"],
            content["strategy"],
            _numbers(content["boundaries"]),
            tuple(int(count) for count in content["counts"]),
        )


def _trainings(folder: Path) -> dict[tuple[str, str], Training]:
    found = {}
    for stage in STAGES:
        for alignment in ALIGNMENTS:
            path = folder / f"{stage}-{alignment}" / "train_results.json"
            content = _optional_json(path, dict)
            if content is None:
                continue
            with _reading(path):
                found[stage, alignment] = Training(
                    stage=stage,
                    alignment=alignment,
                    steps=content["global_step"],
                    samples=content["num_samples"],
                    truncated_samples=content["num_truncated"],
                    seconds=content["train_runtime"],
                    final_loss=_number(content["final_loss"]),
                    curve=tuple(
                        (log["step"], log["loss"]) for log in content["log_history"] if log.get("loss") is not None
                    ),
                    loss_by_level=_numbers(content.get("loss_by_level")),
                    parts=tuple(
                        Part(part["name"], part["num_parameters"], part["trainable"]) for part in content["modules"]
                    ),
                )
    return found


def _captions(path: Path) -> Captions | None:
    content = _optional_json(path, dict)
    if content is None or not content.get("by_level"):
        return None
    with _reading(path):
        return Captions(
            tuple(
                CaptionLevel(
                    row["level"],
                    _number(row["precision"]["value"]),
                    _number(row["recall"]["value"]),
                    _interval(row["recall"]["ci95"]),
                )
                for row in content["by_level"]
            ),
            tuple(
                CaptionExample(example["image"], example["truth"], tuple(example["captions"]))
                for example in content["examples"]
            ),
        )


def _results(folder: Path) -> dict[str, Result]:
    found = {}
    for alignment in ALIGNMENTS:
        path = folder / f"eval-{alignment}" / "synthetic" / BenchmarkScore.FILE
        if not path.is_file():
            continue
        score = BenchmarkScore.read(path)
        by_kind = {kind: _accuracy(group) for kind, group in score.groups["kind"].items()}
        scores = {str(sample.id): sample.score for sample in score.samples if sample.aggregation_group is not None}
        found[alignment] = Result(alignment, _accuracy(score), by_kind, scores)
    return found


def _accuracy(score: BenchmarkScore | GroupScore) -> Accuracy:
    low, high = score.ci95 or (score.score, score.score)
    return Accuracy(_number(score.score) / 100, (_number(low) / 100, _number(high) / 100), score.n_samples)


def _gates(folder: Path) -> Gates | None:
    path = folder / "eval-adaptive" / "synthetic" / GateStats.FILE
    if not path.is_file():
        return None
    stats = GateStats.read(path)
    by_kind = {kind: GateKind(tuple(row.weights), row.entropy) for kind, row in stats.by_kind.items()}
    source = folder / "gate_examples.json"
    with _reading(source):
        content = _optional_json(source, dict) or {"examples": ()}
        examples = tuple(_gate_example(source, example) for example in content["examples"])
    return Gates(by_kind, examples)


def _gate_example(path: Path, example: dict[str, Any]) -> GateExample:
    rows, columns = example["grid"]
    if rows * columns != len(example["dots"]):
        raise ValueError(
            f"{path}: a grid of {rows} x {columns} wants {rows * columns} dot products, "
            f"found {len(example['dots'])}; {_AGAIN}"
        )
    return GateExample(
        image=example["image"],
        question=example["question"],
        answer=example["answer"],
        prediction=example["prediction"],
        grid=(rows, columns),
        dots=_numbers(example["dots"]),
        gate_weights=_numbers(example["gate_weights"]),
    )


def _recipes(folder: Path) -> dict[str, Any]:
    """The resolved recipe of the run and of each step, by the step's name."""
    found = {"run": folder / "recipe.json"} | {
        path.parent.name: path for path in sorted(folder.glob("*/run_config.json"))
    }
    return {name: read_json(path) for name, path in found.items() if path.is_file()}
