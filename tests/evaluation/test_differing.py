"""The questions on which two models differ: which are chosen, and how they are found in each benchmark's files."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.compare import compare_folders
from aligngpt.evaluation.differing import compare_outputs, differing_questions
from tests.evaluation.benchmark_files import answer_lines, write_json, write_lines


def comparison(benchmark: str, differing: list[dict[str, Any]]) -> dict[str, Any]:
    return {"benchmark": benchmark, "differing": differing}


def differs(name: Any, first: float = 1, second: float = 0) -> dict[str, Any]:
    return {"id": name, "label": None, "scores": [first, second], "texts": ["a", "b"]}


def shown(benchmark: str, names: list[Any], data: Path, answers: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    result = differing_questions(comparison(benchmark, [differs(name) for name in names]), data, answers)
    assert result["missing"] is None
    return sorted(result["shown"], key=lambda one: str(one["id"]))


def test_as_many_for_the_one_as_for_the_other() -> None:
    many = [differs(i) for i in range(50)] + [differs(i, 0, 1) for i in range(50, 90)]
    chosen = differing_questions(comparison("gqa", many), None, at_most=10)
    assert chosen["missing"] == "add --data with the folder of the benchmarks' files"
    assert [one["scores"] for one in chosen["shown"]] == [[1, 0]] * 5 + [[0, 1]] * 5
    assert len({one["id"] for one in chosen["shown"]}) == 10
    assert chosen == differing_questions(comparison("gqa", many), None, at_most=10)
    assert {one["id"] for one in chosen["shown"]} != {0, 1, 2, 3, 4, 50, 51, 52, 53, 54}


@pytest.mark.parametrize(
    ("first", "second", "at_most", "wanted"),
    [(9, 2, 6, (4, 2)), (1, 9, 6, (1, 5)), (1, 1, 6, (1, 1)), (9, 9, 0, (0, 0)), (9, 9, 5, (2, 3))],
)
def test_a_short_side_leaves_its_room_to_the_other(
    first: int, second: int, at_most: int, wanted: tuple[int, int]
) -> None:
    many = [differs(i) for i in range(first)] + [differs(i, 0, 1) for i in range(10, 10 + second)]
    found = differing_questions(comparison("gqa", many), None, at_most=at_most)["shown"]
    assert (sum(one["id"] < 10 for one in found), sum(one["id"] >= 10 for one in found)) == wanted


def test_the_widest_differences_come_first() -> None:
    many = [differs(i, 0.5, 0.4) for i in range(40)] + [differs(40, 1, 0), differs(41, 0, 0.9)]
    found = differing_questions(comparison("vqav2", many), None, at_most=2)["shown"]
    assert [one["id"] for one in found] == [40, 41]


def test_question_and_image(tmp_path: Path) -> None:
    prompt = "What?\nAnswer the question using a single word or phrase."
    lines = [
        {"question_id": 1, "image": "a/1.jpg", "text": prompt},
        {"question_id": 2, "image": "../2.jpg", "text": "Q"},
    ]
    path = write_lines(tmp_path / "gqa" / "llava_gqa_testdev_balanced.jsonl", lines)
    one, two, other = shown("gqa", ["1", "2", "3"], tmp_path)
    assert (one["question"], one["image"]) == ("What?", tmp_path / "gqa/data/images/a/1.jpg")
    assert (two["question"], two["image"]) == ("Q", None)  # it would lead out of the image folder
    assert (other["question"], other["image"], other["texts"]) == (None, None, ["a", "b"])
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert shown("gqa", ["1"], tmp_path)[0] == one
    missing = differing_questions(comparison("pope", [differs(1)]), tmp_path)["missing"]
    assert missing == f"{tmp_path} has no pope/llava_pope_test.jsonl"


def test_vizwiz_goes_by_image(tmp_path: Path) -> None:
    write_lines(tmp_path / "vizwiz" / "llava_test.jsonl", [{"question_id": 0, "image": "V_1.jpg", "text": "Q"}])
    assert shown("vizwiz", ["V_1.jpg"], tmp_path)[0]["image"] == tmp_path / "vizwiz/test/V_1.jpg"


def test_mme_has_both_questions_of_a_image(tmp_path: Path) -> None:
    lines = [
        {"question_id": "OCR/0001.png", "image": "OCR/0001.png", "text": text} for text in ("Is it A?", "Is it B?")
    ]
    write_lines(tmp_path / "MME" / "llava_mme.jsonl", lines)
    (one,) = shown("mme", ["OCR/0001"], tmp_path)
    assert one["question"] == "Is it A?\nIs it B?"
    assert one["image"] == tmp_path / "MME/MME_Benchmark_release_version/OCR/0001.png"


def test_textvqa_finds_the_number_in_the_labels(tmp_path: Path) -> None:
    lines = [
        {"question_id": "p", "image": "p.jpg", "text": f"{text}\nReference OCR token: \nAnswer the question."}
        for text in "AB"
    ]
    write_lines(tmp_path / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl", lines)
    assert shown("textvqa", [8], tmp_path)[0]["question"] is None
    entries = [
        {"question_id": 7 + i, "image_id": "p", "question": text, "answers": ["x"]} for i, text in enumerate("aB")
    ]
    write_json(tmp_path / "textvqa" / "TextVQA_0.5.1_val.json", {"data": entries})
    assert shown("textvqa", [8], tmp_path)[0]["question"] == "B"


def test_a_benchmark_says_itself_how_its_items_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(
        tmp_path / "gqa" / "llava_gqa_testdev_balanced.jsonl", [{"question_id": 1, "image": "1.jpg", "text": "Q"}]
    )
    named = replace(BENCHMARKS["gqa"], sample_ids=lambda questions, labels: [f"item {one.id}" for one in questions])
    monkeypatch.setitem(BENCHMARKS, "gqa", named)
    assert shown("gqa", ["item 1"], tmp_path)[0]["question"] == "Q"


def test_how_to_answer_is_left_out_in_chinese_too(tmp_path: Path) -> None:
    table = tmp_path / "mmbench_cn" / "mmbench_dev_cn_20231003.tsv"
    table.parent.mkdir()
    table.write_text("index\tquestion\tA\tB\tanswer\n4\t\u95ee\tx\ty\tA\n", encoding="utf-8")
    assert shown("mmbench_cn", [4], tmp_path)[0]["question"] == "\u95ee\nA. x\nB. y"


def test_mmbench_brings_its_image_along(tmp_path: Path) -> None:
    table = tmp_path / "mmbench" / "mmbench_dev_20230712.tsv"
    table.parent.mkdir()
    table.write_text("index\tquestion\tA\tB\tanswer\timage\n4\tq\tx\ty\tA\tAAAA\n1000004\tq\ty\tx\tB\tAAAA\n")
    (one,) = shown("mmbench", [4], tmp_path)
    assert (one["question"], one["image"]) == ("q\nA. x\nB. y", b"\0\0\0")


def test_a_judged_answer_is_the_models_not_the_judges(tmp_path: Path) -> None:
    write_lines(tmp_path / "mm-vet" / "llava-mm-vet.jsonl", [{"question_id": 3, "image": "v1_3.png", "text": "Q"}])
    answers = answer_lines(tmp_path / "one.jsonl", {3: "said"})
    (one,) = shown("mmvet", ["v1_3"], tmp_path, (answers, tmp_path / "none.jsonl"))
    assert one["texts"] == ["said", "b"]


def test_folders_need_a_benchmark_in_common(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no benchmark has a score\.json in both; give two outputs of aligngpt eval run"
    ):
        compare_folders(tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"score\.json in both"):
        compare_outputs(tmp_path, tmp_path, None, 3)
