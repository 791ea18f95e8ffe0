"""The drawn world's files: LLaVA's formats, true, the same from the same seed, whole or not there."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aligngpt.data.schema import read_conversations, read_pairs
from aligngpt.synthetic import dataset as data
from aligngpt.synthetic.dataset import make, read_questions
from aligngpt.synthetic.scenes import QUESTION_KINDS, Scene, parse_objects, scenes
from tests.synthetic import oracle

SIZES = {"pairs": 16, "conversations": 60, "questions": 15, "seed": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "world"
    assert make(folder, **SIZES) == SIZES
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def train_scenes() -> list[Scene]:
    return scenes(random.Random("pairs 5"), "train", SIZES["pairs"])


def test_the_folder_holds_what_is_told(world: Path) -> None:
    images = [f"images/{index:06d}.png" for index in range(16)]
    images += [f"images/test_{index:05d}.png" for index in range(15)]
    named = ["finetune.json", "pretrain.json", "scenes.json", "test.json", "truth.json"]
    assert sorted(files(world)) == sorted(named + images)
    assert json.loads((world / "scenes.json").read_text()) == SIZES


def test_the_same_seed_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    make(tmp_path / "same", **SIZES)
    assert files(tmp_path / "same") == files(world)
    make(tmp_path / "other", **SIZES | {"seed": 6})
    other = files(tmp_path / "other")
    assert all(content != other[name] for name, content in files(world).items())


def test_pairs_are_pairs_and_their_truth_is_true(world: Path) -> None:
    read = read_pairs(world / "pretrain.json", world / "images", check_images="decode")
    assert read.bad == [] and len(read.records) == 16
    truth = json.loads((world / "truth.json").read_text())
    assert list(truth) == [pair.id for pair in read.records]
    for pair, scene in zip(read.records, train_scenes(), strict=True):
        assert truth[pair.id]["coverage"] == round(oracle.coverage(scene.objects, parse_objects(pair.caption)), 4)
        assert truth[pair.id]["kind"] in ("whole", "part", "dropped", "mismatched")
        assert (truth[pair.id]["coverage"] == 1) == (truth[pair.id]["kind"] == "whole")


def test_conversations_are_conversations_and_true(world: Path) -> None:
    read = read_conversations(world / "finetune.json", world / "images", check_images="decode")
    assert read.bad == [] and len(read.records) == 60
    imaged = train_scenes()
    turns: Counter[int] = Counter()
    for index, conversation in enumerate(read.records):
        texts = [turn.text for turn in conversation.turns]
        if conversation.images:
            assert conversation.images == (f"{index % 16:06d}.png",)
            objects = imaged[index % 16].objects
            assert texts[0].startswith("<image>\n")
            questions = [texts[0].removeprefix("<image>\n"), *texts[2::2]]
        else:
            told, _, first = texts[0].partition("\n")
            objects = tuple(parse_objects(told))
            questions = [first, *texts[2::2]]
            assert Scene(objects).split == "train"
        for question, said in zip(questions, texts[1::2], strict=True):
            assert said == oracle.answer(question, objects)
        turns[len(questions)] += 1
    spoken = [conversation for conversation in read.records if not conversation.images]
    assert 1 <= len(spoken) <= 15 and {one.id[:5] for one in spoken} == {"text_"}
    assert sorted(turns) == [1, 2, 3]


def test_questions_are_of_test_scenes_and_answered_truly(world: Path) -> None:
    questions = read_questions(world)
    assert [question["question_id"] for question in questions] == list(range(15))
    kinds = Counter(question["kind"] for question in questions)
    assert kinds == {kind: 3 if kind == QUESTION_KINDS[0] else 2 for kind in QUESTION_KINDS}
    for question in questions:
        scene = Scene(tuple(question["objects"]))
        assert scene.split == "test"
        assert question["label"] == oracle.answer(question["text"], scene.objects)
        with Image.open(world / "images" / question["image"]) as image:
            assert image.size == (96, 96)


def test_no_test_scene_is_shown_in_training(world: Path) -> None:
    asked = {Scene(tuple(question["objects"])) for question in read_questions(world)}
    assert not asked & set(train_scenes())


# ------------------------------------------------------------------------------------------------------------- making


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_scene(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the pencil broke")

    monkeypatch.setattr(data, "draw_scene", draw_scene)


@pytest.mark.usefixtures("no_drawing")
def test_what_is_there_is_kept_and_other_settings_are_refused(world: Path) -> None:
    before = files(world)
    assert make(world, **SIZES) == SIZES
    with pytest.raises(ValueError, match=r"was made with .*'seed': 5.*, not .*'seed': 7"):
        make(world, **SIZES | {"seed": 7})
    assert files(world) == before


@pytest.mark.usefixtures("no_drawing")
def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the pencil broke"):
        make(tmp_path / "world", **SIZES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_drawing")
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else"):
        make(tmp_path, **SIZES)
    with pytest.raises(ValueError, match="holds something else"):
        make(tmp_path / "thesis.tex", **SIZES)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    sizes = {"pairs": 1, "conversations": 1, "questions": 1}
    assert make(tmp_path, **sizes) == sizes | {"seed": 0}
    assert len(read_questions(tmp_path)) == 1


@pytest.mark.parametrize("name", ["pairs", "conversations", "questions"])
def test_nothing_cannot_be_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be above zero"):
        make(tmp_path / "world", **SIZES | {name: 0})


def test_a_folder_without_a_world_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no test\.json in .*: make the drawn world"):
        read_questions(tmp_path)
