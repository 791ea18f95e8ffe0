"""Every official score and verdict, on real and on adversarial answers.

Reads `benchmarks/` from the folder `shared` beside the repository, whose labels and answers belong to others; skipped
elsewhere.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS, llava_bench, pope, scienceqa
from aligngpt.evaluation.benchmarks import vqa_normalization as vqa
from aligngpt.evaluation.benchmarks.mme import read_yes_no
from aligngpt.evaluation.benchmarks.option_matching import infer_option
from aligngpt.evaluation.readers import load_json, load_records, read_predictions
from aligngpt.evaluation.scoring import score_files
from tests.evaluation.benchmark_files import counts

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "benchmarks"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/benchmarks beside the repository")


def scored(name: str, labels: str | tuple[str, ...], answers: str, **options: Any) -> dict[str, Any]:
    paths = [SHARED / one for one in ((labels,) if isinstance(labels, str) else labels)]
    return score_files(BENCHMARKS[name], paths, SHARED / answers, **options).model_dump(mode="json")


def expected(path: str) -> Any:
    return load_json(SHARED / path)


def same(found: Any, wanted: Any) -> None:
    """What is wanted is there, whole numbers and texts exactly, others to the last digits of a float."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            same(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-13, abs=1e-13)
    else:
        assert found == wanted


def by_id(result: dict[str, Any]) -> dict[str, float]:
    return {str(sample["id"]): sample["score"] for sample in result["samples"]}


def rounded(result: dict[str, Any]) -> dict[str, float]:
    return {name: round(100 * score, 2) for name, score in by_id(result).items()}


# ---------------------------------------------------------------------------------------------- VQAv2, VizWiz, TextVQA


def test_vqav2_after_conversion() -> None:
    result = scored("vqav2", "vqav2/annotations.json.gz", "vqav2/answers_synthetic.jsonl.gz")
    wanted = expected("vqav2/expected_synthetic.json")
    same(result["details"], wanted["official_on_submission_expected"])
    assert result["formatted"] == "77.63"
    assert result["counts"] == counts(289, 6, 0, 0)
    again = scored("vqav2", "vqav2", "vqav2/submission_expected.json.gz")
    assert by_id(again) == by_id(result)
    assert result["score"] == pytest.approx(wanted["overall_unrounded_on_submission_expected"], abs=1e-6)
    assert rounded(result) == wanted["per_question_submission"]


def test_vqav2_raw() -> None:
    result = scored("vqav2", "vqav2", "vqav2/raw_submission_synthetic.json.gz")
    wanted = expected("vqav2/expected_synthetic.json")
    same(result["details"], wanted["official_on_raw_submission_synthetic"])
    assert rounded(result) == wanted["per_question_raw"]
    assert result["formatted"] == "60.88"


def test_vqav2_conversion(tmp_path: Path) -> None:
    questions = [
        {"question_id": one["question_id"], "image": "x.jpg", "text": one["question"]}
        for one in expected("vqav2/questions.json.gz")["questions"]
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    answers = read_predictions(SHARED / "vqav2/answers_synthetic.jsonl.gz")
    write = BENCHMARKS["vqav2"].write_submission
    assert write is not None
    write(tmp_path / "questions.jsonl", answers, tmp_path / "upload.json")
    assert load_json(tmp_path / "upload.json") == expected("vqav2/submission_expected.json.gz")


@pytest.mark.parametrize(("name", "key"), [("vqav2", "question_id"), ("vizwiz", "image")])
def test_adversarial_answers_of_one_word(name: str, key: str, tmp_path: Path) -> None:
    wanted = expected(f"{name}/adversarial/expected.json")
    labels = f"{name}/adversarial/annotations.json"
    raw = scored(name, labels, f"{name}/adversarial/raw_submission.json")
    assert {one[key]: vqa.normalize(one["prediction"]) for one in wanted["per_item"]} == {
        one[key]: one["converted"] for one in wanted["per_item"]
    }
    lines = [{"question_id": one[key], "prompt": "?", "text": one["prediction"]} for one in wanted["per_item"]]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    converted = score_files(BENCHMARKS[name], [SHARED / labels], tmp_path / "answers.jsonl").model_dump(mode="json")
    for result, kind in ((raw, "raw"), (converted, "converted")):
        verdicts = {str(one[key]): one[f"score_{kind}"] for one in wanted["per_item"]}
        assert rounded(result) == verdicts
    same(raw["details"], wanted["official_raw"])
    same(converted["details"], wanted["official_after_conversion"])


@pytest.mark.parametrize(
    ("model", "formatted"), [("zero_shot_git_large", "27.86"), ("skill_aware_clip_nsctxt", "47.51")]
)
def test_vizwiz(model: str, formatted: str, tmp_path: Path) -> None:
    submission = f"vizwiz/submission_{model}.json.gz"
    result = scored("vizwiz", "vizwiz", submission)
    wanted = expected(f"vizwiz/expected_{model}.json")
    same(result["details"], wanted["official"])
    assert result["score"] == pytest.approx(wanted["overall_unrounded"], abs=1e-8)
    assert result["formatted"] == formatted
    assert rounded(result) == wanted["per_image"]
    lines = [{"question_id": one["image"], "text": one["answer"]} for one in load_json(SHARED / submission)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    converted = score_files(BENCHMARKS["vizwiz"], [SHARED / "vizwiz"], tmp_path / "answers.jsonl").model_dump(
        mode="json"
    )
    same(converted["details"], wanted["official_after_llava_conversion"])


def test_vizwiz_conversion(tmp_path: Path) -> None:
    write = BENCHMARKS["vizwiz"].write_submission
    assert write is not None
    answers = read_predictions(SHARED / "vizwiz/answers_llava-v1.5-13b_test_part.jsonl.gz")
    write(SHARED / "vizwiz/llava_test_part.jsonl.gz", answers, tmp_path / "upload.json")
    upload = expected("vizwiz/expected_upload_llava-v1.5-13b_test_part.json.gz")
    assert load_json(tmp_path / "upload.json") == upload


def test_textvqa() -> None:
    result = scored("textvqa", "textvqa", "textvqa/answers_llava-v1.5-13b.jsonl.gz")
    wanted = expected("textvqa/expected_llava-v1.5-13b.json")
    same(result["details"], wanted["official"])
    assert sum(sample["score"] for sample in result["samples"]) == pytest.approx(wanted["per_item_sum"], abs=1e-9)
    assert [sample["score"] for sample in result["samples"][:50]] == wanted["first_50"]


def test_textvqa_adversarial() -> None:
    result = scored("textvqa", "textvqa/adversarial", "textvqa/adversarial/answers.jsonl")
    wanted = expected("textvqa/adversarial/expected.json")
    same(result["details"], wanted["official"])
    labels = expected("textvqa/adversarial/labels.json")["data"]
    for sample, one, label in zip(result["samples"], wanted["per_item"], labels, strict=True):
        assert (sample.get("text"), sample["prediction"], sample["score"]) == (
            one["text"],
            one["normalised_text"],
            one["score"],
        )
        assert [vqa.normalize(person) for person in label["answers"]] == one["answers_normalised"]


# ------------------------------------------------------------------------------------------------------------------ GQA


@pytest.mark.parametrize(
    ("labels", "answers", "wanted"),
    [
        ("gqa", "gqa/answers_llava-v1.5-13b.jsonl.gz", "gqa/expected_llava-v1.5-13b.json"),
        ("gqa/adversarial", "gqa/adversarial/answers.jsonl", "gqa/adversarial/expected.json"),
    ],
)
def test_gqa(labels: str, answers: str, wanted: str) -> None:
    result = scored("gqa", labels, answers)
    official = expected(wanted)["official"]
    same(result["details"], official)
    assert result["details"]["detailed"] == official["detailed"]
    verdicts = {sample["id"]: sample for sample in result["samples"]}
    for one in expected(wanted).get("per_item", []):
        sample = verdicts[one["question_id"]]
        assert (sample["prediction"], sample["score"] == 1) == (one["prediction"], one["correct"])


# ------------------------------------------------------------------------------------------------------------ ScienceQA


@pytest.mark.parametrize(
    ("labels", "answers", "wanted"),
    [
        (("scienceqa",), "answers_llava-v1.5-13b.jsonl.gz", "expected_llava-v1.5-13b.json"),
        (
            ("scienceqa", "scienceqa/pid_splits_llava-sqa-13b-lcs558k_1000.json"),
            "answers_llava-sqa-13b-lcs558k_1000.jsonl.gz",
            "expected_llava-sqa-13b-lcs558k_1000.json",
        ),
        (("scienceqa/adversarial",), "adversarial/answers.jsonl", "adversarial/expected.json"),
    ],
)
def test_scienceqa(labels: tuple[str, ...], answers: str, wanted: str) -> None:
    result = scored("scienceqa", labels, f"scienceqa/{answers}")
    official = expected(f"scienceqa/{wanted}")
    formatted = official["official"].pop("printed")
    same(result["details"], official["official"])
    assert formatted.endswith(f"IMG-Accuracy: {result['formatted']}%")
    parsed = {sample["id"]: sample["prediction"] for sample in result["samples"]}
    assert {
        letter: list(parsed.values()).count(letter) for letter in official.get("parsed_counts", {})
    } == official.get("parsed_counts", {})
    assert parsed.items() >= official.get("parsed", {}).items()
    for one in official.get("per_item", []):
        assert parsed[one["pid"]] == one["parsed"]
        assert scienceqa.read_option(one["text"] or "") == one["parsed"]
        sample = next(sample for sample in result["samples"] if sample["id"] == one["pid"])
        assert sample["score"] == float(one["pred_index"] == one["answer"])


def test_scienceqa_strict_counts_unanswered_images() -> None:
    strict = scored("scienceqa", "scienceqa/adversarial", "scienceqa/adversarial/answers.jsonl", protocol="strict")
    images = [one for one in expected("scienceqa/adversarial/problems.json").values() if one["image"]]
    assert strict["details"]["img_total"] == len(images) == 21  # the official 20 and the one without an answer
    assert strict["score"] == pytest.approx(100 * 7 / 21)
    assert any("stored prompts" in note for note in strict["notes"])


# ----------------------------------------------------------------------------------------------------------- POPE, MME


@pytest.mark.parametrize("labels", ["pope", "pope/coco"])
def test_pope(labels: str) -> None:
    result = scored("pope", labels, "pope/answers_llava-v1.5-13b.jsonl.gz")
    official = expected("pope/expected_llava-v1.5-13b.json")["official"]
    same(result["details"], official)
    assert result["formatted"] == "85.95"
    for subset in ("random", "popular", "adversarial"):
        assert result["groups"]["subset"][subset]["score"] == pytest.approx(100 * official[subset]["f1"], abs=1e-9)
    assert result["protocols"]["official"] == result["protocols"]["strict"]


@pytest.mark.parametrize("labels", ["", "/labels", "/labels/coco_pope_adversarial.json"])
def test_pope_adversarial(labels: str) -> None:
    result = scored("pope", f"pope/adversarial{labels}", "pope/adversarial/answers.jsonl")
    wanted = expected("pope/adversarial/expected.json")
    same(result["details"], wanted["official"])
    for sample, one in zip(result["samples"], wanted["per_item"], strict=True):
        assert (sample["id"], sample.get("text"), sample["label"], sample["prediction"]) == tuple(one.values())
        assert pope.read_yes_no(one["text"]) == one["parsed"]


def test_mme() -> None:
    result = scored("mme", "mme", "mme/answers_llava-v1.5-13b.jsonl.gz")
    same(result["details"], expected("mme/expected_llava-v1.5-13b.json")["official"])
    assert result["formatted"] == "1531.32"
    strict = scored("mme", "mme/eval_tool/Your_Results", "mme/answers_llava-v1.5-13b.jsonl.gz", protocol="strict")
    assert strict["score"] == pytest.approx(result["score"], abs=1e-9)
    for task, value in result["details"]["tasks"].items():
        assert result["groups"]["task"][task]["score"] == pytest.approx(value, abs=1e-9)


def test_mme_finished_lines(tmp_path: Path) -> None:
    official = expected("mme/expected_lavin.json")["official"]
    lines = [record for _, record in load_records(SHARED / "mme/lavin_result_lines.jsonl.gz")]
    for one in lines:
        with open(tmp_path / f"{one['category']}.txt", "a", encoding="utf-8") as file:
            file.write(one["line"] + "\n")
    for answers in (tmp_path, SHARED / "mme/lavin_result_lines.jsonl.gz"):
        for labels in ([], [SHARED / "mme"]):
            same(score_files(BENCHMARKS["mme"], labels, answers).details, official)


def test_mme_adversarial() -> None:
    result = scored("mme", "mme/adversarial/results", "mme/adversarial/results")
    wanted = expected("mme/adversarial/expected.json")
    same(result["details"], wanted["official"])
    parts = [
        (sample["groups"]["task"], part["id"], part.get("text"), part["label"], part["prediction"])
        for sample in result["samples"]
        for part in sample["parts"]
    ]
    assert sorted(map(str, parts)) == sorted(str(tuple(one.values())) for one in wanted["per_item"])
    assert all(read_yes_no(one["answer"] + "\n") == one["parsed"] for one in wanted["per_item"])


# ------------------------------------------------------------------------------------------------------ option letters


def test_mmbench() -> None:
    result = scored("mmbench", "mmbench", "mmbench/answers_llava-v1.5-13b.jsonl.gz")
    same(result["details"], expected("mmbench/expected_llava-v1.5-13b.json")["official"])
    assert result["formatted"] == "67.86"


@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_letters_out_of_free_answers(name: str) -> None:
    folder = "mmbench/adversarial" if name == "mmbench" else "mmbench_cn"
    result = scored(name, folder, f"{folder}/answers.jsonl")
    wanted = expected(f"{folder}/expected.json")
    same(result["details"], wanted["official_exact_matching"])
    same(result["details"]["plain_letter_equality"], wanted.get("plain_letter_equality", {}))
    hits = {str(one["id"]): int(one["score"]) for one in result["samples"] if "aggregation_group" not in one}
    assert hits == wanted["per_question_hit"]
    inferred = {part["id"]: part.get("prediction") for sample in result["samples"] for part in sample["parts"]}
    assert inferred == {one["index"]: one["inferred"] for one in wanted["per_row_inferred"]}
    rows = {row.index: row for row in BENCHMARKS[name].read_labels([SHARED / folder])}
    for one in wanted["per_row_inferred"]:
        text = "nan" if one["prediction"] is None else one["prediction"]
        assert infer_option(text, rows[one["index"]].options) == one["inferred"]


def test_seed() -> None:
    result = scored("seed", "seed_bench", "seed_bench/answers_llava-v1.5-13b_image.jsonl.gz")
    same(result["details"], expected("seed_bench/expected_llava-v1.5-13b_image.json")["official"])


def test_seed_adversarial(tmp_path: Path) -> None:
    labels = "seed_bench/adversarial/SEED-Bench.json"
    result = scored("seed", labels, "seed_bench/adversarial/answers.jsonl")
    wanted = expected("seed_bench/adversarial/expected.json")
    assert result["details"]["printed"] == wanted["official_printed"]
    for sample, one in zip(result["samples"], wanted["per_item"], strict=True):
        assert (sample["id"], sample.get("text"), sample["label"], sample["score"] == 1) == tuple(one.values())
    uploads = [value for value in wanted.values() if isinstance(value, list) and "prediction" in value[0]]
    write = BENCHMARKS["seed"].write_submission
    assert write is not None and len(uploads) == 1
    write(SHARED / labels, read_predictions(SHARED / "seed_bench/adversarial/answers.jsonl"), tmp_path / "upload.jsonl")
    assert [record for _, record in load_records(tmp_path / "upload.jsonl")] == uploads[0]


def test_seed_upload(tmp_path: Path) -> None:
    write = BENCHMARKS["seed"].write_submission
    assert write is not None
    answers = read_predictions(SHARED / "seed_bench/answers_llava-v1.5-13b_image.jsonl.gz")
    write(SHARED / "seed_bench/labels_image.jsonl.gz", answers, tmp_path / "upload.jsonl")
    first = (tmp_path / "upload.jsonl").read_text().splitlines()[:200]
    assert first == (SHARED / "seed_bench/expected_upload_first_200.jsonl").read_text().splitlines()


# --------------------------------------------------------------------------------------------------------------- judges


def test_llava_bench() -> None:
    wanted = expected("llava_bench_wild/expected_llava-v1.5-13b.json")
    relative = []
    without = wanted["official"].pop("eval1_without_questions_0_1_2")
    first = "llava_bench_wild/reviews_llava-v1.5-13b-eval1.jsonl"
    assert scored("llava_bench", (), first, ignore=("0", "1", "2"))["details"] == without
    for run, official in wanted["official"].items():
        reviews = f"llava_bench_wild/reviews_llava-v1.5-13b-{run}.jsonl"
        result = scored("llava_bench", "llava_bench_wild", reviews)
        assert result["details"] == official
        relative.append(result["details"]["all"]["relative"])
        assert result["formatted"] == str(official["all"]["relative"])
        for _, review in load_records(SHARED / reviews):
            assert list(llava_bench.read_review(review["content"])) == review["tuple"]
    assert round(sum(relative) / 3, 2) == wanted["mean_relative_of_three_runs"]


def test_llava_bench_adversarial() -> None:
    wanted = expected("llava_bench_wild/adversarial/expected.json")
    reviews = SHARED / "llava_bench_wild/adversarial/reviews.jsonl"
    result = score_files(BENCHMARKS["llava_bench"], [], reviews).model_dump(mode="json")
    assert result["details"] == wanted["official"]
    fewer = score_files(BENCHMARKS["llava_bench"], [], reviews, ignore=("3", "4")).model_dump(mode="json")
    assert fewer["details"] == wanted["official_ignoring_questions_3_and_4"]
    for one in expected("llava_bench_wild/adversarial/parse_expected.json")["per_item"]:
        marks = [None if math.isnan(mark) else mark for mark in llava_bench.read_review(one["content"])]
        assert marks == one["tuple"], one


def test_mmvet(tmp_path: Path) -> None:
    wanted = expected("mm_vet/expected_llava-v1.5-13b.json")["official"]
    for runs, official in wanted.items():
        result = scored("mmvet", "mm_vet", f"mm_vet/grades_llava-v1.5-13b_{runs}.json")
        assert result["details"] == official
        assert result["formatted"] == str(official["cap-score"]["total"])
    answers = read_predictions(SHARED / "mm_vet/answers_llava-v1.5-13b.jsonl")
    write = BENCHMARKS["mmvet"].write_submission
    assert write is not None
    write(SHARED / "mm_vet/llava-mm-vet.jsonl", answers, tmp_path / "results.json")
    assert load_json(tmp_path / "results.json") == expected("mm_vet/results_llava-v1.5-13b.json")


def test_mmvet_adversarial() -> None:
    result = scored("mmvet", "mm_vet", "mm_vet/adversarial/grades_5runs.json")
    assert result["details"] == expected("mm_vet/adversarial/expected.json")["official"]


# ------------------------------------------------------------------------------------------------------- the whole lot


REAL = {
    "vqav2": ("vqav2", "vqav2/answers_synthetic.jsonl.gz"),
    "gqa": ("gqa", "gqa/answers_llava-v1.5-13b.jsonl.gz"),
    "vizwiz": ("vizwiz", "vizwiz/submission_skill_aware_clip_nsctxt.json.gz"),
    "scienceqa": ("scienceqa", "scienceqa/answers_llava-v1.5-13b.jsonl.gz"),
    "textvqa": ("textvqa", "textvqa/answers_llava-v1.5-13b.jsonl.gz"),
    "pope": ("pope", "pope/answers_llava-v1.5-13b.jsonl.gz"),
    "mme": ("mme", "mme/answers_llava-v1.5-13b.jsonl.gz"),
    "mmbench": ("mmbench", "mmbench/answers_llava-v1.5-13b.jsonl.gz"),
    "mmbench_cn": ("mmbench_cn", "mmbench_cn/answers.jsonl"),
    "seed": ("seed_bench", "seed_bench/answers_llava-v1.5-13b_image.jsonl.gz"),
    "llava_bench": ("llava_bench_wild", "llava_bench_wild/reviews_llava-v1.5-13b-eval1.jsonl"),
    "mmvet": ("mm_vet", "mm_vet/grades_llava-v1.5-13b_3runs.json"),
}


def test_all_twelve_in_half_a_minute() -> None:
    assert [*REAL, "synthetic"] == list(BENCHMARKS)
    start = time.monotonic()
    results = {name: scored(name, *files) for name, files in REAL.items()}
    seconds = time.monotonic() - start
    print(f"the twelve real files: {seconds:.1f} s")
    assert seconds < 30
    for name, result in results.items():
        low, high = result["ci95"]
        assert low < result["score"] < high, name
        assert result["counts"]["n_missing"] == (6 if name == "vqav2" else 0)
        assert result["counts"]["n_extra"] == 0


@pytest.mark.parametrize("name", ["gqa", "textvqa", "seed", "pope"])
def test_answers_of_windows_are_the_same(name: str, tmp_path: Path) -> None:
    labels, answers = REAL[name]
    content = gzip.decompress((SHARED / answers).read_bytes())
    (tmp_path / "answers.jsonl").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    result = score_files(BENCHMARKS[name], [SHARED / labels], tmp_path / "answers.jsonl").model_dump(mode="json")
    assert result["samples"] == scored(name, labels, answers)["samples"]
