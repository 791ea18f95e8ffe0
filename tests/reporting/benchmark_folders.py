"""Folders as `aligngpt eval run` leaves them, of three small benchmarks, and the files they were asked from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from aligngpt.cli.output import plain
from aligngpt.utils.io import write_json
from tests.evaluation.benchmark_files import answer_lines, scored, write_lines

QUESTIONS = 30
WEIGHTS = {"gqa": (0.5, 0.3, 0.2), "pope": (0.2, 0.3, 0.5)}
RIGHT = {"gqa": 20, "pope": 24, "textvqa": 6}  # of the first questions, by the first model


def make_data(folder: Path) -> Path:
    """The data folder of GQA, POPE and TextVQA: questions, labels and images in their official places."""
    short = "\nAnswer the question using a single word or phrase."
    asked = range(QUESTIONS)
    lines = [{"question_id": i, "image": f"{i}.png", "text": f"What is <{i}>?{short}"} for i in asked]
    write_lines(folder / "gqa" / "llava_gqa_testdev_balanced.jsonl", lines)
    types = [{"structural": "query" if i % 2 else "verify", "semantic": "attr"} for i in asked]
    labels = {str(i): {"question": "?", "answer": f"thing {i}", "isBalanced": True, "types": types[i]} for i in asked}
    write_json(folder / "gqa" / "data" / "testdev_balanced_questions.json", labels)
    for i in asked:
        image = folder / "gqa" / "data" / "images" / f"{i}.png"
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (8 * i, 100, 200)).save(image)
    words = ["yes", "no"] * (QUESTIONS // 2)
    pope: list[dict[str, Any]] = [{"question_id": i, "image": f"{i}.jpg", "text": f"Is there {i}?"} for i in asked]
    write_lines(
        folder / "pope" / "llava_pope_test.jsonl",
        [one | {"text": one["text"] + short, "category": "random"} for one in pope],
    )
    write_lines(
        folder / "pope" / "coco" / "coco_pope_random.json",
        [one | {"label": word} for one, word in zip(pope, words, strict=True)],
    )
    write_lines(
        folder / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl",
        [
            {"question_id": f"p{i}", "image": f"p{i}.jpg", "text": f"Word {i}?\nReference OCR token: A{short}"}
            for i in asked
        ],
    )
    entries = [
        {"question_id": 100 + i, "image_id": f"p{i}", "question": f"Word {i}?", "answers": ["w"] * 10} for i in asked
    ]
    write_json(folder / "textvqa" / "TextVQA_0.5.1_val.json", {"data": entries})
    return folder


def make_output(folder: Path, data: Path, shift: int = 0, **run: Any) -> Path:
    """A model's output; each benchmark has as many right answers as `RIGHT` says, the first of which are skipped."""
    right = {name: set(range(shift, count + shift)) for name, count in RIGHT.items()}
    words = ["Yes", "No"] * (QUESTIONS // 2)
    given: dict[str, dict[Any, str]] = {
        "gqa": {i: f"Thing {i}." if i in right["gqa"] else "Hat" for i in range(QUESTIONS)},
        "pope": {i: words[i] if i in right["pope"] else words[i + 1 - 2 * (i % 2)] for i in range(QUESTIONS)},
        "textvqa": {f"p{i}": "w" if i in right["textvqa"] else "<b>x</b>" for i in range(QUESTIONS - 1)},
    }
    labels = {"gqa": data / "gqa/data", "pope": data / "pope", "textvqa": data / "textvqa"}
    rows: list[dict[str, Any]] = []
    for name, texts in given.items():
        answers = folder / name / "answers.jsonl"
        if name == "textvqa":
            lines = [(i, f"Word {i[1:]}?\nReference OCR token: A\nAnswer.", text) for i, text in texts.items()]
            write_lines(answers, [{"question_id": i, "prompt": prompt, "text": text} for i, prompt, text in lines])
        else:
            answer_lines(answers, texts)
        write_json(folder / name / "score.json", plain(scored(name, labels[name], answers)))
        write_json(folder / name / "run.json", run_record(name, **run))
        if name in WEIGHTS:
            write_json(folder / name / "gates.json", gates(name))
        rows.append({"benchmark": name, "title": name, "reasons": []})
    rows.append({"benchmark": "vqav2", "title": "VQAv2", "score": None, "reasons": ["scored by a server"]})
    write_json(folder / "results.json", {"model": "tiny", "model_hash": "0", "versions": {}, "benchmarks": rows})
    return folder


def run_record(name: str, **changed: Any) -> dict[str, Any]:
    unreadable = [{"question_id": 3, "image": "<3>.jpg", "reason": "truncated image"}] if name == "pope" else []
    return {
        "benchmark": name,
        "model": "tiny",
        "alignment": "adaptive",
        "template": "vicuna_v1",
        "limit": None,
        "versions": {"torch": "2.13"},
        "seconds": 61.0,
        "unreadable_images": unreadable,
    } | changed


def gates(name: str) -> dict[str, Any]:
    weights = WEIGHTS[name]
    own = {"count": QUESTIONS, "weights": weights, "entropy": -sum(one * math.log(one) for one in weights)}
    return own | {"by_kind": {"one": own, "two": own | {"weights": weights[::-1]}}}


def edit(path: Path, **changed: Any) -> None:
    """Change fields of a JSON file."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changed)
