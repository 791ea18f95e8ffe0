"""Mock files of the twelve benchmarks in LLaVA's `playground/data/eval` layout, with rendered images.

File names and formats are the benchmarks' own. Images, questions and answers come from the synthetic dataset, so that
`aligngpt eval run` can be tried without any benchmark data, and the synthetic models are asked what they were trained
on. Two formats cannot be answered by these models; see `NOTE`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligngpt.synthetic.artifacts import MockBenchmarksInfo
from aligngpt.synthetic.scenes import (
    COLORS,
    NUMBERS,
    PLACES,
    SHAPES,
    Scene,
    SceneQuestion,
    ask,
    describe,
    render_scene,
    sample_scene,
)
from aligngpt.utils.io import atomic_path, write_json
from aligngpt.utils.output_dir import OutputDir

NOTE = (
    "Mock benchmark files about rendered shapes: scores are not comparable with scores on the real benchmarks. The "
    "questions are those that the synthetic models were trained on, in English also in mmbench_cn, and without LLaVA's "
    "answer-format instruction where the file format allows. These models have never seen a list of options; scienceqa "
    "and seed accept only an option's letter, which they never learned to answer: expect 0 there."
)

_SHORT_KINDS = ("count", "color_count", "existence", "color_at", "shape_at", "place_of")
_OPTIONS = {"count": NUMBERS[1:], "color_at": tuple(COLORS), "shape_at": SHAPES, "place_of": PLACES}
_MME_TASKS = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
_MME_IMAGE_FOLDERS = ("posters", "celebrity", "scene", "landmark", "artwork")  # tasks whose images are in `images/`
_MMBENCH_ROTATION = 1_000_000
_LETTERS = "ABCD"
_LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."

Record = dict[str, Any]


@dataclass(frozen=True)
class MockFiles:
    """Writer of one benchmark's files.

    Attributes:
        folder: Data folder of all benchmarks.
        rng: Source of scenes and questions.
        num_questions: Questions per benchmark.
    """

    folder: Path
    rng: random.Random
    num_questions: int

    def sample_question(self, kinds: Sequence[str]) -> tuple[Scene, SceneQuestion]:
        """Sample a scene of the test split and a question of one of the kinds."""
        while True:
            scene = sample_scene(self.rng, "test")
            question = ask(scene, self.rng.choice(kinds), self.rng)
            if question is not None:
                return scene, question

    def write_questions(self, kinds: Sequence[str], images: str) -> Iterator[tuple[int, str, SceneQuestion]]:
        """Sample all questions and write their images; yield index, image name and question.

        Args:
            kinds: Kinds of question.
            images: Format of an image's path, such as `gqa/data/images/n{index}.jpg`.
        """
        for index in range(self.num_questions):
            scene, question = self.sample_question(kinds)
            path = images.format(index=index)
            self.write_image(scene, path)
            yield index, path.rpartition("/")[2], question

    def sample_options(self, question: SceneQuestion) -> list[str]:
        """Sample four options, the answer among them, none a part of another: MMBench looks for them in the text."""
        options = [question.answer]
        candidates = list(_OPTIONS[question.kind])
        self.rng.shuffle(candidates)
        for option in candidates:
            if not any(option in chosen or chosen in option for chosen in options):
                options.append(option)
        options = options[: len(_LETTERS)]
        self.rng.shuffle(options)
        return options

    def encode_image(self, scene: Scene, image_format: str = "JPEG") -> bytes:
        """Render a scene and return the content of an image file."""
        content = io.BytesIO()
        render_scene(scene, self.rng).save(content, format=image_format)
        return content.getvalue()

    def write_image(self, scene: Scene, name: str) -> None:
        """Render a scene into a file, as PNG or JPEG."""
        self._path(name).write_bytes(self.encode_image(scene, "PNG" if name.endswith(".png") else "JPEG"))

    def write_lines(self, name: str, records: Sequence[Record]) -> None:
        """Write JSON Lines."""
        self.write_text(name, "".join(json.dumps(record) + "\n" for record in records))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self._path(name).write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file."""
        write_json(self.folder / name, content)

    def _path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def write_mock_benchmarks(output: str | Path, *, questions: int = 12, seed: int = 0) -> MockBenchmarksInfo:
    """Write mock files of all benchmarks, unless the folder holds the same ones.

    Args:
        output: Folder to write; it appears complete or not at all.
        questions: Questions per benchmark; a few benchmarks need more for all their categories.
        seed: Random seed of images and texts.

    Raises:
        ValueError: `questions` is below 6, or the folder holds other files or was written with other settings.
    """
    info = MockBenchmarksInfo(note=NOTE, questions=questions, seed=seed)
    if questions < 6:
        raise ValueError(f"questions is {questions}; pass at least 6, so that every category has one")
    folder = OutputDir(output, info.model_dump(exclude={"note"}), run_file=info.FILE, result_file=info.FILE)
    if not folder.done:
        with atomic_path(folder.path) as temporary:
            for name, write in _WRITERS.items():
                write(MockFiles(temporary, random.Random(f"{name} {seed}"), questions))
            info.write(temporary)
    return info


# Short answers -------------------------------------------------------------------------------------------------------


def _line(question_id: int | str, image: str, text: str, category: str = "default") -> Record:
    """Return a line of LLaVA's question files."""
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def _annotate(question: SceneQuestion) -> Record:
    """Return the annotation of VQAv2 and VizWiz: ten people's answers, in which numbers are digits."""
    text = str(NUMBERS.index(question.answer)) if question.answer in NUMBERS else question.answer
    answer_type = {"existence": "yes/no", "count": "number", "color_count": "number"}.get(question.kind, "other")
    return {"answers": [{"answer": text, "answer_confidence": "yes"}] * 10, "answer_type": answer_type}


def _write_vqav2(files: MockFiles) -> None:
    """Write the questions of test, of which test-dev is the first half, and annotations, officially the server's."""
    lines, annotations = [], []
    for index, image, question in files.write_questions(_SHORT_KINDS, "vqav2/test2015/COCO_test2015_{index:012d}.jpg"):
        lines.append(_line(index * 1000, image, question.text))
        annotation = {"question_id": index * 1000, "image_id": index, **_annotate(question)}
        annotations.append(annotation | {"question_type": question.text.lower().split()[0]})
    dev = files.num_questions // 2
    files.write_lines("vqav2/llava_vqav2_mscoco_test2015.jsonl", lines)
    files.write_lines("vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", lines[:dev])
    files.write_json("vqav2/v2_mscoco_test-dev2015_annotations.json", {"annotations": annotations[:dev]})


def _write_gqa(files: MockFiles) -> None:
    lines, labels = [], {}
    kinds = ("existence", "color_at", "shape_at", "place_of")
    for index, image, question in files.write_questions(kinds, "gqa/data/images/n{index}.jpg"):
        name = f"{20_000_000 + index}"
        lines.append(_line(name, image, question.text))
        binary = question.kind == "existence"
        types = ("verify", "obj", "existAttr") if binary else ("query", "attr", "categoryAttr")
        labels[name] = {
            "question": question.text,
            "answer": question.answer,
            "imageId": f"n{index}",
            "isBalanced": True,
            "types": dict(zip(("structural", "semantic", "detailed"), types, strict=True)),
            "groups": {"global": None if binary else question.kind, "local": question.kind},
            "semantic": [
                {"operation": "select", "argument": "object", "dependencies": []},
                {"operation": "exist" if binary else "query", "argument": "?", "dependencies": [0]},
            ],
        }
    files.write_lines("gqa/llava_gqa_testdev_balanced.jsonl", lines)
    files.write_json("gqa/data/testdev_balanced_questions.json", labels)


def _write_vizwiz(files: MockFiles) -> None:
    """Write the test questions, and annotations, officially the server's."""
    lines, annotations = [], []
    for index, image, question in files.write_questions(_SHORT_KINDS, "vizwiz/test/VizWiz_test_{index:08d}.jpg"):
        lines.append(_line(index, image, question.text))
        annotations.append({"image": image, "question": question.text, "answerable": 1, **_annotate(question)})
    files.write_lines("vizwiz/llava_test.jsonl", lines)
    files.write_json("vizwiz/annotations.json", annotations)


def _write_textvqa(files: MockFiles) -> None:
    lines, labels = [], []
    kinds = ("color_at", "shape_at")
    for index, image, question in files.write_questions(kinds, "textvqa/train_images/{index:016x}.jpg"):
        name = image.removesuffix(".jpg")
        lines.append(_line(name, image, f"{question.text}\n"))  # the scorer takes the question from two lines
        label = {"question_id": 34_602 + index, "image_id": name, "question": question.text.lower()}
        labels.append({**label, "answers": [question.answer] * 10})
    files.write_lines("textvqa/llava_textvqa_val_v051_ocr.jsonl", lines)
    files.write_json("textvqa/TextVQA_0.5.1_val.json", {"data": labels})


def _write_pope(files: MockFiles) -> None:
    lines: list[Record] = []
    for subset in ("adversarial", "popular", "random"):
        labels = []
        for index in range(max(2, files.num_questions // 3)):
            while True:
                scene, question = files.sample_question(("existence",))
                if question.answer == ("yes", "no")[index % 2]:
                    break
            image = f"COCO_val2014_{len(lines):012d}.jpg"
            files.write_image(scene, f"pope/val2014/{image}")
            labels.append({"question_id": index + 1, "image": image, "text": question.text, "label": question.answer})
            lines.append(_line(len(lines) + 1, image, question.text, subset))
        files.write_lines(f"pope/coco/coco_pope_{subset}.json", labels)
    files.write_lines("pope/llava_pope_test.jsonl", lines)


def _write_mme(files: MockFiles) -> None:
    """Write images per task, each with a question whose answer is yes and one whose answer is no."""
    lines = []
    for task in _MME_TASKS:
        skeleton = ""
        for index in range(max(1, files.num_questions // (2 * len(_MME_TASKS)))):
            scene = sample_scene(files.rng, "test")
            image = f"{task}/{'images/' if task in _MME_IMAGE_FOLDERS else ''}{index:04d}.jpg"
            files.write_image(scene, f"MME/MME_Benchmark_release_version/{image}")
            for text, label in _sample_yes_and_no(scene, files.rng):
                skeleton += f"{index:04d}.jpg\t{text} Please answer yes or no.\t{label}\n"
                lines.append(_line(image, image, text, task))
        files.write_text(f"MME/eval_tool/Your_Results/{task}.txt", skeleton)
    files.write_lines("MME/llava_mme.jsonl", lines)


def _sample_yes_and_no(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    texts: dict[str, str] = {}
    while len(texts) < 2:
        question = ask(scene, "existence", rng)
        assert question is not None  # every scene allows this kind
        texts.setdefault(question.answer.title(), question.text)
    return [(texts[label], label) for label in ("Yes", "No")]


# Multiple choice -----------------------------------------------------------------------------------------------------


def _format_options(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=True))


def _write_scienceqa(files: MockFiles) -> None:
    """Write questions of which every third has a description of the scene instead of an image."""
    records, problems = [], {}
    for index in range(files.num_questions):
        scene, question = files.sample_question(tuple(_OPTIONS))
        name, has_image, options = str(index + 1), index % 3 != 2, files.sample_options(question)
        hint = "" if has_image else describe(scene.objects)
        record: Record = {"id": name}
        if has_image:
            files.write_image(scene, f"scienceqa/images/test/{name}/image.png")
            record["image"] = f"{name}/image.png"
        prompt = f"{f'Context: {hint}' if hint else '<image>'}\n{question.text}\n{_format_options(options)}"
        answer = options.index(question.answer)
        messages = [{"from": "human", "value": prompt}, {"from": "gpt", "value": f"The answer is {_LETTERS[answer]}."}]
        records.append({**record, "conversations": messages})
        problems[name] = {
            "question": question.text,
            "choices": options,
            "answer": answer,
            "hint": hint,
            "image": "image.png" if has_image else None,
            "subject": ("natural science", "social science", "language science")[index % 3],
            "grade": f"grade{1 + index % 12}",
            "split": "test",
        }
    files.write_json("scienceqa/llava_test_CQM-A.json", records)
    files.write_json("scienceqa/problems.json", problems)
    files.write_json("scienceqa/pid_splits.json", {"train": [], "val": [], "test": list(problems)})


def _write_mmbench(files: MockFiles, name: str = "mmbench/mmbench_dev_20230712.tsv") -> None:
    """Write MMBench's table: each question once per rotation of its options, with the image in every row."""
    columns = ("index", "question", "hint", *_LETTERS, "answer", "category", "image", "source", "l2-category")
    text = io.StringIO()
    table = csv.DictWriter(text, (*columns, "comment", "split"), delimiter="\t", lineterminator="\n", restval="")
    table.writeheader()
    for index in range(max(2, files.num_questions // 4)):
        scene, question = files.sample_question(tuple(_OPTIONS))
        options = files.sample_options(question)
        image = base64.b64encode(files.encode_image(scene)).decode()
        for rotation in range(len(_LETTERS)):
            rotated = options[-rotation:] + options[:-rotation] if rotation else options
            row = {"index": rotation * _MMBENCH_ROTATION + index, "question": question.text, "image": image}
            row |= dict(zip(_LETTERS, rotated, strict=True)) | {"answer": _LETTERS[rotated.index(question.answer)]}
            row |= {"category": ("object_counting", "attribute_recognition")[index % 2], "source": "synthetic"}
            table.writerow(row | {"l2-category": "finegrained_perception (instance-level)", "split": "dev"})
    files.write_text(name, text.getvalue())


def _write_mmbench_cn(files: MockFiles) -> None:
    _write_mmbench(files, "mmbench_cn/mmbench_dev_cn_20231003.tsv")


def _write_seed(files: MockFiles) -> None:
    """Write questions of which every sixth is about a video, represented by its middle frame."""
    lines, labels = [], []
    types = {"Instance Attributes": 3, "Instance Location": 4, "Instances Counting": 5, "Action Recognition": 10}
    type_of_kind = {"color_at": 3, "shape_at": 3, "place_of": 4, "count": 5}
    for index in range(files.num_questions):
        scene, question = files.sample_question(tuple(_OPTIONS))
        options, data_type = files.sample_options(question), "video" if index % 6 == 5 else "image"
        data_id = f"v{index}" if data_type == "video" else f"{index}_{files.rng.getrandbits(31)}"
        image = f"SEED-Bench-video-image/{data_id}.png" if data_type == "video" else f"SEED-Bench-image/{data_id}"
        files.write_image(scene, f"seed_bench/{image}")
        name: int | str = data_id if data_type == "video" else 100_000 + index
        text = f"{question.text}\n{_format_options(options)}\n{_LETTER_INSTRUCTION}"
        lines.append(_line(name, image, text, data_type))
        label = {f"choice_{letter.lower()}": option for letter, option in zip(_LETTERS, options, strict=True)}
        label |= {"answer": _LETTERS[options.index(question.answer)], "data_id": data_id, "data_type": data_type}
        label |= {"question": question.text, "question_id": str(name)}
        labels.append({**label, "question_type_id": 10 if data_type == "video" else type_of_kind[question.kind]})
    files.write_lines("seed_bench/llava-seed-bench.jsonl", lines)
    files.write_json("seed_bench/SEED-Bench.json", {"questions": labels, "question_type": types})


# Scored by a judge ---------------------------------------------------------------------------------------------------


def _write_llava_bench(files: MockFiles) -> None:
    """Write three questions per image, the image in words, and reference answers."""
    folder = "llava-bench-in-the-wild"
    questions: list[Record] = []
    contexts, references = [], []
    for index in range(-(-files.num_questions // 3)):
        scene = sample_scene(files.rng, "test")
        image = f"{index + 1:03d}.jpg"
        files.write_image(scene, f"{folder}/images/{image}")
        contexts.append({"id": f"{index + 1:03d}", "image": image, "caption": describe(scene.objects)})
        for category, kind in (("conv", "count"), ("detail", "description"), ("complex", "color_at")):
            question = ask(scene, kind, files.rng)
            assert question is not None  # every scene allows these kinds
            name = len(questions)
            questions.append(_line(name, image, question.text, category))
            reference = {"question_id": name, "prompt": question.text, "text": question.answer, "answer_id": f"r{name}"}
            references.append({**reference, "model_id": "gpt-4", "metadata": {}})
    files.write_lines(f"{folder}/questions.jsonl", questions)
    files.write_lines(f"{folder}/context.jsonl", contexts)
    files.write_lines(f"{folder}/answers_gpt4.jsonl", references)


def _write_mmvet(files: MockFiles) -> None:
    capabilities = {
        "count": ["rec", "math"], "color_at": ["rec", "spat"], "place_of": ["rec", "spat"], "description": ["gen"],
    }  # fmt: skip
    lines, labels = [], {}
    for index, image, question in files.write_questions(tuple(capabilities), "mm-vet/images/v1_{index}.png"):
        lines.append(_line(index, image, question.text, "conv"))
        label = {"imagename": image, "question": question.text, "answer": question.answer}
        labels[f"v1_{index}"] = {**label, "capability": capabilities[question.kind], "imagesource": "synthetic"}
    files.write_lines("mm-vet/llava-mm-vet.jsonl", lines)
    files.write_json("mm-vet/mm-vet.json", labels)


_WRITERS: dict[str, Callable[[MockFiles], None]] = {
    "vqav2": _write_vqav2,
    "gqa": _write_gqa,
    "vizwiz": _write_vizwiz,
    "scienceqa": _write_scienceqa,
    "textvqa": _write_textvqa,
    "pope": _write_pope,
    "mme": _write_mme,
    "mmbench": _write_mmbench,
    "mmbench_cn": _write_mmbench_cn,
    "seed": _write_seed,
    "llava_bench": _write_llava_bench,
    "mmvet": _write_mmvet,
}
