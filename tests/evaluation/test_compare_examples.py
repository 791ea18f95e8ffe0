"""The questions on which two models differ: which are chosen, and how they are found in each benchmark's files."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.artifacts import ComparedModel, Comparison, DifferingSample
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.compare import add_examples, compare
from tests.evaluation.benchmark_files import answer_lines, write_json, write_lines


def comparison(benchmark: str, differing: list[DifferingSample]) -> Comparison:
    sides = {
        name: ComparedModel(name=name, source=name, score=50, n_better=0, judge=None) for name in ("model", "baseline")
    }
    return Comparison(
        benchmark=benchmark, title=benchmark, metric="accuracy", protocol="official", **sides, n_samples=1,
        n_unpaired=0, n_equal=0, difference=0, ci95=(0, 0), test="McNemar", p_value=1, differing=differing,
    )  # fmt: skip


def differs(name: Any, model: float = 1, baseline: float = 0) -> DifferingSample:
    return DifferingSample(id=name, label=None, scores=(model, baseline), texts=("a", "b"))


def examples(benchmark: str, names: list[Any], data: Path, answers: tuple[Path, ...] = ()) -> list[DifferingSample]:
    result = add_examples(comparison(benchmark, [differs(name) for name in names]), data, answers)
    assert result.examples_note is None
    return sorted(result.examples, key=lambda one: str(one.id))


def test_as_many_for_the_one_as_for_the_other() -> None:
    many = [differs(i) for i in range(50)] + [differs(i, 0, 1) for i in range(50, 90)]
    chosen = add_examples(comparison("gqa", many), None, num_examples=10)
    assert chosen.examples_note == "pass --data with the folder of the benchmark files"
    assert [one.scores for one in chosen.examples] == [(1, 0)] * 5 + [(0, 1)] * 5
    assert len({one.id for one in chosen.examples}) == 10
    assert chosen == add_examples(comparison("gqa", many), None, num_examples=10)
    assert {one.id for one in chosen.examples} != {0, 1, 2, 3, 4, 50, 51, 52, 53, 54}


@pytest.mark.parametrize(
    ("first", "second", "number", "wanted"),
    [(9, 2, 6, (4, 2)), (1, 9, 6, (1, 5)), (1, 1, 6, (1, 1)), (9, 9, 0, (0, 0)), (9, 9, 5, (2, 3))],
)
def test_a_short_side_leaves_its_room_to_the_other(
    first: int, second: int, number: int, wanted: tuple[int, int]
) -> None:
    many = [differs(i) for i in range(first)] + [differs(i, 0, 1) for i in range(10, 10 + second)]
    found = add_examples(comparison("gqa", many), None, num_examples=number).examples
    assert (sum(int(one.id) < 10 for one in found), sum(int(one.id) >= 10 for one in found)) == wanted


def test_the_widest_differences_come_first() -> None:
    many = [differs(i, 0.5, 0.4) for i in range(40)] + [differs(40, 1, 0), differs(41, 0, 0.9)]
    found = add_examples(comparison("vqav2", many), None, num_examples=2).examples
    assert [one.id for one in found] == [40, 41]


def test_question_and_image(tmp_path: Path) -> None:
    prompt = "What?\nAnswer the question using a single word or phrase."
    lines = [
        {"question_id": 1, "image": "a/1.jpg", "text": prompt},
        {"question_id": 2, "image": "../2.jpg", "text": "Q"},
    ]
    path = write_lines(tmp_path / "gqa" / "llava_gqa_testdev_balanced.jsonl", lines)
    one, two, other = examples("gqa", ["1", "2", "3"], tmp_path)
    assert (one.question, one.image) == ("What?", tmp_path / "gqa/data/images/a/1.jpg")
    assert (two.question, two.image) == ("Q", None)  # it would lead out of the image folder
    assert (other.question, other.image, other.texts) == (None, None, ("a", "b"))
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert examples("gqa", ["1"], tmp_path)[0] == one
    missing = add_examples(comparison("pope", [differs(1)]), tmp_path).examples_note
    assert missing == f"{tmp_path} has no pope/llava_pope_test.jsonl"


def test_vizwiz_goes_by_image(tmp_path: Path) -> None:
    write_lines(tmp_path / "vizwiz" / "llava_test.jsonl", [{"question_id": 0, "image": "V_1.jpg", "text": "Q"}])
    assert examples("vizwiz", ["V_1.jpg"], tmp_path)[0].image == tmp_path / "vizwiz/test/V_1.jpg"


def test_mme_has_both_questions_of_a_image(tmp_path: Path) -> None:
    lines = [
        {"question_id": "OCR/0001.png", "image": "OCR/0001.png", "text": text} for text in ("Is it A?", "Is it B?")
    ]
    write_lines(tmp_path / "MME" / "llava_mme.jsonl", lines)
    (one,) = examples("mme", ["OCR/0001"], tmp_path)
    assert one.question == "Is it A?\nIs it B?"
    assert one.image == tmp_path / "MME/MME_Benchmark_release_version/OCR/0001.png"


def test_textvqa_finds_the_number_in_the_labels(tmp_path: Path) -> None:
    lines = [
        {"question_id": "p", "image": "p.jpg", "text": f"{text}\nReference OCR token: \nAnswer the question."}
        for text in "AB"
    ]
    write_lines(tmp_path / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl", lines)
    assert examples("textvqa", [8], tmp_path)[0].question is None
    entries = [
        {"question_id": 7 + i, "image_id": "p", "question": text, "answers": ["x"]} for i, text in enumerate("aB")
    ]
    write_json(tmp_path / "textvqa" / "TextVQA_0.5.1_val.json", {"data": entries})
    assert examples("textvqa", [8], tmp_path)[0].question == "B"


def test_a_benchmark_says_itself_how_its_items_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(
        tmp_path / "gqa" / "llava_gqa_testdev_balanced.jsonl", [{"question_id": 1, "image": "1.jpg", "text": "Q"}]
    )
    named = replace(BENCHMARKS["gqa"], sample_ids=lambda questions, labels: [f"item {one.id}" for one in questions])
    monkeypatch.setitem(BENCHMARKS, "gqa", named)
    assert examples("gqa", ["item 1"], tmp_path)[0].question == "Q"


def test_how_to_answer_is_left_out_in_chinese_too(tmp_path: Path) -> None:
    table = tmp_path / "mmbench_cn" / "mmbench_dev_cn_20231003.tsv"
    table.parent.mkdir()
    table.write_text("index\tquestion\tA\tB\tanswer\n4\t\u95ee\tx\ty\tA\n", encoding="utf-8")
    assert examples("mmbench_cn", [4], tmp_path)[0].question == "\u95ee\nA. x\nB. y"


def test_mmbench_brings_its_image_along(tmp_path: Path) -> None:
    table = tmp_path / "mmbench" / "mmbench_dev_20230712.tsv"
    table.parent.mkdir()
    table.write_text("index\tquestion\tA\tB\tanswer\timage\n4\tq\tx\ty\tA\tAAAA\n1000004\tq\ty\tx\tB\tAAAA\n")
    (one,) = examples("mmbench", [4], tmp_path)
    assert (one.question, one.image) == ("q\nA. x\nB. y", b"\0\0\0")


def test_a_judged_answer_is_the_models_not_the_judges(tmp_path: Path) -> None:
    write_lines(tmp_path / "mm-vet" / "llava-mm-vet.jsonl", [{"question_id": 3, "image": "v1_3.png", "text": "Q"}])
    answers = answer_lines(tmp_path / "one.jsonl", {3: "said"})
    (one,) = examples("mmvet", ["v1_3"], tmp_path, (answers, tmp_path / "none.jsonl"))
    assert one.texts == ("said", "b")


def test_folders_need_a_benchmark_in_common(tmp_path: Path) -> None:
    message = r"no benchmark has a score\.json in both; pass two outputs of aligngpt eval run"
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, tmp_path)
