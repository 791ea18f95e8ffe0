"""Files of the synthetic dataset: LLaVA's formats, true, reproducible, complete or absent."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aligngpt.data.indexed import open_conversations, open_pairs
from aligngpt.data.sources import open_source
from aligngpt.synthetic import dataset
from aligngpt.synthetic.artifacts import DatasetInfo, Truth
from aligngpt.synthetic.dataset import generate_dataset, read_questions
from aligngpt.synthetic.scenes import QUESTION_KINDS, Scene, parse_objects, sample_scenes
from tests.synthetic import oracle

SIZES = {"pairs": 16, "conversations": 60, "questions": 15, "seed": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    assert sizes_of(generate_dataset(folder, **SIZES)) == SIZES
    return folder


def sizes_of(info: DatasetInfo) -> dict[str, int]:
    return {name: getattr(info, name) for name in SIZES}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def train_scenes() -> list[Scene]:
    return sample_scenes(random.Random("pairs 5"), "train", SIZES["pairs"])


def test_the_folder_has_these_files(data: Path) -> None:
    images = [f"images/{index:06d}.png" for index in range(16)]
    images += [f"images/test_{index:05d}.png" for index in range(15)]
    named = ["dataset_info.json", "finetune.json", "pretrain.json", "questions.jsonl", "truth.json"]
    assert sorted(files(data)) == sorted(named + images)
    assert sizes_of(DatasetInfo.read(data)) == SIZES


def test_the_same_seed_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    generate_dataset(tmp_path / "same", **SIZES)
    assert files(tmp_path / "same") == files(data)
    generate_dataset(tmp_path / "other", **SIZES | {"seed": 6})
    different = files(tmp_path / "other")
    assert all(content != different[name] for name, content in files(data).items())


def test_pairs_and_their_truth(data: Path) -> None:
    read = open_pairs(open_source(data / "pretrain.json", data / "images"))
    assert read.bad == [] and len(read) == 16
    truth = Truth.read(data).pairs
    assert list(truth) == [pair.id for pair in read]
    for pair, scene in zip(read, train_scenes(), strict=True):
        assert truth[pair.id].coverage == round(oracle.coverage(scene.objects, parse_objects(pair.caption)), 4)
        assert truth[pair.id].kind in ("whole", "part", "dropped", "mismatched")
        assert (truth[pair.id].coverage == 1) == (truth[pair.id].kind == "whole")


def test_conversations_have_true_answers(data: Path) -> None:
    read = open_conversations(open_source(data / "finetune.json", data / "images"))
    assert read.bad == [] and len(read) == 60
    scenes = train_scenes()
    turns: Counter[int] = Counter()
    for index, conversation in enumerate(read):
        texts = [turn.text for turn in conversation.turns]
        if conversation.images:
            assert conversation.images == (f"{index % 16:06d}.png",)
            objects = scenes[index % 16].objects
            assert texts[0].startswith("<image>\n")
            questions = [texts[0].removeprefix("<image>\n"), *texts[2::2]]
        else:
            description, _, first = texts[0].partition("\n")
            objects = tuple(parse_objects(description))
            questions = [first, *texts[2::2]]
            assert Scene(objects).split == "train"
        for question, answer in zip(questions, texts[1::2], strict=True):
            assert answer == oracle.answer(question, objects)
        turns[len(questions)] += 1
    text_only = [conversation for conversation in read if not conversation.images]
    assert 1 <= len(text_only) <= 15 and {one.id[:5] for one in text_only} == {"text_"}
    assert sorted(turns) == [1, 2, 3]


def test_questions_are_about_test_scenes_and_have_true_answers(data: Path) -> None:
    questions = read_questions(data)
    assert [question["question_id"] for question in questions] == list(range(15))
    kinds = Counter(question["category"] for question in questions)
    assert kinds == {kind: 3 if kind == QUESTION_KINDS[0] else 2 for kind in QUESTION_KINDS}
    for question in questions:
        scene = Scene(tuple(question["objects"]))
        assert scene.split == "test"
        assert question["label"] == oracle.answer(question["text"], scene.objects)
        with Image.open(data / "images" / question["image"]) as image:
            assert image.size == (96, 96)


def test_no_test_scene_is_in_training(data: Path) -> None:
    tested = {Scene(tuple(question["objects"])) for question in read_questions(data)}
    assert not tested & set(train_scenes())


# ------------------------------------------------------------------------------------------------------------- making


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    def render_scene(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(dataset, "render_scene", render_scene)


@pytest.mark.usefixtures("no_rendering")
def test_an_existing_dataset_is_kept_and_other_settings_are_refused(data: Path) -> None:
    before = files(data)
    assert sizes_of(generate_dataset(data, **SIZES)) == SIZES
    with pytest.raises(ValueError, match=r"belongs to another run: seed is 5 there, 7 requested"):
        generate_dataset(data, **SIZES | {"seed": 7})
    assert files(data) == before


@pytest.mark.usefixtures("no_rendering")
def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left"):
        generate_dataset(tmp_path / "data", **SIZES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_rendering")
def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(ValueError, match=r"has no dataset_info\.json"):
        generate_dataset(tmp_path, **SIZES)
    with pytest.raises(ValueError, match=r"has no dataset_info\.json"):
        generate_dataset(tmp_path / "thesis.tex", **SIZES)
    assert (tmp_path / "thesis.tex").read_text() == "important"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    sizes = {"pairs": 1, "conversations": 1, "questions": 1}
    assert sizes_of(generate_dataset(tmp_path, **sizes)) == sizes | {"seed": 0}
    assert len(read_questions(tmp_path)) == 1


@pytest.mark.parametrize("name", ["pairs", "conversations", "questions"])
def test_sizes_are_at_least_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="pass at least 1"):
        generate_dataset(tmp_path / "data", **SIZES | {name: 0})


def test_a_missing_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"questions\.jsonl is missing; write the dataset with"):
        read_questions(tmp_path)
