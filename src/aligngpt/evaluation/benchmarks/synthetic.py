"""The benchmark of the drawn world: exact answers by kind of question, and what descriptions and captions name."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligngpt.evaluation.metrics import bootstrap_interval, entropy, matches
from aligngpt.inference.batch_generation import Completion, GenerationSettings, generate_all
from aligngpt.inference.prompts import build_prompt
from aligngpt.modeling import AlignGPTForConditionalGeneration
from aligngpt.modeling.checkpoints import load_model
from aligngpt.synthetic.dataset import read_questions
from aligngpt.synthetic.scenes import QUESTION_KINDS, SceneObject, parse_objects
from aligngpt.utils.io import atomic_path, write_json

_LONGEST_ANSWER = 80  # tokens; the fullest description has 45
_EXAMPLES = 8


def evaluate(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    alignment: Any = None,
    batch_size: int = 100,
    limit: int | None = None,
) -> dict[str, Any]:
    """Completion and score the benchmark.

    An answer scores 1 if it is the label, exactly; a description scores the F1 of the objects it names, each by size,
    color, shape and place. `accuracy` is the mean over all questions.

    Args:
        model: Model folder.
        data: Folder of the drawn world.
        output: Folder for `answers.jsonl`, `results.json` and, where the model has a gate, `gates.json`.
        alignment: Overrides the model's setting.
        batch_size: Questions answered at once.
        limit: Only the first so many questions.

    Returns:
        What `results.json` holds.
    """
    started = time.monotonic()
    questions = sorted(read_questions(data)[:limit], key=lambda question: question["kind"])
    network, processor = load_model(model)
    setting = network.config.alignment if alignment is None else alignment
    prompts = [
        build_prompt(processor, question["text"], (Path(data) / "images" / question["image"],))
        for question in questions
    ]
    answers = list(
        generate_all(
            network,
            processor,
            prompts,
            GenerationSettings(_LONGEST_ANSWER, alignment, return_gate_weights=setting != "none"),
            batch_size=batch_size,
        )
    )
    rows = [_row(question, given) for question, given in zip(questions, answers, strict=True)]
    results = {"benchmark": "scenes", "alignment": str(setting), **_results(questions, rows)}
    results["seconds"] = round(time.monotonic() - started, 2)
    _write(Path(output), rows, results, _gates(network, questions, answers) if setting != "none" else None)
    return results


def _row(question: dict[str, Any], given: Completion) -> dict[str, Any]:
    return {
        "question_id": question["question_id"],
        "image": question["image"],
        "prompt": question["text"],
        "text": given.text,
        "label": question["label"],
        "kind": question["kind"],
        "score": _score(question, given.text),
    }


def _score(question: dict[str, Any], text: str) -> float:
    if question["kind"] != "description":
        return float(text == question["label"])
    told = parse_objects(text)
    return round(2 * matches(told, question["objects"]) / max(1, len(told) + len(question["objects"])), 4)


def _results(questions: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scores = [row["score"] for row in rows]
    by_kind = {}
    for kind in QUESTION_KINDS:
        of_kind = [row["score"] for row in rows if row["kind"] == kind]
        if of_kind:
            by_kind[kind] = {
                "accuracy": round(float(np.mean(of_kind)), 4),
                "interval": bootstrap_interval(of_kind),
                "count": len(of_kind),
            }
    described = [
        (row["text"], question["objects"])
        for question, row in zip(questions, rows, strict=True)
        if row["kind"] == "description"
    ]
    return {
        "count": len(rows),
        "accuracy": round(float(np.mean(scores)), 4),
        "interval": bootstrap_interval(scores),
        "by_kind": by_kind,
        "description": object_precision_recall([text for text, _ in described], [t for _, t in described])
        if described
        else None,
    }


def object_precision_recall(texts: Sequence[str], truths: Sequence[Sequence[SceneObject]]) -> dict[str, Any]:
    """Precision and recall of the objects that texts name, as color and shape, over all of them, with intervals."""
    told = [[(thing.color, thing.shape) for thing in parse_objects(text)] for text in texts]
    true = [[(thing.color, thing.shape) for thing in objects] for objects in truths]
    right = [matches(one, other) for one, other in zip(told, true, strict=True)]
    named, present = [len(one) for one in told], [len(one) for one in true]
    return {
        "precision": round(sum(right) / max(1, sum(named)), 4),
        "recall": round(sum(right) / max(1, sum(present)), 4),
        "precision_interval": bootstrap_interval(right, named),
        "recall_interval": bootstrap_interval(right, present),
    }


def _gates(
    model: AlignGPTForConditionalGeneration, questions: Sequence[dict[str, Any]], answers: Sequence[Completion]
) -> dict[str, Any]:
    """Mean gate weights of each kind of question, and some examples with their maps of dot products."""
    by_kind: dict[str, Any] = {}
    examples = []
    side = int(model.config.image_seq_length**0.5)
    for kind in QUESTION_KINDS:
        of_kind = [pair for pair in zip(questions, answers, strict=True) if pair[0]["kind"] == kind]
        if not of_kind:
            continue
        weights = np.array([given.gate_weights for _, given in of_kind])
        by_kind[kind] = {
            "weights": weights.mean(0).round(5).tolist(),
            "entropy": round(float(np.mean([entropy(row) for row in weights])), 4),
        }
        examples += [_example(question, given, side) for question, given in of_kind[:2]]
    return {"by_kind": by_kind, "examples": examples[: 2 * _EXAMPLES]}


def _example(question: dict[str, Any], given: Completion, side: int) -> dict[str, Any]:
    return {
        "image": question["image"],
        "question": question["text"],
        "answer": question["label"],
        "prediction": given.text,
        "grid": [side, side],
        "dots": [round(dot, 4) for dot in given.image_text_similarity or []],
        "gate_weights": [round(weight, 5) for weight in given.gate_weights or []],
    }


def _write(output: Path, rows: list[dict[str, Any]], results: dict[str, Any], gates: dict[str, Any] | None) -> None:
    with atomic_path(output / "answers.jsonl") as path:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    if gates is not None:
        write_json(output / "gates.json", gates)
    write_json(output / "results.json", results)
