"""Miniatures of the twelve benchmarks: their files in LLaVA's `playground/data/eval` layout, images and all, drawn.

Names, formats and prompts are those of the benchmarks; images, questions and answers are the drawn world's, so that a
run on benchmarks can be tried from its questions to its scores on a machine without any of their data.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.synthetic.scenes import (
    COLORS,
    NUMBERS,
    PLACES,
    SHAPES,
    Question,
    Scene,
    ask,
    describe,
    draw_scene,
    sample_scene,
)
from aligngpt.utils.io import atomic_path, read_json, write_json

MANIFEST = "miniatures.json"
NOTE = "Drawn miniatures of the benchmarks: scores on them cannot be set beside those of the benchmarks themselves."
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."

_SHORT_KINDS = ("count", "color_count", "existence", "color_at", "shape_at", "place_of")
_OPTIONS = {"count": NUMBERS[1:], "color_at": tuple(COLORS), "shape_at": SHAPES, "place_of": PLACES}
_MME_TASKS = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
_MME_IN_FOLDER = ("posters", "celebrity", "scene", "landmark", "artwork")  # whose images lie in `images/`
_CHINESE_COLORS = ("红色", "绿色", "蓝色", "黄色", "紫色", "橙色", "白色")  # in the order of COLORS
_CHINESE_NUMBERS = ("一", "二", "三", "四")
_CHINESE_COUNT, _CHINESE_COLOR = "图中有几个物体？", "图中第一个物体是什么颜色？"  # noqa: RUF001
_ROTATION = 1_000_000
_LETTERS = "ABCD"

Record = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A folder that is filled, what all is drawn from, and how many questions each benchmark gets."""

    folder: Path
    rng: random.Random
    questions: int

    def asked(self, kinds: Sequence[str]) -> tuple[Scene, Question]:
        """A scene of the test split and a question of one of the kinds."""
        while True:
            scene = sample_scene(self.rng, "test")
            question = ask(scene, self.rng.choice(kinds), self.rng)
            if question is not None:
                return scene, question

    def image(self, scene: Scene, name: str, format: str = "JPEG") -> None:
        """Write the image of a scene."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.encoded(scene, format))

    def encoded(self, scene: Scene, format: str = "JPEG") -> bytes:
        """The image of a scene as the content of a file."""
        content = io.BytesIO()
        draw_scene(scene, self.rng).save(content, format=format)
        return content.getvalue()

    def lines(self, name: str, records: Sequence[Record]) -> None:
        """Write JSON Lines."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        write_json(self.folder / name, content)

    def options(self, question: Question) -> list[str]:
        """Four answers to a question, the right one among them."""
        others = [one for one in _OPTIONS[question.kind] if one != question.answer]
        options = [question.answer, *self.rng.sample(others, 3)]
        self.rng.shuffle(options)
        return options


def make(output: str | Path, *, questions: int = 12, seed: int = 0) -> dict[str, Any]:
    """Draw a miniature of each benchmark; what is already there from the same settings is kept.

    Args:
        output: Folder to write, all of it or nothing.
        questions: Questions of each benchmark; some need a few more for all of their parts.
        seed: Fixes everything.

    Returns:
        The settings, as in `miniatures.json`.

    Raises:
        ValueError: `questions` is below 6, or the folder was made with other settings or holds something else.
    """
    folder, settings = Path(output), {"questions": questions, "seed": seed}
    if questions < 6:
        raise ValueError(f"each benchmark needs 6 questions for all of its parts, got {questions}")
    if (folder / MANIFEST).is_file():
        known = read_json(folder / MANIFEST)
        if known != settings:
            raise ValueError(f"{folder} was made with {known}, not {settings}: choose another folder")
        return settings
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} holds something else, which would be replaced: choose a new or an empty folder")
    with atomic_path(folder) as temporary:
        for name, draw in _MINIATURES.items():
            draw(Drawing(temporary, random.Random(f"{name} {seed}"), questions))
        write_json(temporary / MANIFEST, settings)
    return settings


def _letters(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))


# Short answers -------------------------------------------------------------------------------------------------------


def _draw_vqav2(to: Drawing) -> None:
    """The test questions, of which test-dev is the first half; a server has the answers."""
    records = []
    for number in range(to.questions):
        scene, question = to.asked(_SHORT_KINDS)
        image = f"COCO_test2015_{number:012d}.jpg"
        to.image(scene, f"vqav2/test2015/{image}")
        name = number * 1000
        records.append(
            {"question_id": name, "image": image, "text": f"{question.text}\n{SHORT}", "category": "default"}
        )
    to.lines("vqav2/llava_vqav2_mscoco_test2015.jsonl", records)
    to.lines("vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", records[: to.questions // 2])


def _draw_gqa(to: Drawing) -> None:
    records, labels = [], {}
    for number in range(to.questions):
        scene, question = to.asked(("existence", "color_at", "shape_at"))
        name, image = f"{20_000_000 + number}", f"n{number}"
        to.image(scene, f"gqa/data/images/{image}.jpg")
        records.append({"question_id": name, "image": f"{image}.jpg", "text": f"{question.text}\n{SHORT}"})
        binary = question.kind == "existence"
        labels[name] = {
            "question": question.text,
            "answer": question.answer,
            "imageId": image,
            "isBalanced": True,
            "types": {
                "structural": "verify" if binary else "query",
                "semantic": "obj" if binary else "attr",
                "detailed": "existAttr" if binary else "categoryAttr",
            },
            "groups": {"global": None if binary else question.kind.removesuffix("_at"), "local": question.kind},
            "semantic": [
                {"operation": "select", "argument": "object", "dependencies": []},
                {"operation": "exist" if binary else "query", "argument": "?", "dependencies": [0]},
            ],
        }
    to.lines("gqa/llava_gqa_testdev_balanced.jsonl", records)
    to.json("gqa/data/testdev_balanced_questions.json", labels)


def _draw_vizwiz(to: Drawing) -> None:
    records = []
    for number in range(to.questions):
        scene, question = to.asked(_SHORT_KINDS)
        image = f"VizWiz_test_{number:08d}.jpg"
        to.image(scene, f"vizwiz/test/{image}")
        text = f"{question.text}\n{UNANSWERABLE}\n{SHORT}"
        records.append({"question_id": number, "image": image, "text": text, "category": "default"})
    to.lines("vizwiz/llava_test.jsonl", records)


def _draw_textvqa(to: Drawing) -> None:
    records, labels = [], []
    for number in range(to.questions):
        scene, question = to.asked(("color_at", "shape_at"))
        image = f"{to.rng.getrandbits(64):016x}"
        to.image(scene, f"textvqa/train_images/{image}.jpg")
        read = ", ".join(word.upper() for thing in scene.objects for word in (thing.color, thing.shape))
        text = f"{question.text}\nReference OCR token: {read}\n{SHORT}"
        records.append({"question_id": image, "image": f"{image}.jpg", "text": text, "category": "default"})
        label = {"question_id": 34_602 + number, "image_id": image, "question": question.text.lower()}
        labels.append({**label, "answers": [question.answer] * 10})
    to.lines("textvqa/llava_textvqa_val_v051_ocr.jsonl", records)
    to.json("textvqa/TextVQA_0.5.1_val.json", {"data": labels})


def _draw_pope(to: Drawing) -> None:
    records: list[Record] = []
    for subset in ("adversarial", "popular", "random"):
        lines = []
        for number in range(max(2, to.questions // 3)):
            while True:
                scene, question = to.asked(("existence",))
                if question.answer == ("yes", "no")[number % 2]:
                    break
            image = f"COCO_val2014_{len(records):012d}.jpg"
            to.image(scene, f"pope/val2014/{image}")
            lines.append({"question_id": number + 1, "image": image, "text": question.text, "label": question.answer})
            text = f"{question.text}\n{SHORT}"
            records.append({"question_id": len(records) + 1, "image": image, "text": text, "category": subset})
        to.lines(f"pope/coco/coco_pope_{subset}.json", lines)
    to.lines("pope/llava_pope_test.jsonl", records)


def _draw_mme(to: Drawing) -> None:
    """Each task an image or more, each image a question whose answer is yes and one whose answer is no."""
    records = []
    for task in _MME_TASKS:
        skeleton = []
        for number in range(max(1, to.questions // (2 * len(_MME_TASKS)))):
            scene = sample_scene(to.rng, "test")
            image = f"{'images/' if task in _MME_IN_FOLDER else ''}{number:04d}.jpg"
            to.image(scene, f"MME/MME_Benchmark_release_version/{task}/{image}")
            for text, label in _yes_and_no(scene, to.rng):
                skeleton.append(f"{number:04d}.jpg\t{text} Please answer yes or no.\t{label}\n")
                name = f"{task}/{image}"
                records.append({"question_id": name, "image": name, "text": f"{text}\n{SHORT}", "category": task})
        path = to.folder / "MME/eval_tool/Your_Results" / f"{task}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(skeleton), encoding="utf-8")
    to.lines("MME/llava_mme.jsonl", records)


def _yes_and_no(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    while len(found) < 2:
        question = ask(scene, "existence", rng)
        assert question is not None  # it can be asked of any scene
        found.setdefault(question.answer.title(), question.text)
    return [(found[label], label) for label in ("Yes", "No")]


# Multiple choice -----------------------------------------------------------------------------------------------------


def _draw_scienceqa(to: Drawing) -> None:
    """Every third question has no image: the scene is told instead."""
    records, problems = [], {}
    for number in range(to.questions):
        scene, question = to.asked(tuple(_OPTIONS))
        name, imaged, options = str(number + 1), number % 3 != 2, to.options(question)
        asked = f"{question.text}\n{_letters(options)}"
        record: Record = {"id": name}
        if imaged:
            to.image(scene, f"scienceqa/images/test/{name}/image.png", "PNG")
            record["image"] = f"{name}/image.png"
            asked = f"<image>\n{asked}"
        else:
            asked = f"Context: {describe(scene.objects)}\n{asked}"
        answer = options.index(question.answer)
        said = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"The answer is {_LETTERS[answer]}."}]
        records.append({**record, "conversations": said})
        problems[name] = {
            "question": question.text,
            "choices": options,
            "answer": answer,
            "hint": "" if imaged else describe(scene.objects),
            "image": "image.png" if imaged else None,
            "subject": ("natural science", "social science", "language science")[number % 3],
            "grade": f"grade{1 + number % 12}",
            "split": "test",
        }
    to.json("scienceqa/llava_test_CQM-A.json", records)
    to.json("scienceqa/problems.json", problems)
    to.json("scienceqa/pid_splits.json", {"train": [], "val": [], "test": list(problems)})


def _draw_mmbench(to: Drawing) -> None:
    def rows(number: int) -> tuple[Scene, str, list[str], str]:
        scene, question = to.asked(tuple(_OPTIONS))
        return scene, question.text, to.options(question), question.answer

    _draw_table(to, "mmbench/mmbench_dev_20230712.tsv", rows)


def _draw_mmbench_cn(to: Drawing) -> None:
    def rows(number: int) -> tuple[Scene, str, list[str], str]:
        scene, question = to.asked(("count", "color_at"))
        if question.kind == "count":
            return scene, _CHINESE_COUNT, list(_CHINESE_NUMBERS), _CHINESE_NUMBERS[len(scene.objects) - 1]
        color = _CHINESE_COLORS[tuple(COLORS).index(scene.objects[0].color)]
        others = to.rng.sample([one for one in _CHINESE_COLORS if one != color], 3)
        return scene, _CHINESE_COLOR, [color, *others], color

    _draw_table(to, "mmbench_cn/mmbench_dev_cn_20231003.tsv", rows)


def _draw_table(to: Drawing, name: str, draw: Callable[[int], tuple[Scene, str, list[str], str]]) -> None:
    """MMBench's table: each question once for each rotation of its options, the image in every row."""
    columns = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category")
    path = to.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, (*columns, "comment", "split"), delimiter="\t", lineterminator="\n", restval="")
        table.writeheader()
        for number in range(max(2, to.questions // 4)):
            scene, text, options, answer = draw(number)
            image = base64.b64encode(to.encoded(scene)).decode()
            for rotation in range(4):
                turned = options[-rotation:] + options[:-rotation] if rotation else options
                row = {"index": rotation * _ROTATION + number, "question": text, "image": image, "split": "dev"}
                row |= dict(zip(_LETTERS, turned, strict=True)) | {"answer": _LETTERS[turned.index(answer)]}
                row |= {"category": ("object_counting", "attribute_recognition")[number % 2], "source": "drawn"}
                table.writerow(row | {"l2-category": "finegrained_perception (instance-level)"})


def _draw_seed(to: Drawing) -> None:
    """Every sixth question is about a video, of which the question file has the middle frame."""
    records, labels = [], []
    types = {"Instance Attributes": 3, "Instance Location": 4, "Instances Counting": 5, "Action Recognition": 10}
    of_kind = {"color_at": 3, "shape_at": 3, "place_of": 4, "count": 5}
    for number in range(to.questions):
        scene, question = to.asked(tuple(_OPTIONS))
        options, video = to.options(question), number % 6 == 5
        data_id = f"v{number}" if video else f"{number}_{to.rng.getrandbits(31)}"
        image = f"SEED-Bench-video-image/{data_id}.png" if video else f"SEED-Bench-image/{data_id}"
        to.image(scene, f"seed_bench/{image}", "PNG" if video else "JPEG")
        name = f"v{number}" if video else str(100_000 + number)
        text = f"{question.text}\n{_letters(options)}\n{LETTER}"
        asked = {"question_id": name if video else int(name), "image": image, "text": text}
        records.append({**asked, "category": "video" if video else "image"})
        label = {f"choice_{letter.lower()}": option for letter, option in zip(_LETTERS, options, strict=True)}
        label |= {"answer": _LETTERS[options.index(question.answer)], "data_id": data_id}
        label |= {"data_type": "video" if video else "image", "question": question.text, "question_id": name}
        labels.append({**label, "question_type_id": 10 if video else of_kind[question.kind]})
    to.lines("seed_bench/llava-seed-bench.jsonl", records)
    to.json("seed_bench/SEED-Bench.json", {"questions": labels, "question_type": types})


# Marked by a judge ---------------------------------------------------------------------------------------------------


def _draw_llava_bench(to: Drawing) -> None:
    """Three questions an image, with what the image shows in words and the answers of a model that saw all."""
    folder = "llava-bench-in-the-wild"
    questions: list[Record] = []
    contexts, references = [], []
    for number in range(-(-to.questions // 3)):
        scene = sample_scene(to.rng, "test")
        image = f"{number + 1:03d}.jpg"
        to.image(scene, f"{folder}/images/{image}")
        contexts.append({"id": f"{number + 1:03d}", "image": image, "caption": describe(scene.objects)})
        for category, kind in (("conv", "count"), ("detail", "description"), ("complex", "color_at")):
            question = ask(scene, kind, to.rng)
            assert question is not None  # all three can be asked of any scene
            name = len(questions)
            asked = {"question_id": name, "image": image, "text": question.text, "category": category}
            questions.append(asked)
            told = {"question_id": name, "prompt": question.text, "text": question.answer, "answer_id": f"r{name}"}
            references.append({**told, "model_id": "gpt-4", "metadata": {}})
    to.lines(f"{folder}/questions.jsonl", questions)
    to.lines(f"{folder}/context.jsonl", contexts)
    to.lines(f"{folder}/answers_gpt4.jsonl", references)


def _draw_mmvet(to: Drawing) -> None:
    needs = {"count": ["rec", "math"], "color_at": ["rec", "spat"], "place_of": ["rec", "spat"], "description": ["gen"]}
    records, labels = [], {}
    for number in range(to.questions):
        scene, question = to.asked(tuple(needs))
        image = f"v1_{number}.png"
        to.image(scene, f"mm-vet/images/{image}", "PNG")
        records.append({"image": image, "text": question.text, "category": "conv", "question_id": number})
        label = {"imagename": image, "question": question.text, "answer": question.answer}
        labels[f"v1_{number}"] = {**label, "capability": needs[question.kind], "imagesource": "drawn"}
    to.lines("mm-vet/llava-mm-vet.jsonl", records)
    to.json("mm-vet/mm-vet.json", labels)


_MINIATURES: dict[str, Callable[[Drawing], None]] = {
    "vqav2": _draw_vqav2,
    "gqa": _draw_gqa,
    "vizwiz": _draw_vizwiz,
    "scienceqa": _draw_scienceqa,
    "textvqa": _draw_textvqa,
    "pope": _draw_pope,
    "mme": _draw_mme,
    "mmbench": _draw_mmbench,
    "mmbench_cn": _draw_mmbench_cn,
    "seed": _draw_seed,
    "llava_bench": _draw_llava_bench,
    "mmvet": _draw_mmvet,
}
