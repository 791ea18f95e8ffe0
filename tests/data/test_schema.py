"""Valid records are read exactly, bad ones are listed with location and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligngpt.data.indexed import IndexedSource, open_conversations, open_pairs
from aligngpt.data.schema import BadRecord, Conversation, ImageTextPair, StrictDataError, Turn
from aligngpt.data.sources import open_source


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]


def record(**changes: Any) -> dict[str, Any]:
    """Return a valid pair with some fields changed, or removed where the change is `...`."""
    fields = {"id": "a", "image": "0.png", "conversations": turns("<image>", "A cat.")} | changes
    return {key: value for key, value in fields.items() if value is not ...}


def write(folder: Path, records: Any, name: str = "pairs.json") -> Path:
    path = folder / name
    text = json.dumps(records) if name.endswith(".json") else "\n".join(json.dumps(value) for value in records)
    path.write_text(text, encoding="utf-8")
    return path


def read_pairs(path: Path, images: Path) -> IndexedSource[ImageTextPair]:
    return open_pairs(open_source(path, images))


def read_conversations(path: Path, images: Path) -> IndexedSource[Conversation]:
    return open_conversations(open_source(path, images))


@pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl", "PAIRS.NDJSON"])
def test_pairs_are_read_exactly(tmp_path: Path, images: Path, name: str) -> None:
    prompt, caption = "Describe it.\n<image>", " Ein Kätzchen, \U0001f408 \n"
    records = [
        record(),
        record(id=7, image=["1.png"], conversations=turns(prompt, caption), alignment_level=8),
        record(id="c", image="x/../2.png", similarity=0),
    ]
    (images / "x").mkdir(exist_ok=True)
    path = write(tmp_path, records, name)
    result = read_pairs(path, images)
    assert list(result) == [
        ImageTextPair("a", "0.png", "A cat."),
        ImageTextPair("7", "1.png", caption, 8),
        ImageTextPair("c", "x/../2.png", "A cat.", 1),
    ]
    assert result.bad == []
    assert (result.levels.tolist(), result.lengths.tolist()) == ([0, 8, 1], [2, 3, 2])
    result.check(strict=True)


def test_conversations_are_read_exactly(tmp_path: Path, images: Path) -> None:
    several = turns("<image>\nWhat?", "A cat.", "And <image>?", "A dog.")
    records = [
        record(id="two", image=["0.png", "1.png"], conversations=several, alignment_level=2),
        {"conversations": turns("Hello", "Hi")},
        record(id="two", image=None, conversations=turns("Same id, no image", "Fine")),
        record(id="bare"),
    ]
    result = read_conversations(write(tmp_path, records), images)
    assert result.bad == []
    first, second, third, fourth = result
    assert result.lengths.tolist() == [8, -2, -5, 3]
    assert first.images == ("0.png", "1.png") and first.alignment_level == 2
    assert first.turns[2] == Turn("user", "And <image>?") and first.turns[3] == Turn("assistant", "A dog.")
    assert second == Conversation("#1", (), (Turn("user", "Hello"), Turn("assistant", "Hi")))
    assert third.id == "two" and third.images == ()
    assert fourth.turns[0] == Turn("user", "<image>")


BAD_RECORDS: list[tuple[Any, str]] = [
    (["a"], "expected an object, got a list"),
    (None, "expected an object, got null"),
    (record(conversations=...), "conversations is missing"),
    (record(conversations="text"), "conversations must be a list of turns, got a string"),
    (record(conversations=[]), "conversations is empty"),
    (record(conversations=["hello"]), "turn 1 must be an object, got a string"),
    (record(conversations=[{"value": "<image>"}]), "turn 1 has no from"),
    (record(conversations=[{"from": "human"}]), "turn 1 has no value"),
    (record(conversations=[{}]), "turn 1 has no from and no value"),
    (record(conversations=[{"from": "human", "value": 3}]), "value of turn 1 must be a string, got a number"),
    (record(conversations=[{"from": "system", "value": "x"}]), "unknown role 'system'; expected human or gpt"),
    (record(conversations=[{"from": ["gpt"], "value": "x"}]), "unknown role"),
    (record(conversations=turns("<image>", "x")[1:]), "turn 1 should be from human"),
    (record(conversations=turns("<image>", "x")[::-1]), "the last turn (2) has no answer"),
    (record(conversations=[turns("", "Hi")[1], *turns("<image>", "x")[::-1]]), "turn 2 should be from human"),
    (record(conversations=[*turns("<image>"), *turns("Again?", "x")]), "turn 2 should be from gpt"),
    (record(conversations=turns("<image>", "x", "And?")), "the last turn (3) has no answer"),
    (record(conversations=turns("<image>")), "the last turn (1) has no answer"),
    (record(conversations=turns("<image>", "")), "empty caption or answer in turn 2"),
    (record(conversations=turns("<image>", " \n\t")), "empty caption or answer in turn 2"),
    (record(conversations=turns(" ", "x")), "empty question in turn 1"),
    (record(conversations=turns("<image>", "x", " ", "y")), "empty question in turn 3"),
    (record(conversations=turns("What?", "x")), "0 <image> in the questions, 1 in `image`"),
    (record(conversations=turns("<image><image>", "x")), "2 <image> in the questions, 1 in `image`"),
    (
        record(conversations=turns("<image>", "see <image>")),
        "<image> in turn 2, which is an answer: move it to a question",
    ),
    (record(conversations=turns("<image>\nWhat is <align>?", "x")), "<align> in turn 1 is reserved"),
    (record(conversations=turns("<image>", "\ud83d")), "turn 2 holds an unpaired surrogate"),
    (record(image="\ud83d"), "image path holds an unpaired surrogate"),
    (record(image=""), "image must be a path, got an empty string"),
    (record(image=3), "image must be a path, got a number"),
    (record(image="/etc/0.png"), "image path is absolute and not in the image folder"),
    (record(image="../0.png"), "image path leaves the image folder"),
    (record(image="x/../../0.png"), "image path leaves the image folder"),
    (record(id=True), "id must be a string or an integer, got a boolean"),
    (record(id={}), "id must be a string or an integer, got an object"),
    (record(alignment_level=0), "alignment_level must be from 1 to 64, got 0"),
    (record(alignment_level=65), "alignment_level must be from 1 to 64, got 65"),
    (record(alignment_level=2.0), "alignment_level must be an integer, got 2.0"),
    (record(alignment_level="3"), 'alignment_level must be an integer, got "3"'),
    (record(alignment_level=True), "alignment_level must be an integer, got true"),
    (record(similarity=-1), "similarity must be from 0 to 63, got -1"),
    (record(similarity=64), "similarity must be from 0 to 63, got 64"),
    (record(similarity=0.31), "similarity must be an integer, got 0.31"),
    (record(similarity=3, alignment_level=3), "alignment_level 3 and similarity 3 disagree"),
]
BAD_PAIRS: list[tuple[Any, str]] = [
    (record(id=""), "id is missing"),
    (record(id="good"), "duplicate id, also that of record 0"),
    (record(image=...), "a pair has one image, this record has none"),
    (record(image=["0.png", "1.png"]), "a pair has one image, this record has 2"),
    (record(conversations=turns("<image>", "x", "And?", "y")), "a pair has two turns (<image> and its caption)"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_RECORDS + BAD_PAIRS)
def test_a_bad_pair_is_listed_and_its_neighbors_are_read(tmp_path: Path, images: Path, bad: Any, reason: str) -> None:
    path = write(tmp_path, [record(id="good"), bad, record(id="after")], "pairs.jsonl")
    result = read_pairs(path, images)
    assert [pair.id for pair in result] == ["good", "after"]
    (listed,) = result.bad
    assert reason in listed.reason
    assert (listed.source, listed.line, listed.index) == (path.name, 2, 1)
    assert str(listed).startswith(f"{path.name}:2: ") and "\n" not in str(listed)
    with pytest.raises(StrictDataError, match="1 of 3 records are bad: "):
        result.check(strict=True)


@pytest.mark.parametrize(("bad", "reason"), BAD_RECORDS)
def test_a_bad_conversation_is_listed(tmp_path: Path, images: Path, bad: Any, reason: str) -> None:
    result = read_conversations(write(tmp_path, [bad, record(id="after")]), images)
    assert [conversation.id for conversation in result] == ["after"]
    (listed,) = result.bad
    assert reason in listed.reason
    assert (listed.line, listed.index) == (None, 0)


@pytest.mark.parametrize("image", [..., None, []])
def test_an_image_placeholder_without_an_image_is_text(tmp_path: Path, images: Path, image: Any) -> None:
    texts = ("What is <image>?", "<image> marks an image.", "<image><image>", "Two.")
    result = read_conversations(write(tmp_path, [record(image=image, conversations=turns(*texts))]), images)
    assert result.bad == []
    assert result[0].images == ()
    assert tuple(turn.text for turn in result[0].turns) == texts


def test_an_answer_before_the_first_question_is_dropped(tmp_path: Path, images: Path) -> None:
    hello = {"from": "gpt", "value": "Hello."}
    records = [record(id=name, conversations=[hello, *turns("<image>", "A cat.")]) for name in "ab"]
    path = write(tmp_path, records)
    asked_and_answered = (Turn("user", "<image>"), Turn("assistant", "A cat."))
    assert [conversation.turns for conversation in read_conversations(path, images)] == [asked_and_answered] * 2
    assert list(read_pairs(path, images)) == [ImageTextPair(name, "0.png", "A cat.") for name in "ab"]


def test_broken_lines_are_listed_with_their_line_numbers(tmp_path: Path, images: Path) -> None:
    good = [json.dumps(record(id=str(number))).encode() for number in range(3)]
    lines = [b"\xef\xbb\xbf" + good[0], b'{"id": "x",', b"", b"\xff{}", good[1] + b"\r", b"[" * 100_000, good[2], b""]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    result = read_pairs(tmp_path / "pairs.jsonl", images)
    assert [pair.id for pair in result] == ["0", "1", "2"]
    assert [(bad.line, bad.index) for bad in result.bad] == [(2, 1), (4, 2), (6, 4)]
    broken, encoding, nested = (bad.reason for bad in result.bad)
    assert broken.startswith("broken JSON: ") and broken.endswith("at column 12")
    assert encoding == "not UTF-8 text"
    assert "nested too deeply" in nested or "broken JSON" in nested


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[\n{"id": "a"},\n{"id": "b",}\n]', r"pairs\.json:3:1[12]: broken JSON"),
        (b'[\n{"id": "a"}', r"pairs\.json:2:12: broken JSON"),
        (b"", r"pairs\.json:1:1: expected a JSON array"),
        (b'["\n\xff"]', r"pairs\.json:2:1: not UTF-8"),
        (b'{"id": "a"}', r"pairs\.json:1:1: expected a JSON array of records"),
    ],
)
def test_a_broken_array_is_an_error_that_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "pairs.json", tmp_path)


def test_bad_records_are_in_file_order(tmp_path: Path, images: Path) -> None:
    images_of = ["a/../../0.png", "0.png", "/0.png", "1.png", "", "../x"]
    records = [record(id=str(number), image=image) for number, image in enumerate(images_of)]
    result = read_pairs(write(tmp_path, records), images)
    assert [bad.index for bad in result.bad] == [0, 2, 4, 5]
    assert [bad.image for bad in result.bad] == ["a/../../0.png", "/0.png", None, "../x"]
    assert [pair.id for pair in result] == ["1", "3"]


def test_strict_names_the_first_few_and_counts_the_rest(tmp_path: Path, images: Path) -> None:
    result = read_pairs(write(tmp_path, [record(id=f"p{number}", image="../0.png") for number in range(9)]), images)
    with pytest.raises(StrictDataError) as caught:
        result.check(strict=True)
    message = str(caught.value)
    assert message.startswith("9 of 9 records are bad: ") and message.endswith("; and 4 more")
    assert "id p4" in message and "id p5" not in message and "\n" not in message


def test_a_bad_record_in_one_line() -> None:
    bad = BadRecord("pairs.json", 17, "a", "0.png", "no such file")
    assert str(bad) == "pairs.json: record 17, id a, image 0.png: no such file"
    assert str(BadRecord("pairs.jsonl", 2, None, None, "broken\nJSON", 3)) == "pairs.jsonl:3: broken JSON"


def test_photos_are_read(photos: Path) -> None:
    pairs = read_pairs(photos / "pairs.json", photos / "images")
    conversations = read_conversations(photos / "instructions.json", photos / "images")
    assert (len(pairs), pairs.bad) == (192, [])
    assert (len(conversations), conversations.bad) == (60, [])
    assert sum(not conversation.images for conversation in conversations) == 12


def test_a_file_without_a_good_record_is_an_error(tmp_path: Path) -> None:
    result = read_pairs(write(tmp_path, [record(image="../gone.png")]), tmp_path)
    with pytest.raises(ValueError, match=r"1 of 1 records are bad: .*gone\.png: image path leaves"):
        result.check()
