"""Good records are read exactly, every bad one is listed with its place and its reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from aligngpt.data.schema import (
    BadRecord,
    Conversation,
    ImageTextPair,
    StrictDataError,
    Turn,
    read_conversations,
    read_pairs,
    write_pairs,
)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def record(**changes: Any) -> dict[str, Any]:
    """A good pair with some fields changed, or left out where the change is `...`."""
    fields = {"id": "a", "image": "0.png", "conversations": turns("<image>", "A cat.")} | changes
    return {key: value for key, value in fields.items() if value is not ...}


def write(folder: Path, records: Any, name: str = "pairs.json") -> Path:
    path = folder / name
    text = json.dumps(records) if name.endswith(".json") else "\n".join(json.dumps(one) for one in records)
    path.write_text(text, encoding="utf-8")
    return path


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
    assert result.records == [
        ImageTextPair("a", "0.png", "A cat."),
        ImageTextPair("7", "1.png", caption, 8, prompt),
        ImageTextPair("c", "x/../2.png", "A cat.", 1),
    ]
    assert result.bad == []
    assert (result.source, result.source_hash) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    result.raise_if_bad()


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
    first, second, third, fourth = result.records
    assert first.images == ("0.png", "1.png") and first.alignment_level == 2
    assert first.turns[2] == Turn("user", "And <image>?") and first.turns[3] == Turn("assistant", "A dog.")
    assert second == Conversation("#1", (), (Turn("user", "Hello"), Turn("assistant", "Hi")))
    assert third.id == "two" and third.images == ()
    assert fourth.turns[0] == Turn("user", "<image>")


BAD_RECORDS: list[tuple[Any, str]] = [
    (["a"], "expected an object, got a list"),
    (None, "expected an object, got null"),
    (record(conversations=...), "no conversations"),
    (record(conversations="text"), "conversations must be a list of turns, got a string"),
    (record(conversations=[]), "conversations is empty"),
    (record(conversations=["hello"]), "turn 1 must be an object, got a string"),
    (record(conversations=[{"value": "<image>"}]), "turn 1 has no from"),
    (record(conversations=[{"from": "human"}]), "turn 1 has no value"),
    (record(conversations=[{}]), "turn 1 has no from and no value"),
    (record(conversations=[{"from": "human", "value": 3}]), "value of turn 1 must be a string, got a number"),
    (record(conversations=[{"from": "system", "value": "x"}]), "unknown role 'system'; known are human and gpt"),
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
    (record(conversations=turns("<image>", "see <image>")), "<image> in turn 2, which is an answer"),
    (record(conversations=turns("<image>\nWhat is <align>?", "x")), "<align> in turn 1: it is reserved"),
    (record(conversations=turns("<image>", "\ud83d")), "turn 2 holds half of a surrogate pair"),
    (record(image="\ud83d"), "image path holds half of a surrogate pair"),
    (record(image=""), "image must be a path, got an empty string"),
    (record(image=3), "image must be a path, got a number"),
    (record(image="/etc/0.png"), "image path is absolute"),
    (record(image="../0.png"), "image path leaves the image folder"),
    (record(image="x/../../0.png"), "image path leaves the image folder"),
    (record(id=True), "id must be a string or an integer, got a boolean"),
    (record(id={}), "id must be a string or an integer, got an object"),
    (record(alignment_level=0), "alignment_level must be within 1 to 64, got 0"),
    (record(alignment_level=65), "alignment_level must be within 1 to 64, got 65"),
    (record(alignment_level=2.0), "alignment_level must be an integer, got 2.0"),
    (record(alignment_level="3"), 'alignment_level must be an integer, got "3"'),
    (record(alignment_level=True), "alignment_level must be an integer, got true"),
    (record(similarity=-1), "similarity must be within 0 to 63, got -1"),
    (record(similarity=64), "similarity must be within 0 to 63, got 64"),
    (record(similarity=0.31), "similarity must be an integer, got 0.31"),
    (record(similarity=3, alignment_level=3), "alignment_level 3 and similarity 3 disagree"),
    (record(image="missing.png"), "no such file"),
    (record(image="empty.jpg"), "empty file (0 bytes)"),
    (record(image="text.jpg"), "not an image"),
    (record(image="bomb.png"), "decompression bomb: declares 30000 x 30000 pixels"),
    (record(image="a\0.png"), "embedded null byte"),
]
BAD_PAIRS: list[tuple[Any, str]] = [
    (record(id=...), "no id"),
    (record(id=""), "no id"),
    (record(id="good"), "duplicate id, also that of record 0"),
    (record(image=...), "a pair has one image, this record has none"),
    (record(image=["0.png", "1.png"]), "a pair has one image, this record has 2"),
    (record(conversations=turns("<image>", "x", "And?", "y")), "a pair has two turns (<image> and its caption)"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_RECORDS + BAD_PAIRS)
def test_a_bad_pair_is_listed_and_its_neighbours_are_read(tmp_path: Path, images: Path, bad: Any, reason: str) -> None:
    path = write(tmp_path, [record(id="good"), bad, record(id="after")], "pairs.jsonl")
    result = read_pairs(path, images)
    assert [pair.id for pair in result.records] == ["good", "after"]
    (listed,) = result.bad
    assert reason in listed.reason
    assert (listed.source, listed.line, listed.index) == (str(path), 2, 1)
    assert str(listed).startswith(f"{path}:2: ") and "\n" not in str(listed)
    with pytest.raises(StrictDataError, match="1 of 3 records are bad: "):
        result.raise_if_bad()


@pytest.mark.parametrize(("bad", "reason"), BAD_RECORDS)
def test_a_bad_conversation_is_listed(tmp_path: Path, images: Path, bad: Any, reason: str) -> None:
    result = read_conversations(write(tmp_path, [bad, record(id="after")]), images)
    assert [conversation.id for conversation in result.records] == ["after"]
    (listed,) = result.bad
    assert reason in listed.reason
    assert (listed.line, listed.index) == (None, 0)


@pytest.mark.parametrize("image", [..., None, []])
def test_an_image_placeholder_without_an_image_is_words(tmp_path: Path, images: Path, image: Any) -> None:
    said = ("What is <image>?", "<image> marks an image.", "<image><image>", "Two.")
    result = read_conversations(write(tmp_path, [record(image=image, conversations=turns(*said))]), images)
    assert result.bad == []
    assert result.records[0].images == ()
    assert tuple(turn.text for turn in result.records[0].turns) == said


def test_an_answer_before_the_first_question_is_left_out(tmp_path: Path, images: Path) -> None:
    hello = {"from": "gpt", "value": "Hello."}
    records = [record(id=name, conversations=[hello, *turns("<image>", "A cat.")]) for name in "ab"]
    path = write(tmp_path, records)
    asked_and_answered = (Turn("user", "<image>"), Turn("assistant", "A cat."))
    assert [conversation.turns for conversation in read_conversations(path, images).records] == [asked_and_answered] * 2
    assert read_pairs(path, images).records == [ImageTextPair(name, "0.png", "A cat.") for name in "ab"]


def test_broken_lines_are_listed_with_their_line_numbers(tmp_path: Path, images: Path) -> None:
    good = [json.dumps(record(id=str(number))).encode() for number in range(3)]
    lines = [b"\xef\xbb\xbf" + good[0], b'{"id": "x",', b"", b"\xff{}", good[1] + b"\r", b"[" * 100_000, good[2], b""]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    result = read_pairs(tmp_path / "pairs.jsonl", images)
    assert [pair.id for pair in result.records] == ["0", "1", "2"]
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
        (b"", r"pairs\.json:1:1: broken JSON"),
        (b'["\n\xff"]', r"pairs\.json:2: not UTF-8"),
        (b'{"id": "a"}', r"pairs\.json: expected a JSON array of records, got an object"),
    ],
)
def test_a_broken_array_is_an_error_that_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "pairs.json", tmp_path)


def test_missing_files_and_other_suffixes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pairs\.json: no such file"):
        read_pairs(tmp_path / "pairs.json", tmp_path)
    with pytest.raises(ValueError, match=r"pairs\.csv: expected a \.json, \.jsonl or \.ndjson file, got \.csv"):
        read_pairs(tmp_path / "pairs.csv", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: no such image folder"):
        read_pairs(write(tmp_path, [record()]), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="check_images must be"):
        read_pairs(write(tmp_path, [record()]), tmp_path, check_images="all")  # type: ignore[arg-type]


def test_how_far_images_are_checked(tmp_path: Path, images: Path) -> None:
    names = ["0.png", "missing.png", "truncated.jpg"]
    path = write(tmp_path, [record(id=name, image=name) for name in names])
    read = {check: read_pairs(path, images, check_images=check).records for check in ("none", "header", "decode")}
    assert {check: [pair.id for pair in pairs] for check, pairs in read.items()} == {
        "none": names,
        "header": ["0.png", "truncated.jpg"],
        "decode": ["0.png"],
    }


def test_each_image_is_looked_at_once(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("aligngpt.data.schema.check_header", lambda path: looked.append(path.name))
    records = [record(id=str(number), image=f"{number % 3}.png") for number in range(300)]
    assert len(read_pairs(write(tmp_path, records), images).records) == 300
    assert sorted(looked) == ["0.png", "1.png", "2.png"]


def test_bad_records_stand_in_the_files_order(tmp_path: Path, images: Path) -> None:
    images_of = ["missing.png", "0.png", "/0.png", "1.png", "empty.jpg", "../x"]
    records = [record(id=str(number), image=image) for number, image in enumerate(images_of)]
    result = read_pairs(write(tmp_path, records), images)
    assert [bad.index for bad in result.bad] == [0, 2, 4, 5]
    assert [bad.image for bad in result.bad] == ["missing.png", "/0.png", "empty.jpg", "../x"]
    assert [pair.id for pair in result.records] == ["1", "3"]


def test_strict_names_the_first_few_and_counts_the_rest(tmp_path: Path, images: Path) -> None:
    result = read_pairs(write(tmp_path, [record(id=f"p{number}", image="no.png") for number in range(9)]), images)
    with pytest.raises(StrictDataError) as caught:
        result.raise_if_bad()
    message = str(caught.value)
    assert message.startswith("9 of 9 records are bad: ") and message.endswith("; and 4 more")
    assert "id p4" in message and "id p5" not in message and "\n" not in message


def test_a_bad_record_in_one_line() -> None:
    bad = BadRecord("pairs.json", None, 17, "a", "0.png", "no such file")
    assert str(bad) == "pairs.json: record 17, id a, image 0.png: no such file"
    assert str(BadRecord("pairs.jsonl", 3, 2, None, None, "broken\nJSON")) == "pairs.jsonl:3: broken JSON"


@pytest.mark.parametrize("name", ["out.json", "out.jsonl"])
def test_written_pairs_are_read_back(tmp_path: Path, images: Path, name: str) -> None:
    pairs = [ImageTextPair("a", "0.png", "Schön\n", 3), ImageTextPair("b", "1.png", "x", None, "What?\n<image>")]
    write_pairs(tmp_path / name, pairs)
    assert read_pairs(tmp_path / name, images).records == pairs
    first = (tmp_path / name).read_text(encoding="utf-8").splitlines()[0 if name == "out.jsonl" else 1].rstrip(",")
    conversations = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "Schön\n"}]
    assert json.loads(first) == {"id": "a", "image": "0.png", "conversations": conversations, "alignment_level": 3}
    with pytest.raises(ValueError, match=r"out\.csv: expected"):
        write_pairs(tmp_path / "out.csv", pairs)


def test_no_pairs_are_written_as_an_empty_array(tmp_path: Path) -> None:
    write_pairs(tmp_path / "out.json", [])
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_photos_are_read(photos: Path) -> None:
    pairs = read_pairs(photos / "pairs.json", photos / "images")
    conversations = read_conversations(photos / "instructions.json", photos / "images")
    assert (len(pairs.records), pairs.bad) == (192, [])
    assert (len(conversations.records), conversations.bad) == (60, [])
    assert sum(not conversation.images for conversation in conversations.records) == 12


def test_broken_photos_are_named_with_their_reasons(photos: Path, tmp_path: Path) -> None:
    known = json.loads((photos / "broken" / "broken.json").read_text())
    records = [record(id=entry["image"], image=entry["image"]) for entry in known]
    result = read_pairs(write(tmp_path, records), photos / "broken", check_images="decode")
    assert {bad.image for bad in result.bad} == {entry["image"] for entry in known if not entry["readable"]}
    assert [pair.image for pair in result.records] == [entry["image"] for entry in known if entry["readable"]]


def test_a_file_without_a_good_record_asks_for_the_right_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    source = tmp_path / "pairs.json"
    source.write_text(json.dumps([record(image="gone.png")]))
    with pytest.raises(
        ValueError, match=r"1 records and none of them can be used, the first is .*gone\.png: no such file"
    ):
        read_pairs(source, tmp_path / "images").raise_if_empty()
