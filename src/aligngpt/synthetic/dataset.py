"""Write the drawn world as files in LLaVA's formats, so that nothing downstream knows it is drawn.

images/000000.png ...   the train images; images/test_00000.png ... the test images
pretrain.json             image-text pairs of uneven quality
truth.json                kind and true coverage of each pair: for measuring, never read in training
finetune.json             conversations, single and multi turn, some without an image
test.json                 the benchmark's questions with their answers and scenes
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligngpt.synthetic.scenes import (
    QUESTION_KINDS,
    Question,
    Scene,
    SceneObject,
    ask,
    describe,
    draw_scene,
    sample_questions,
    sample_scene,
    scenes,
    web_caption,
)
from aligngpt.utils.io import atomic_path, read_json, write_json

MANIFEST = "scenes.json"
_TEXT_ONLY_SHARE = 0.1


def make(
    output: str | Path, *, pairs: int = 16_000, conversations: int = 10_000, questions: int = 1_400, seed: int = 0
) -> dict[str, Any]:
    """Draw the world; what is already there from the same settings is kept.

    Args:
        output: Folder to write, all of it or nothing.
        pairs: Image-text pairs for stage 1, each of a scene of its own.
        conversations: Conversations for stage 2, about the images of the pairs.
        questions: Benchmark questions over test scenes, divided evenly over the seven kinds.
        seed: Fixes everything.

    Returns:
        The settings and counts, as in `scenes.json`.

    Raises:
        ValueError: A number is not above zero, or the folder was made with other settings or holds something else.
    """
    folder = Path(output)
    settings = {"pairs": pairs, "conversations": conversations, "questions": questions, "seed": seed}
    if min(pairs, conversations, questions) < 1:
        raise ValueError(
            f"pairs, conversations and questions must be above zero, not {pairs}, {conversations}, {questions}"
        )
    if (folder / MANIFEST).is_file():
        known = read_json(folder / MANIFEST)
        if known != settings:
            raise ValueError(
                f"{folder} was made with {known}, not {settings}: choose another folder or remove this one"
            )
        return settings
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} holds something else, which would be replaced: choose a new or an empty folder")
    with atomic_path(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        train = _write_pairs(temporary, pairs, random.Random(f"pairs {seed}"))
        _write_conversations(temporary, train, conversations, random.Random(f"conversations {seed}"))
        _write_questions(temporary, questions, random.Random(f"questions {seed}"))
        write_json(temporary / MANIFEST, settings)
    return settings


def _write_pairs(folder: Path, number: int, rng: random.Random) -> list[Scene]:
    train = scenes(rng, "train", number)
    records, truth = [], {}
    for index, scene in enumerate(train):
        draw_scene(scene, rng).save(folder / "images" / _train_image(index), compress_level=1)
        caption = web_caption(scene, rng, others="train")
        records.append(_record(f"{index:06d}", _train_image(index), [("<image>", caption.text)]))
        truth[f"{index:06d}"] = {"kind": caption.kind, "coverage": round(caption.coverage, 4)}
    write_json(folder / "pretrain.json", records)
    write_json(folder / "truth.json", truth)
    return train


def _write_conversations(folder: Path, train: list[Scene], number: int, rng: random.Random) -> None:
    records = []
    for index in range(number):
        if rng.random() < _TEXT_ONLY_SHARE:
            records.append(_record(f"text_{index:06d}", None, _turns_in_words(rng)))
        else:
            place = index % len(train)
            turns = [(q.text, q.answer) for q in sample_questions(train[place], rng.randint(1, 3), rng)]
            turns[0] = (f"<image>\n{turns[0][0]}", turns[0][1])
            records.append(_record(f"scene_{index:06d}", _train_image(place), turns))
    write_json(folder / "finetune.json", records)


def _turns_in_words(rng: random.Random) -> list[tuple[str, str]]:
    """A conversation about a scene that is told instead of shown."""
    scene = sample_scene(rng, "train")
    asked = [question for question in sample_questions(scene, 3, rng) if question.kind != "description"]
    turns = [(question.text, question.answer) for question in asked[:2]]
    return [(f"{describe(scene.objects)}\n{turns[0][0]}", turns[0][1]), *turns[1:]]


def _write_questions(folder: Path, number: int, rng: random.Random) -> None:
    records = []
    for index, (scene, question) in enumerate(_test_questions(number, rng)):
        image = f"test_{index:05d}.png"
        draw_scene(scene, rng).save(folder / "images" / image, compress_level=1)
        records.append(
            {
                "question_id": index,
                "image": image,
                "text": question.text,
                "label": question.answer,
                "kind": question.kind,
                "objects": [vars(thing) for thing in scene.objects],
            }
        )
    write_json(folder / "test.json", records)


def _test_questions(number: int, rng: random.Random) -> Iterator[tuple[Scene, Question]]:
    for index in range(number):
        kind = QUESTION_KINDS[index % len(QUESTION_KINDS)]
        question = None
        while question is None:
            scene = sample_scene(rng, "test")
            question = ask(scene, kind, rng)
        yield scene, question


def read_questions(data: str | Path) -> list[dict[str, Any]]:
    """The benchmark's questions, `objects` read back into `SceneObject`s.

    Raises:
        FileNotFoundError: The folder holds no drawn world.
    """
    path = Path(data) / "test.json"
    if not path.is_file():
        raise FileNotFoundError(f"no test.json in {data}: make the drawn world with aligngpt scenes make")
    return [
        question | {"objects": [SceneObject(**thing) for thing in question["objects"]]} for question in read_json(path)
    ]


def _train_image(index: int) -> str:
    return f"{index:06d}.png"


def _record(record_id: str, image: str | None, turns: list[tuple[str, str]]) -> dict[str, Any]:
    """One record of LLaVA's format; images are named relative to the folder `images`."""
    said = [
        {"from": speaker, "value": value}
        for question, answer in turns
        for speaker, value in (("human", question), ("gpt", answer))
    ]
    return {"id": record_id, **({"image": image} if image else {}), "conversations": said}
