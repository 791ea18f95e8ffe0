"""Write the synthetic dataset in LLaVA's file formats, so that every command reads it like any other data.

images/000000.png ...   train images; images/test_00000.png ... test images
pretrain.json           image-text pairs of uneven quality
truth.json              kind and true coverage of each pair, for evaluation only
finetune.json           conversations with one to three turns, some without an image
questions.jsonl         benchmark questions with answers and ground-truth objects
dataset_info.json       settings
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligngpt.synthetic.artifacts import QUESTIONS_FILE, DatasetInfo, PairTruth, Truth
from aligngpt.synthetic.scenes import (
    QUESTION_KINDS,
    Scene,
    SceneObject,
    SceneQuestion,
    ask,
    describe,
    render_scene,
    sample_caption,
    sample_questions,
    sample_scene,
    sample_scenes,
)
from aligngpt.utils.io import atomic_path, read_jsonl, write_json, write_jsonl
from aligngpt.utils.output_dir import OutputDir
from aligngpt.utils.progress import Advance, progress

NOTE = "A synthetic dataset of rendered shapes: results say nothing about photographs."
_TEXT_ONLY_FRACTION = 0.1


def generate_dataset(
    output: str | Path, *, pairs: int = 16_000, conversations: int = 10_000, questions: int = 1_400, seed: int = 0
) -> DatasetInfo:
    """Write the synthetic dataset, unless the folder holds the same one.

    Args:
        output: Folder to write; it appears complete or not at all.
        pairs: Image-text pairs for stage 1, each of a different scene.
        conversations: Conversations for stage 2, about the images of the pairs.
        questions: Benchmark questions about test scenes, evenly over the seven kinds.
        seed: Random seed of images and texts.

    Raises:
        ValueError: A number is below 1, or the folder holds other files or was written with other settings.
    """
    info = DatasetInfo(note=NOTE, pairs=pairs, conversations=conversations, questions=questions, seed=seed)
    if min(pairs, conversations, questions) < 1:
        raise ValueError(
            f"pairs, conversations and questions are {pairs}, {conversations}, {questions}; pass at least 1"
        )
    folder = OutputDir(output, info.model_dump(exclude={"note"}), run_file=info.FILE, result_file=info.FILE)
    if not folder.done:
        with (
            atomic_path(folder.path) as temporary,
            progress("rendering images", pairs + questions) as advance,
        ):
            (temporary / "images").mkdir(parents=True)
            scenes = _write_pairs(temporary, pairs, random.Random(f"pairs {seed}"), advance)
            _write_conversations(temporary, scenes, conversations, random.Random(f"conversations {seed}"))
            _write_questions(temporary, questions, random.Random(f"questions {seed}"), advance)
            info.write(temporary)
    return info


def _write_pairs(folder: Path, number: int, rng: random.Random, advance: Advance) -> list[Scene]:
    scenes = sample_scenes(rng, "train", number)
    records, truth = [], {}
    for index, scene in enumerate(scenes):
        render_scene(scene, rng).save(folder / "images" / _train_image(index), compress_level=1)
        caption = sample_caption(scene, rng, mismatched_split="train")
        records.append(_llava_record(f"{index:06d}", _train_image(index), [("<image>", caption.text)]))
        truth[f"{index:06d}"] = PairTruth(kind=caption.kind, coverage=round(caption.coverage, 4))
        advance(1)
    write_json(folder / "pretrain.json", records)
    Truth(pairs=truth).write(folder)
    return scenes


def _write_conversations(folder: Path, scenes: list[Scene], number: int, rng: random.Random) -> None:
    records = []
    for index in range(number):
        if rng.random() < _TEXT_ONLY_FRACTION:
            records.append(_llava_record(f"text_{index:06d}", None, _sample_text_turns(rng)))
        else:
            image = index % len(scenes)
            turns = [(q.text, q.answer) for q in sample_questions(scenes[image], rng.randint(1, 3), rng)]
            turns[0] = (f"<image>\n{turns[0][0]}", turns[0][1])
            records.append(_llava_record(f"scene_{index:06d}", _train_image(image), turns))
    write_json(folder / "finetune.json", records)


def _sample_text_turns(rng: random.Random) -> list[tuple[str, str]]:
    """Sample a conversation about a scene that is described in words, without an image."""
    scene = sample_scene(rng, "train")
    questions = [question for question in sample_questions(scene, 3, rng) if question.kind != "description"]
    turns = [(question.text, question.answer) for question in questions[:2]]
    return [(f"{describe(scene.objects)}\n{turns[0][0]}", turns[0][1]), *turns[1:]]


def _write_questions(folder: Path, number: int, rng: random.Random, advance: Advance) -> None:
    records = []
    for index, (scene, question) in enumerate(_sample_test_questions(number, rng)):
        image = f"test_{index:05d}.png"
        render_scene(scene, rng).save(folder / "images" / image, compress_level=1)
        records.append(
            {
                "question_id": index,
                "image": image,
                "text": question.text,
                "category": question.kind,
                "label": question.answer,
                "objects": [vars(item) for item in scene.objects],
            }
        )
        advance(1)
    write_jsonl(folder / QUESTIONS_FILE, records)


def _sample_test_questions(number: int, rng: random.Random) -> Iterator[tuple[Scene, SceneQuestion]]:
    for index in range(number):
        question = None
        while question is None:
            scene = sample_scene(rng, "test")
            question = ask(scene, QUESTION_KINDS[index % len(QUESTION_KINDS)], rng)
        yield scene, question


def read_questions(data: str | Path) -> list[dict[str, Any]]:
    """Read the benchmark questions, with `objects` as `SceneObject`s.

    Raises:
        FileNotFoundError: The folder has no `questions.jsonl`.
    """
    path = Path(data) / QUESTIONS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; write the dataset with `aligngpt synthetic generate`")
    return [record | {"objects": [SceneObject(**item) for item in record["objects"]]} for record in read_jsonl(path)]


def _train_image(index: int) -> str:
    return f"{index:06d}.png"


def _llava_record(record_id: str, image: str | None, turns: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a record of LLaVA's format; image paths are relative to the folder `images`."""
    messages = [
        {"from": role, "value": text}
        for question, answer in turns
        for role, text in (("human", question), ("gpt", answer))
    ]
    return {"id": record_id, **({"image": image} if image else {}), "conversations": messages}
