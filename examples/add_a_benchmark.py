"""Define a benchmark of your own and score predictions with it.

    python examples/add_a_benchmark.py labels.jsonl answers.jsonl

A line of labels.jsonl: {"question_id": 7, "image": "7.jpg", "text": "How many dogs?", "answer": "2", "topic": "count"}
A line of answers.jsonl: {"question_id": 7, "prompt": "How many dogs?", "text": "2"}

To run models on it with `aligngpt eval run`, move the benchmark to `src/aligngpt/evaluation/benchmarks/` and add it to
`BENCHMARKS` there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation import readers
from aligngpt.evaluation.benchmark import Benchmark, BenchmarkFiles
from aligngpt.evaluation.matching import describe_missing, percent, score_targets
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.types import Predictions, Protocol, Score, Target


def read_labels(paths: Sequence[Path]) -> list[Target]:
    path = readers.locate_file(paths, ("labels.jsonl",), "labels")
    return readers.parse_lines(path, _target, "question")


def _target(line: int, record: dict[str, Any]) -> Target:
    return Target(record["question_id"], record["answer"], {"topic": record["topic"]})


def score(targets: Sequence[Target], predictions: Predictions, protocol: Protocol) -> Score:
    def compare(target: Target, text: str | None) -> tuple[str | None, float]:
        parsed = None if text is None else text.strip().rstrip(".").lower()
        return parsed, float(parsed == target.label)

    samples, counts = score_targets(targets, predictions, compare)
    accuracy = percent(samples)
    notes = describe_missing(counts, "both protocols do the same")
    return Score(accuracy, f"{accuracy:.1f}", samples, counts, {"accuracy": accuracy}, notes)


MY_BENCHMARK = Benchmark(
    name="my_benchmark",
    title="My benchmark",
    metric="accuracy",
    files=BenchmarkFiles(
        questions="my_benchmark/labels.jsonl",
        images="my_benchmark/images",
        labels=("my_benchmark/labels.jsonl",),
        answers="my_benchmark/answers/{model}.jsonl",
    ),
    max_new_tokens=32,
    read_labels=read_labels,
    score=score,
    official_caveat="there is no other scorer",
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Score predictions for a benchmark of your own.")
    parser.add_argument("labels", type=Path)
    parser.add_argument("answers", type=Path)
    arguments = parser.parse_args()
    result = score_files(MY_BENCHMARK, [arguments.labels], arguments.answers)
    print(f"accuracy {result.formatted}, 95% interval {result.ci95}, {result.n_samples} questions")
    for topic, group in result.groups["topic"].items():
        print(f"  {topic}: {group.score:.1f}")
    for note in result.notes:
        print(f"note: {note}")
