"""A small run folder with every artefact the page can show: drawn images, made-up but plausible numbers."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.synthetic import scenes as world

LEVELS = 8
KINDS = world.QUESTION_KINDS


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def make_run(folder: Path, pairs: int = 240, images: int = 48, questions: int = 280, points: int = 60) -> Path:
    """Write a run folder; the counts decide how rich it is, the seed is fixed."""
    rng = random.Random(7)
    scenes = world.sample_scenes(rng, "test", images)
    (folder / "data" / "images").mkdir(parents=True)
    for index, scene in enumerate(scenes):
        world.render_scene(scene, rng).save(folder / "data" / "images" / f"{index:04d}.png")
    levels = _write_pairs(folder, scenes, pairs, rng)
    _write_trainings(folder, points, rng)
    by_level = _write_captions(folder, scenes, rng)
    results = {name: _write_answers(folder, name, questions, rng) for name in ("adaptive", "none")}
    _write_gates(folder, scenes, rng)
    _write_summary(folder, levels, by_level, results)
    return folder


def _write_pairs(folder: Path, scenes: list[world.Scene], pairs: int, rng: random.Random) -> dict:
    captions = [world.sample_caption(scenes[index % len(scenes)], rng) for index in range(pairs)]
    scores = [round(0.12 + 0.5 * caption.coverage**0.8 + rng.gauss(0, 0.06), 5) for caption in captions]
    ranked = sorted(scores)
    boundaries = [ranked[math.ceil(k * pairs / LEVELS)] for k in range(1, LEVELS)]
    levels = [1 + sum(boundary <= score for boundary in boundaries) for score in scores]
    ids = [f"pair-{index:05d}" for index in range(pairs)]
    images = [f"{index % len(scenes):04d}.png" for index in range(pairs)]
    records = [
        {
            "id": id_,
            "image": image,
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption.text}],
        }
        for id_, image, caption in zip(ids, images, captions, strict=True)
    ]
    write_json(folder / "data" / "pretrain.json", records)
    truths = {
        id_: {"kind": caption.kind, "coverage": caption.coverage} for id_, caption in zip(ids, captions, strict=True)
    }
    write_json(folder / "data" / "truth.json", {"schema_version": 1, "pairs": truths})
    (folder / "levels").mkdir()
    (folder / "scores").mkdir()
    clip_score = pa.array(scores, pa.float32())
    none = pa.nulls(pairs, pa.string())
    scored = {"id": ids, "image": images, "clip_score": clip_score, "text_truncated": [False] * pairs, "error": none}
    pq.write_table(pa.table(scored), folder / "scores" / "part-00000.parquet")
    leveled = {"id": ids, "clip_score": clip_score, "alignment_level": pa.array(levels, pa.int8())}
    pq.write_table(pa.table(leveled), folder / "levels" / "levels.parquet")
    counts = [levels.count(level) for level in range(1, LEVELS + 1)]
    content = {"num_levels": LEVELS, "strategy": "quantile", "boundaries": boundaries, "counts": counts}
    write_json(folder / "levels" / "levels.json", content)
    return content


def _write_trainings(folder: Path, points: int, rng: random.Random) -> None:
    for stage, steps, end in (("pretrain", 1000, 0.72), ("finetune", 1500, 0.21)):
        for name, worse in (("adaptive", 0.0), ("none", 0.03)):
            history = [
                {
                    "step": round((index + 1) * steps / points),
                    "loss": end + worse + 3 * math.exp(-9 * index / points) + abs(rng.gauss(0, 0.03)),
                    "learning_rate": 1e-3,
                    "grad_norm": 1.0,
                }
                for index in range(points)
            ]
            losses = [0.86, 0.94, 0.86, 0.82, 0.72, 0.68, 0.61, 0.59]
            stage_one = stage == "pretrain"
            parts = [("vision_tower", 1_213_440, False), ("projector", 83_456, True)]
            if name == "adaptive":
                parts += [("alignment_embeddings", 2_048, stage_one)]
                parts += [] if stage_one else [("alignment_gate", 39_687, True)]
            parts += [("language_model", 2_904_832, not stage_one)]
            content = {
                "schema_version": 1, "stage": stage, "alignment": name, "global_step": steps, "global_batch_size": 64,
                "train_runtime": 201.4, "num_samples": steps * 64, "num_without_level": 0, "num_skipped": 0,
                "num_truncated": 0, "train_loss": end + worse + 0.1, "final_loss": end + worse, "log_history": history,
                "loss_by_level": losses if stage_one else None,
                "modules": [{"name": p, "num_parameters": count, "trainable": trains} for p, count, trains in parts],
            }  # fmt: skip
            write_json(folder / f"{stage}-{name}" / "train_results.json", content)
            write_json(folder / f"{stage}-{name}" / "run_config.json", {"stage": stage, "learning_rate": 1e-3})


def _write_captions(folder: Path, scenes: list[world.Scene], rng: random.Random) -> list[dict]:
    recalls = [0.14, 0.21, 0.33, 0.42, 0.55, 0.63, 0.66, 0.69]
    precisions = [0.12, 0.24, 0.45, 0.61, 0.72, 0.78, 0.8, 0.79]
    by_level = [
        {"level": level, "precision": _estimate(precision), "recall": _estimate(recall)}
        for level, (recall, precision) in enumerate(zip(recalls, precisions, strict=True), start=1)
    ]
    examples = []
    for index, scene in enumerate(scenes[:8]):
        told = [world.describe(scene.objects[: max(1, len(scene.objects) * level // LEVELS)]) for level in range(3, 9)]
        other = [world.describe(world.sample_scene(rng).objects[:1]) for _ in range(2)]
        truth = world.describe(scene.objects)
        examples.append({"image": f"{index:04d}.png", "truth": truth, "captions": other + told})
    write_json(
        folder / "captions" / "captions.json", {"num_levels": LEVELS, "by_level": by_level, "examples": examples}
    )
    return by_level


def _estimate(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.03, value + 0.03]}


def _interval(accuracy: float, count: int) -> list[float]:
    reach = 1.96 * math.sqrt(accuracy * (1 - accuracy) / count)
    return [max(0.0, accuracy - reach), min(1.0, accuracy + reach)]


def _write_answers(folder: Path, name: str, questions: int, rng: random.Random) -> dict:
    shares = {"adaptive": (0.99, 0.97, 0.71, 0.98, 0.97, 0.58, 0.8), "none": (0.98, 0.96, 0.7, 0.97, 0.96, 0.52, 0.78)}
    answers: list[dict] = []
    by_kind = {}
    for kind, share in zip(KINDS, shares[name], strict=True):
        count = questions // len(KINDS)
        right = round(share * count)
        for index in range(count):
            answers.append(
                {
                    "question_id": f"{kind}-{index}", "image": "0001.png", "prompt": "What?", "text": "red",
                    "label": "red", "kind": kind, "score": float((index * 7 + rng.randint(0, 1)) % count < right),
                }
            )  # fmt: skip
        accuracy = sum(answer["score"] for answer in answers[-count:]) / count
        by_kind[kind] = {"accuracy": accuracy, "interval": _interval(accuracy, count), "count": count}
    accuracy = sum(answer["score"] for answer in answers) / len(answers)
    results = {
        "benchmark": "scenes", "alignment": name, "count": len(answers), "accuracy": accuracy,
        "interval": _interval(accuracy, len(answers)), "by_kind": by_kind, "seconds": 31.0,
        "description": {"precision": 0.8, "recall": 0.8},
    }  # fmt: skip
    write_json(folder / f"eval-{name}" / "results.json", results)
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    (folder / f"eval-{name}" / "answers.jsonl").write_text(lines, encoding="utf-8")
    return results


def _write_gates(folder: Path, scenes: list[world.Scene], rng: random.Random) -> None:
    by_kind, examples = {}, []
    for index, kind in enumerate(KINDS):
        raw = [math.exp(-((level - 1 - index * 0.7) ** 2) / 6) + 0.2 for level in range(LEVELS - 1)]
        weights = [value / sum(raw) for value in raw]
        by_kind[kind] = {"weights": weights, "entropy": -sum(weight * math.log(weight) for weight in weights)}
        question = world.ask(scenes[index], kind, rng) or world.ask(scenes[index], "count", rng)
        assert question is not None
        side = 12
        row, column = divmod(world.PLACES.index(scenes[index].objects[0].place or "center"), world.GRID)
        center = ((row + 0.5) * side / 3, (column + 0.5) * side / 3)
        dots = [
            4 * math.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / 5) + rng.gauss(0, 0.5)
            for y in range(side)
            for x in range(side)
        ]
        examples.append(
            {
                "image": f"{index:04d}.png", "question": question.text, "answer": question.answer,
                "prediction": question.answer if index % 3 else "two", "grid": [side, side], "dots": dots,
                "gate_weights": weights,
            }
        )  # fmt: skip
    write_json(folder / "eval-adaptive" / "gates.json", {"by_kind": by_kind, "examples": examples})


def _write_summary(folder: Path, levels: dict, by_level: list[dict], results: dict[str, dict]) -> None:
    steps = ("data", "scores", "levels", "pretrain-adaptive", "pretrain-none", "finetune-adaptive", "finetune-none",
             "captions", "eval-adaptive", "eval-none")  # fmt: skip
    seconds = dict(zip(steps, (21.0, 48.5, 0.4, 131.0, 127.3, 118.2, 115.9, 25.1, 30.4, 29.8), strict=True))
    megabytes = dict(zip(steps, (310, 980, 350, 1420, 1390, 1710, 1690, 1105, 1130, 1120), strict=True))
    write_json(
        folder / "metrics.json",
        {
            "score_coverage_spearman": 0.873,
            "captions_by_level": by_level,
            "runtime_s": seconds,
            "peak_memory_mb": megabytes,
            "levels": {"boundaries": levels["boundaries"], "counts": levels["counts"]},
            "versions": {"aligngpt": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
            "config": {"seed": 0, "num_levels": LEVELS, "pretrain": {"learning_rate": 1e-3, "steps": 1000}},
        },
    )


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that no test changes."""
    return make_run(tmp_path_factory.mktemp("made") / "scenes-run")


@pytest.fixture
def run_folder(made_once: Path, tmp_path: Path) -> Path:
    """A run folder of the test's own, free to be changed."""
    return Path(shutil.copytree(made_once, tmp_path / "scenes-run"))
