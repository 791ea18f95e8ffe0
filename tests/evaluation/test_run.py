"""Runs on miniatures of the benchmarks: what they write, what they refuse, and that nothing is lost or asked twice."""

from __future__ import annotations

import base64
import json
import multiprocessing
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import entropy  # type: ignore[import-untyped]

from aligngpt.evaluation import parallel as workers
from aligngpt.evaluation.artifacts import BenchmarkScore
from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.run import evaluate
from aligngpt.evaluation.scoring import score_files
from aligngpt.evaluation.tasks import (
    EvalSettings,
    MissingData,
    PredictionRecord,
    append_predictions,
    open_task,
    read_worker_files,
)
from aligngpt.evaluation.types import EvalConfig
from aligngpt.synthetic.mock_benchmarks import write_mock_benchmarks
from aligngpt.utils.io import write_json
from aligngpt.utils.output_dir import exclusive_lock, shared_lock
from tests.evaluation.judge.judge_server import JudgeServer, Reply, completion
from tests.evaluation.mock_runs import MOCKED, content, lines, run, save_model

SERVED = ("vqav2", "vizwiz")
JUDGED = ("llava_bench", "mmvet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, miniatures, and a finished run of all benchmarks."""
    folder = tmp_path_factory.mktemp("runs")
    save_model(folder)
    write_mock_benchmarks(folder / "data", questions=12)
    write_json(folder / "data" / "dataset_info.json", {"note": "mock files"})
    run(folder / "model", folder / "data", folder / "whole")
    return folder


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    """Miniatures that a test may damage."""
    return Path(shutil.copytree(folder / "data", tmp_path / "data"))


def row_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = (row for row in results["benchmarks"] if row["benchmark"] == name)
    return row


# What is written -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MOCKED)
def test_answers_are_llavas_lines(name: str, folder: Path) -> None:
    benchmark = BENCHMARKS[name]
    asked = benchmark.read_questions(folder / "data" / benchmark.files.questions)
    given = lines(folder / "whole" / name / "answers.jsonl")
    assert [line["question_id"] for line in given] == [question.id for question in asked]
    assert [line["prompt"] for line in given] == [one.stored_prompt or one.prompt for one in asked]
    assert all(line["model_id"] == "model" for line in given)
    assert len({line["answer_id"] for line in given}) == len(given)
    for line, question in zip(given, asked, strict=True):
        assert list(line)[:6] == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
        assert {key: line[key] for key in list(line)[6:]} == question.extra
    assert len({line["text"] for line in given}) > 1
    assert not (folder / "whole" / name / "parts").exists()


def test_what_is_asked_is_the_question_in_the_template(folder: Path) -> None:
    task = open_task(
        BENCHMARKS["scienceqa"], EvalSettings(folder / "model", folder / "data", folder / "x", EvalConfig())
    )
    processor = workers.load_model(folder / "model", device="cpu")[1]
    imaged, told = (workers.build_question_prompt(task, place, processor) for place in (0, 2))
    question = task.questions[0].prompt
    assert question.endswith("\nAnswer with the option's letter from the given choices directly.")
    assert (
        processor.encode(imaged.text).input_ids
        == processor.encode(f"<s>USER: <image>\n{question} ASSISTANT:").input_ids
    )
    assert imaged.images == (folder / "data/scienceqa/images/test/1/image.png",)
    assert told.images == () and "<image>" not in told.text and "Context: " in told.text


@pytest.mark.parametrize("name", MOCKED)
def test_scores_and_submissions(name: str, folder: Path, tmp_path: Path) -> None:
    benchmark, own = BENCHMARKS[name], folder / "whole" / name
    row = row_of(json.loads((folder / "whole" / "results.json").read_text()), name)
    assert row["n_questions"] == len(lines(own / "answers.jsonl")) and row["n_unreadable_images"] == 0
    if name in SERVED or name in JUDGED:
        assert row["score"] is None and not (own / "score.json").exists()
        assert row["reasons"] == ["scored by a server" if name in SERVED else row["reasons"][0]]
    else:
        labels = [folder / "data" / label for label in benchmark.files.labels]
        result = score_files(benchmark, labels, own / "answers.jsonl")
        assert BenchmarkScore.read(own) == result
        assert (row["score"], row["formatted"], row["n_samples"]) == (result.score, result.formatted, result.n_samples)
        assert (row["n_missing"], row["reasons"]) == (0, [])
    submitted = list(own.glob("submission.*"))
    assert [path.name for path in submitted] == [row["submission"]] if benchmark.write_submission else not submitted


def test_the_submission_of_vqav2_is_of_the_whole_test(folder: Path) -> None:
    submitted = json.loads((folder / "whole/vqav2/submission.json").read_text())
    assert len(submitted) == 12 and sum(one["answer"] != "" for one in submitted) <= 6


def test_gates_by_kind_of_question(folder: Path) -> None:
    gates = json.loads((folder / "whole/pope/gate_stats.json").read_text())
    kinds = [one.kind for one in BENCHMARKS["pope"].read_questions(folder / "data/pope/llava_pope_test.jsonl")]
    given = [line["metadata"]["gate_weights"] for line in lines(folder / "whole/pope/answers.jsonl")]
    assert gates["overall"]["n_samples"] == 12 and {
        kind: one["n_samples"] for kind, one in gates["by_kind"].items()
    } == dict.fromkeys(("adversarial", "popular", "random"), 4)
    own = [weights for kind, weights in zip(kinds, given, strict=True) if kind == "random"]
    means = [sum(column) / 4 for column in zip(*own, strict=True)]
    assert gates["by_kind"]["random"]["weights"] == pytest.approx(means, abs=1e-5)
    assert gates["by_kind"]["random"]["entropy"] == pytest.approx(sum(map(entropy, own)) / 4, abs=1e-3)
    science = json.loads((folder / "whole/scienceqa/gate_stats.json").read_text())
    assert science["overall"]["n_samples"] == 8 and list(science["by_kind"]) == ["with image"]  # no image, no gate


def test_gates_of_tasks_that_are_scored_by_pairs(folder: Path) -> None:
    gates = json.loads((folder / "whole/mme/gate_stats.json").read_text())
    assert sum(one["n_samples"] for one in gates["by_group"]["task"].values()) == gates["overall"]["n_samples"] == 28
    assert gates["by_group"]["task"] == {task: gates["by_kind"][task] for task in sorted(gates["by_kind"])}


@pytest.mark.parametrize("name", ["gqa", "mmbench", "scienceqa", "seed"])
def test_gates_by_sub_score(name: str, folder: Path) -> None:
    own = folder / "whole" / name
    gates, score = (json.loads((own / file).read_text()) for file in ("gate_stats.json", "score.json"))
    answers = lines(own / "answers.jsonl")
    low, high = gates["overall"]["entropy_ci95"]
    assert low <= gates["overall"]["entropy"] <= high
    assert list(gates["by_group"]) == list(score["groups"])
    for division, parts in gates["by_group"].items():
        for part, one in parts.items():
            counted = [sample for sample in score["samples"] if sample.get("groups", {}).get(division) == part]
            ids = {str(answer["id"]) for sample in counted for answer in sample.get("parts", [sample])}
            given = [line["metadata"] for line in answers if str(line["question_id"]) in ids]
            entropies = [metadata["gate_entropy"] for metadata in given if metadata]
            assert one["n_samples"] == len(entropies)
            assert one["entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
            assert (one["entropy_ci95"] is None) == (one["n_samples"] == 1)


@pytest.mark.parametrize("alignment", ["global", 2, "none"])
def test_no_gates_where_none_is_read(alignment: Any, folder: Path, tmp_path: Path) -> None:
    run(folder / "model", folder / "data", tmp_path, "pope", alignment=alignment)
    assert not (tmp_path / "pope" / "gate_stats.json").exists()
    assert lines(tmp_path / "pope" / "answers.jsonl")[0]["metadata"] == {}
    assert json.loads((tmp_path / "pope" / "run_config.json").read_text())["alignment"] == alignment


def test_the_record_of_a_run(folder: Path) -> None:
    record = json.loads((folder / "whole/pope/run_config.json").read_text())
    assert record["generation"] == {"do_sample": False, "num_beams": 1, "max_new_tokens": 128}
    assert (record["template"], record["alignment"], record["dtype"]) == ("bare", "adaptive", "float32")
    assert record["limit"] is None and len(record["image_sizes"]) == 12
    assert record["data_note"] == "mock files"
    assert row_of(json.loads((folder / "whole/results.json").read_text()), "pope")["seconds"] > 0
    assert {"python", "aligngpt", "torch", "transformers"} == record["versions"].keys()


def test_a_judge_marks(folder: Path, tmp_path: Path) -> None:
    def reply(request: dict[str, Any], place: int) -> Reply:
        return completion("8 4\nFine." if "Assistant 2" in request["messages"][-1]["content"] else "0.5")

    with JudgeServer(reply) as server:
        judge = EvalConfig(judge_model="judge", judge_url=server.url)
        results = run(folder / "model", folder / "data", tmp_path, *JUDGED, config=judge)
        asked = len(server.requests)
        again = run(folder / "model", folder / "data", tmp_path, *JUDGED, config=judge)
        assert len(server.requests) == asked > 12
    assert [row_of(results, name)["score"] for name in JUDGED] == [50, 50]
    assert again == results
    assert (tmp_path / "llava_bench" / "reviews.jsonl").is_file() and (tmp_path / "mmvet" / "reviews.json").is_file()
    without = run(folder / "model", folder / "data", tmp_path, *JUDGED)
    assert [row_of(without, name)["reasons"] for name in JUDGED] == [[], []]


def test_a_judge_that_fails_costs_no_answers(folder: Path, tmp_path: Path) -> None:
    with JudgeServer(lambda request, place: (401, "{}")) as server:
        results = run(
            folder / "model",
            folder / "data",
            tmp_path,
            "mmvet",
            config=EvalConfig(judge_model="judge", judge_url=server.url),
        )
    (reason,) = row_of(results, "mmvet")["reasons"]
    assert "replies are missing" in reason
    assert len(lines(tmp_path / "mmvet" / "answers.jsonl")) == 12


# Going on ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(workers, "load_model", never)
    before = content(folder / "whole")
    with caplog.at_level("INFO", logger="aligngpt"):
        run(folder / "model", folder / "data", folder / "whole")
    assert [message.split(":")[0] for message in caplog.messages] == MOCKED
    assert content(folder / "whole") == before


def test_a_score_is_made_when_the_labels_come(folder: Path, data: Path, tmp_path: Path) -> None:
    labels = data / "gqa/data/testdev_balanced_questions.json"
    labels.rename(data / "labels.json")
    first = run(folder / "model", data, tmp_path / "out", "gqa")
    assert row_of(first, "gqa")["reasons"] == [f"not scored: {data} has no gqa/data/testdev_balanced_questions.json"]
    (data / "labels.json").rename(labels)
    assert row_of(run(folder / "model", data, tmp_path / "out", "gqa"), "gqa")["score"] is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment": 3}, 'alignment is "adaptive" there, 3 requested; choose another --output'),
        ({"limit": 5}, "limit is null there, 5 requested; choose another --output"),
        ({"dtype": "bfloat16"}, 'dtype is "float32" there, "bfloat16" requested'),
    ],
)
def test_another_setting_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    before = content(folder / "whole")
    with pytest.raises(ValueError, match=message) as error:
        run(folder / "model", folder / "data", folder / "whole", "pope", **changes)
    assert "\n" not in str(error.value)
    assert content(folder / "whole") == before


def test_other_data_another_template_and_another_model_are_refused(folder: Path, data: Path, tmp_path: Path) -> None:
    run(folder / "model", data, tmp_path / "out", "pope", limit=2)
    questions = data / "pope/llava_pope_test.jsonl"
    questions.write_text(questions.read_text().replace("Is there", "Do you see", 1))
    with pytest.raises(ValueError, match=r'data_hash is "\w{8}" there, "\w{8}" requested'):
        run(folder / "model", data, tmp_path / "out", "pope", limit=2)
    other = Path(shutil.copytree(folder / "model", tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("USER", "Q"))
    (tmp_path / "out" / "results.json").unlink()
    with pytest.raises(ValueError, match=r"model_hash is .* template_hash is"):
        run(other, data, tmp_path / "out", "pope", limit=2)
    with pytest.raises(ValueError, match=r"belongs to another run: model_hash is"):
        run(other, folder / "data", folder / "whole", "pope")


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"num_workers": 2, "batch_size": 4}])
def test_batches_and_processes_change_no_answer(options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    run(folder / "model", folder / "data", tmp_path, "scienceqa", "mme", **options)
    for name in ("scienceqa", "mme"):
        given, whole = (lines(base / name / "answers.jsonl") for base in (tmp_path, folder / "whole"))
        assert [one | {"metadata": 0} for one in given] == [one | {"metadata": 0} for one in whole]


def test_shards(folder: Path, tmp_path: Path) -> None:
    for shard in (3, 1):
        results = run(folder / "model", folder / "data", tmp_path, "pope", batch_size=2, shard=(shard, 3))
    assert row_of(results, "pope")["reasons"] == ["8 of 12 questions are answered"]
    assert not (tmp_path / "pope" / "answers.jsonl").exists()
    results = run(folder / "model", folder / "data", tmp_path, "pope", batch_size=2, shard=(2, 3))
    assert "12 of 12 questions are answered; run the command without --shard" in row_of(results, "pope")["reasons"][0]
    assert sorted(path.name for path in (tmp_path / "pope/parts").iterdir()) == [f"{n}-of-3.0.jsonl" for n in (1, 2, 3)]
    results = run(folder / "model", folder / "data", tmp_path, "pope", batch_size=2)
    assert row_of(results, "pope")["score"] is not None
    run(folder / "model", folder / "data", tmp_path / "whole", "pope", batch_size=2)
    assert (tmp_path / "pope/answers.jsonl").read_bytes() == (tmp_path / "whole/pope/answers.jsonl").read_bytes()


def test_two_runs_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    locked = pytest.raises(ValueError, match=r"pope is locked by another process; wait for it")
    with exclusive_lock(tmp_path / "pope"), locked:
        run(folder / "model", folder / "data", tmp_path, "pope")
    with shared_lock(tmp_path / "pope", "2-of-2"):
        run(folder / "model", folder / "data", tmp_path, "pope", shard=(1, 2), batch_size=2)
        with locked:
            run(folder / "model", folder / "data", tmp_path, "pope", batch_size=2)


def _run_to_be_killed(model: Path, data: Path, output: Path) -> None:
    run(model, data, output, "mme", "gqa", batch_size=2)


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/parts/*.jsonl"))


def test_killed_at_any_moment_nothing_is_lost_or_asked_twice(folder: Path, tmp_path: Path) -> None:
    run(folder / "model", folder / "data", tmp_path / "whole", "mme", "gqa", batch_size=2)
    moments = random.Random(5)
    kills, deadline = 0, time.monotonic() + 120
    output = tmp_path / "killed"
    while time.monotonic() < deadline:
        # Forked: the parent has loaded the libraries, so that a kill hits the work and not the imports.
        process = multiprocessing.get_context("fork").Process(
            target=_run_to_be_killed, args=(folder / "model", folder / "data", output)
        )
        start, more = written(output), moments.randint(1, 2500)
        process.start()
        while process.is_alive() and written(output) < start + more:
            time.sleep(0.001)
        if moments.random() < 0.5:
            process.join(moments.random() * 0.02)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    process.join()
    assert process.exitcode == 0 and kills >= 3
    for name in ("mme", "gqa"):
        killed, whole = (base / name for base in (output, tmp_path / "whole"))
        assert (killed / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
        assert (killed / "score.json").read_bytes() == (whole / "score.json").read_bytes()


def test_what_was_cut_off_is_asked_again_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder / "model", folder / "data", tmp_path, "pope", batch_size=3, shard=(1, 2))
    (part,) = (tmp_path / "pope/parts").iterdir()
    kept = part.read_bytes().splitlines(keepends=True)
    assert len(kept) == 6
    part.write_bytes(b"".join(kept[:4]) + kept[4][:50])
    asked: list[int] = []
    answered = workers._predict

    def watched(task: Any, batches: Any, *rest: Any) -> Any:
        asked.extend(place for batch in batches for place in batch)
        return answered(task, batches, *rest)

    monkeypatch.setattr(workers, "_predict", watched)
    run(folder / "model", folder / "data", tmp_path, "pope", batch_size=3)
    assert sorted(asked) == sorted(set(range(12)) - {json.loads(line)["index"] for line in kept[:4]})
    run(folder / "model", folder / "data", tmp_path / "whole", "pope", batch_size=3)
    assert (tmp_path / "pope/answers.jsonl").read_bytes() == (tmp_path / "whole/pope/answers.jsonl").read_bytes()


def test_part_files(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "1.jsonl"
    one, two = PredictionRecord(0, {"text": "a\nb"}, 0.5), PredictionRecord(2, {"text": "ü"}, 0.5)
    with append_predictions(path) as append:
        append([one, two])
    assert read_worker_files(path.parent, 3) == {0: one, 2: two}
    assert read_worker_files(tmp_path / "none", 3) == {}
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # complete but for its end of line: not known to be whole
    assert read_worker_files(path.parent, 3) == {0: one}
    with append_predictions(path) as append:
        append([two])
    assert path.read_bytes() == whole
    for broken in (b'{"index": 1\n', b'{"index": 7, "line": {}, "seconds": 1}\n', b"\x00\x00\n"):
        path.write_bytes(broken + whole)
        with pytest.raises(ValueError, match=r"1.jsonl:1: not a prediction of this run; delete the file"):
            read_worker_files(path.parent, 3)


# Bad data ------------------------------------------------------------------------------------------------------------


def test_images_that_cannot_be_read_are_counted_and_named(folder: Path, data: Path, tmp_path: Path) -> None:
    images = data / "pope/val2014"
    names = [f"COCO_val2014_{number:012d}.jpg" for number in (1, 4, 6)]
    (images / names[0]).unlink()
    (images / names[1]).write_bytes((images / names[1]).read_bytes()[:300])
    (images / names[2]).write_text("no image")
    questions = data / "pope/llava_pope_test.jsonl"
    questions.write_text(questions.read_text().replace(f"COCO_val2014_{9:012d}.jpg", "../../secret.jpg"))
    results = run(folder / "model", data, tmp_path / "out", "pope", batch_size=4)
    given = lines(tmp_path / "out/pope/answers.jsonl")
    whole = lines(folder / "whole/pope/answers.jsonl")
    assert [place for place, line in enumerate(given) if "unreadable_image" in line["metadata"]] == [1, 4, 6, 9]
    for place, (line, other) in enumerate(zip(given, whole, strict=True)):
        assert line["text"] == ("" if place in (1, 4, 6, 9) else other["text"])
    record = row_of(results, "pope")
    assert record["n_unreadable_images"] == 4
    assert [one["image"] for one in record["unreadable_images"]] == [*names, "../../secret.jpg"]
    reasons = ["no such file", "truncated", "not an image", "leaves the image folder"]
    assert all(part in one["reason"].lower() for one, part in zip(record["unreadable_images"], reasons, strict=True))
    assert row_of(results, "pope")["score"] is not None


def test_broken_base64(folder: Path, data: Path, tmp_path: Path) -> None:
    table = data / "mmbench/mmbench_dev_20230712.tsv"
    rows = table.read_text().split("\n")
    cells = rows[2].split("\t")
    cells[9] = cells[9][:-9] + "?"
    rows[2] = "\t".join(cells)
    cut = rows[4].split("\t")
    cut[9] = base64.b64encode(base64.b64decode(cut[9])[:200]).decode()
    rows[4] = "\t".join(cut)
    table.write_text("\n".join(rows))
    results = run(folder / "model", data, tmp_path / "out", "mmbench")
    first, second = row_of(results, "mmbench")["unreadable_images"]
    assert (first["question_id"], second["question_id"]) == (int(cells[0]), int(cut[0]))
    assert "broken base64" in first["reason"] and "truncated" in second["reason"].lower()
    assert [line["text"] for line in lines(tmp_path / "out/mmbench/answers.jsonl")][1] == ""
    assert row_of(results, "mmbench")["reasons"] == [] and row_of(results, "mmbench")["score"] is not None
    assert (tmp_path / "out/mmbench/submission.xlsx").is_file()


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        (
            "pope",
            "pope/val2014",
            "val2014: none of the 12 images .* exists, such as .*; to get POPE: images: http://images.coco",
        ),
        ("seed", "seed_bench/SEED-Bench-image", "none of the 12 images of llava-seed-bench.jsonl exists"),
        (
            "gqa",
            "gqa/llava_gqa_testdev_balanced.jsonl",
            r"balanced.jsonl: no such file; to get GQA: .*eval.zip",
        ),
        ("mmbench", "mmbench", r"mmbench_dev_20230712.tsv: no such file; to get MMB: https://download"),
    ],
)
def test_data_that_are_missing(name: str, lost: str, message: str, folder: Path, data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / lost) if (data / lost).is_dir() else (data / lost).unlink()
    if name == "seed":
        shutil.rmtree(data / "seed_bench/SEED-Bench-video-image")
    with pytest.raises(MissingData, match=message) as error:
        run(folder / "model", data, tmp_path / "out", name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_table_without_images(folder: Path, data: Path, tmp_path: Path) -> None:
    table = data / "mmbench/mmbench_dev_20230712.tsv"
    rows = [row.split("\t") for row in table.read_text().splitlines()]
    table.write_text("".join("\t".join(row[:9] + row[10:]) + "\n" for row in rows))
    with pytest.raises(MissingData, match=r"a table without images; to get MMB: https://"):
        run(folder / "model", data, tmp_path / "out", "mmbench")


def test_all_runs_what_is_there_and_names_the_rest(folder: Path, data: Path, tmp_path: Path) -> None:
    for one in data.iterdir():
        if one.name not in ("gqa", "vizwiz", "textvqa"):
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    shutil.rmtree(data / "vizwiz/test")
    (data / "textvqa/llava_textvqa_val_v051_ocr.jsonl").write_text('{"question_id": 1, "ima')
    results = run(folder / "model", data, tmp_path / "out")
    assert [row["benchmark"] for row in results["benchmarks"]] == list(BENCHMARKS)
    assert row_of(results, "gqa")["score"] is not None
    assert "vizwiz/test: none of the 12 images" in row_of(results, "vizwiz")["reasons"][0]
    assert "llava_textvqa_val_v051_ocr.jsonl:1: broken JSON" in row_of(results, "textvqa")["reasons"][0]
    assert all("to get " in row_of(results, name)["reasons"][0] for name in ("pope", "mme", "mmvet"))
    shutil.rmtree(data / "gqa")
    with pytest.raises(
        MissingData, match="no benchmark to run; expected LLaVA's playground/data/eval with vqav2/llava"
    ):
        run(folder / "model", data, tmp_path / "none")


def test_labels_may_lie_in_the_release_of_mme(folder: Path, data: Path, tmp_path: Path) -> None:
    for skeleton in (data / "MME/eval_tool/Your_Results").iterdir():
        lines_of = [line.split("\t") for line in skeleton.read_text().splitlines()]
        release = data / "MME/MME_Benchmark_release_version" / skeleton.stem
        target = release / "questions_answers_YN" if (release / "images").is_dir() else release
        target.mkdir(exist_ok=True)
        for image in {line[0] for line in lines_of}:
            text = "".join(f"{line[1]}\t{line[2]}\n" for line in lines_of if line[0] == image)
            (target / f"{Path(image).stem}.txt").write_text(text)
    shutil.rmtree(data / "MME/eval_tool")
    results = run(folder / "model", data, tmp_path / "out", "mme")
    assert (
        row_of(results, "mme")["score"]
        == row_of(json.loads((folder / "whole/results.json").read_text()), "mme")["score"]
    )


# Models and settings -------------------------------------------------------------------------------------------------


def test_a_model_without_alignment(folder: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path, "plain", alignment="none")
    run(model, folder / "data", tmp_path / "out", "pope", limit=2)
    assert json.loads((tmp_path / "out/pope/run_config.json").read_text())["alignment"] == "none"
    with pytest.raises(ValueError, match="was trained without alignment; omit --alignment adaptive"):
        run(model, folder / "data", tmp_path / "other", "pope", alignment="adaptive")
    with pytest.raises(ValueError, match="a level from 1 to 4"):
        run(folder / "model", folder / "data", tmp_path / "other", "pope", alignment=9)
    assert not (tmp_path / "other").exists()


def test_another_kind_of_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a clip_vision_model model; pass a folder that aligngpt finetune"):
        run(folder / "backbones" / "clip", folder / "data", tmp_path, "pope")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"shard": (3, 2)}, "shard 3/2: expected i/n"),
        ({"dtype": "int8"}, "float16"),
    ],
)
def test_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate("m", data="d", output="o", **options)
