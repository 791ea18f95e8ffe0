"""Scenes: texts are true of them, and images show them."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from aligngpt.synthetic.scenes import (
    COLORS,
    PLACES,
    QUESTION_KINDS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    ask,
    describe,
    measure_coverage,
    parse_objects,
    render_scene,
    sample_caption,
    sample_questions,
    sample_scene,
    sample_scenes,
)
from tests.synthetic import oracle

RED = SceneObject("large", "red", "circle", "top left")
BLUE = SceneObject("small", "blue", "square", "center")
TWIN = SceneObject("small", "red", "circle", "bottom right")
SCENE = Scene((RED, BLUE, TWIN))


# ------------------------------------------------------------------------------------------------------------- words


def test_descriptions_word_for_word() -> None:
    assert describe([RED]) == "a large red circle at the top left."
    assert describe([RED, BLUE]) == "a large red circle at the top left and a small blue square at the center."
    bare = [
        SceneObject("", "orange", "star", ""),
        SceneObject("", "red", "circle", "top"),
        SceneObject("small", "", "", "left"),
    ]
    assert describe(bare) == "an orange star, a red circle at the top and a small object at the left."


@pytest.mark.parametrize("kept", [("size", "place"), ("size",), ("place",), ()])
def test_parsing_is_the_inverse_of_describing(kept: tuple[str, ...]) -> None:
    rng = random.Random(0)
    for _ in range(200):
        described = [
            SceneObject(
                item.size if "size" in kept else "", item.color, item.shape, item.place if "place" in kept else ""
            )
            for item in sample_scene(rng).objects
        ]
        assert parse_objects(describe(described)) == described


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("", []),
        ("nothing to see, at the top", []),
        ("  A large pink circle at the moon ", [SceneObject("large", "", "circle", "")]),
        ("red at the top left and and two stars", [SceneObject("", "red", "", "top left")]),
        (
            "a small star at the bottom, a star",
            [SceneObject("small", "", "star", "bottom"), SceneObject("", "", "star", "")],
        ),
    ],
)
def test_parsing_is_lenient(text: str, objects: list[SceneObject]) -> None:
    assert parse_objects(text) == objects


# ---------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(
    ("described", "facts"),
    [
        ([RED, BLUE, TWIN], 12),  # whole
        ([BLUE], 4),  # part
        ([RED, TWIN], 8),
        (
            [SceneObject("", "red", "circle", ""), SceneObject("", "blue", "square", "")],
            4,
        ),  # dropped: no size, no place
        ([SceneObject("small", "blue", "square", "")], 3),
        ([SceneObject("", "red", "circle", "bottom right"), SceneObject("", "blue", "square", "center")], 6),
        ([SceneObject("", "red", "circle", "")] * 2, 4),  # two of them, and there are two
        ([SceneObject("", "red", "circle", "")] * 3, 4),  # there is no third
        ([BLUE, BLUE], 4),
        ([SceneObject("large", "blue", "square", "center")], 0),  # mismatched: one wrong word makes the phrase wrong
        ([SceneObject("small", "green", "star", "top"), BLUE], 4),  # of another image, partly true by chance
    ],
)
def test_coverage_worked_by_hand(described: list[SceneObject], facts: int) -> None:
    assert measure_coverage(SCENE, described) == facts / 12
    assert oracle.coverage(SCENE.objects, described) == facts / 12


def test_captions_have_their_coverage() -> None:
    rng = random.Random(1)
    kinds: Counter[str] = Counter()
    for _ in range(600):
        scene = sample_scene(rng)
        caption = sample_caption(scene, rng)
        described = parse_objects(caption.text)
        kinds[caption.kind] += 1
        assert caption.text == describe(described)
        assert caption.coverage == pytest.approx(oracle.coverage(scene.objects, described))
        facts = {item.num_facts for item in described}
        if caption.kind == "whole":
            assert tuple(described) == scene.objects and caption.coverage == 1
        elif caption.kind == "part":
            assert facts == {4} and set(described) < set(scene.objects)
            assert caption.coverage == len(described) / len(scene.objects)
        elif caption.kind == "dropped":
            assert facts in ({2}, {3})
            assert caption.coverage == facts.pop() * len(described) / (4 * len(scene.objects))
        else:
            assert caption.kind == "mismatched"
    assert set(kinds) == {"whole", "part", "dropped", "mismatched"}
    assert all(90 < number < 230 for number in kinds.values()), kinds


# --------------------------------------------------------------------------------------------------------- questions

ANSWERS: dict[str, dict[str, str]] = {
    "count": {"How many objects are there?": "three"},
    "color_count": {
        "How many red objects are there?": "two",
        "How many blue objects are there?": "one",
        **{f"How many {c} objects are there?": "zero" for c in ("green", "yellow", "purple", "orange", "white")},
    },
    "existence": {
        "Is there a red circle?": "yes",
        "Is there a blue square?": "yes",
        "Is there a red square?": "no",
        "Is there a blue circle?": "no",
        "Is there an orange star?": "no",
        "Is there a white cross?": "no",
    },
    "color_at": {
        "What color is the object at the top left?": "red",
        "What color is the object at the center?": "blue",
        "What color is the object at the bottom right?": "red",
    },
    "shape_at": {
        "What shape is the object at the top left?": "circle",
        "What shape is the object at the center?": "square",
        "What shape is the object at the bottom right?": "circle",
    },
    "place_of": {"Where is the blue square?": "center"},  # there are two red circles
    "description": {"Describe the picture.": describe([RED, BLUE, TWIN])},
}


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_answers_worked_by_hand(kind: str) -> None:
    rng = random.Random(2)
    asked: dict[str, str] = {}
    for _ in range(600):
        question = ask(SCENE, kind, rng)
        assert question is not None and question.kind == kind
        assert asked.setdefault(question.text, question.answer) == question.answer
        assert question.answer == oracle.answer(question.text, SCENE.objects)
    assert asked.items() >= ANSWERS[kind].items()
    if kind != "existence":  # which asks about many absent objects
        assert asked == ANSWERS[kind]


def test_every_kind_of_question_has_its_true_answer() -> None:
    rng = random.Random(3)
    answers: Counter[str] = Counter()
    for _ in range(300):
        scene = sample_scene(rng)
        questions = sample_questions(scene, 7, rng)
        assert len({question.kind for question in questions}) == len(questions) >= 6
        for question in questions:
            assert question.answer == oracle.answer(question.text, scene.objects)
            answers[question.answer] += 1
    assert 0.7 < answers["yes"] / answers["no"] < 1.4


def test_no_question_for_the_place_of_twins() -> None:
    twins = Scene((RED, TWIN))
    rng = random.Random(0)
    assert ask(twins, "place_of", rng) is None
    assert [len(sample_questions(twins, number, rng)) for number in (1, 3, 7)] == [1, 3, 6]


# ------------------------------------------------------------------------------------------------------------ scenes


def test_scenes_are_well_formed() -> None:
    rng = random.Random(4)
    sizes: Counter[int] = Counter()
    for _ in range(400):
        objects = sample_scene(rng).objects
        places = [PLACES.index(item.place) for item in objects]
        assert places == sorted(set(places))
        assert all(t.size in SIZES and t.color in COLORS and t.shape in SHAPES for t in objects)
        sizes[len(objects)] += 1
    assert sorted(sizes) == [1, 2, 3, 4] and min(sizes.values()) > 60


def test_train_and_test_share_no_scene() -> None:
    train, test = (sample_scenes(random.Random(0), split, 400) for split in ("train", "test"))
    assert len(set(train)) == len(set(test)) == 400
    assert not set(train) & set(test)
    assert {scene.split for scene in train} == {"train"} and {scene.split for scene in test} == {"test"}
    rng = random.Random(5)
    fraction = sum(sample_scene(rng).split == "test" for _ in range(2000)) / 2000
    assert 0.17 < fraction < 0.24
    # The split is a function of the content, the same in every process.
    red = [Scene((SceneObject("small", "red", shape, "center"),)).split for shape in SHAPES]
    assert red == ["train", "train", "train", "test", "train", "train"]


# ---------------------------------------------------------------------------------------------------------- images


def pixels(scene: Scene, seed: int = 0, size: int = 96) -> np.ndarray:
    image = render_scene(scene, random.Random(seed), size)
    assert (image.size, image.mode) == ((size, size), "RGB")
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_objects_color_is_at_its_place(shape: str) -> None:
    for seed, color in enumerate(COLORS):
        for place, name in enumerate(PLACES):
            image = pixels(Scene((SceneObject("small", color, shape, name),)), seed)
            row, column = divmod(place, 3)
            seen = image[row * 32 + 16, column * 32 + 16]
            expected = np.array(COLORS[color])
            assert (seen >= 0.9 * expected - 2).all() and (seen <= 1.05 * expected + 2).all(), (color, name, seen)
            elsewhere = image[(row + 1) % 3 * 32 + 16, (column + 1) % 3 * 32 + 16]
            assert elsewhere.max() <= 44 + 14


@pytest.mark.parametrize("shape", SHAPES)
def test_larger_is_larger_and_edges_are_smooth(shape: str) -> None:
    for seed in range(10):
        areas, colors = [], []
        for size in SIZES:
            image = pixels(Scene((SceneObject(size, "white", shape, "center"),)), seed)
            background = image[0, 0]
            areas.append(int((np.abs(image - background).sum(-1) > 60).sum()))
            colors.append(len(np.unique(image.reshape(-1, 3), axis=0)))
            outside = image.copy()
            outside[31:65, 31:65] = background
            assert (outside == background).all()  # no object extends into another place
        assert areas[1] > 2 * areas[0] > 0
        if shape not in ("square", "cross"):  # their edges may coincide with pixel borders
            assert min(colors) > 2


def test_shapes_differ_in_area() -> None:
    areas = {}
    for shape in SHAPES:
        image = pixels(Scene((SceneObject("large", "white", shape, "center"),)), 0)
        areas[shape] = (np.abs(image - image[0, 0]).sum(-1) > 300).mean() * 9 / 0.42**2 / 4  # of its square
    expected = {"circle": 0.785, "square": 0.7225, "triangle": 0.4275, "diamond": 0.35, "cross": 0.564, "star": 0.31}
    for shape, fraction in expected.items():
        assert areas[shape] == pytest.approx(fraction, rel=0.15), shape


def test_images_of_one_scene_vary_with_the_seed_alone() -> None:
    assert (pixels(SCENE, 1) == pixels(SCENE, 1)).all()
    assert not (pixels(SCENE, 1) == pixels(SCENE, 2)).all()
    assert pixels(SCENE, 1, size=48).shape == (48, 48, 3)


def test_mismatched_captions_can_come_from_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[str | None] = []

    def spy(rng: random.Random, split: str | None = None) -> Scene:
        splits.append(split)
        return sample_scene(rng, split)

    monkeypatch.setattr("aligngpt.synthetic.scenes.sample_scene", spy)
    kinds = [sample_caption(SCENE, random.Random(seed), mismatched_split="train").kind for seed in range(40)]
    assert splits == ["train"] * kinds.count("mismatched") and splits
