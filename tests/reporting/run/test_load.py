"""The loader: every artefact arrives as written, absence is `None`, and damage names its file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aligngpt.reporting.run.load import load_run


def change(path: Path, **fields: Any) -> None:
    """Overwrite fields of a JSON file; `...` deletes one."""
    content = json.loads(path.read_text())
    for name, value in fields.items():
        if value is ...:
            del content[name]
        else:
            content[name] = value
    path.write_text(json.dumps(content))


def test_a_pair_carries_image_caption_score_level_and_truth(run_folder: Path) -> None:
    run = load_run(run_folder)
    record = json.loads((run_folder / "data" / "pretrain.json").read_text())[3]
    truth = json.loads((run_folder / "data" / "truth.json").read_text())["pairs"][record["id"]]
    row = pq.read_table(run_folder / "levels" / "levels.parquet").to_pylist()[3]
    pair = run.pairs[3]
    assert (pair.id, pair.image, pair.caption) == (
        record["id"],
        record["image"],
        record["conversations"][1]["value"],
    )
    assert (pair.score, pair.level) == (row["clip_score"], row["alignment_level"])
    assert (pair.kind, pair.coverage) == (truth["kind"], truth["coverage"])
    assert len(run.pairs) == 240


def test_trainings_captions_results_and_gates_are_read(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert list(run.trainings) == [
        ("pretrain", "adaptive"),
        ("pretrain", "none"),
        ("finetune", "adaptive"),
        ("finetune", "none"),
    ]
    first = run.trainings["pretrain", "adaptive"]
    assert (first.steps, len(first.curve), first.loss_by_level[1]) == (1000, 60, 0.94)
    assert run.trainings["finetune", "none"].loss_by_level == ()
    assert [part.name for part in first.parts if part.trains] == ["projector", "alignment_embeddings"]
    assert run.captions is not None and run.captions.by_level[7].recall_interval == pytest.approx((0.66, 0.72))
    result = run.results["adaptive"]
    assert sum(result.scores.values()) / len(result.scores) == pytest.approx(result.overall.accuracy)
    assert run.gates is not None and run.gates.examples[0].grid == (12, 12)
    assert run.recipes["pretrain-none"] == {"stage": "pretrain", "learning_rate": 1e-3}


def test_an_unscored_pair_has_no_score_and_no_level(run_folder: Path) -> None:
    table = pa.table(
        {"id": ["a"], "clip_score": pa.array([None], pa.float32()), "alignment_level": pa.array([None], pa.int8())}
    )
    pq.write_table(table, run_folder / "levels" / "levels.parquet")
    (pair,) = load_run(run_folder).pairs
    assert math.isnan(pair.score) and pair.level == 0 and pair.image is None


def test_scores_stand_in_where_levels_were_not_cut(run_folder: Path) -> None:
    (run_folder / "levels" / "levels.parquet").unlink()
    (run_folder / "levels" / "levels.json").unlink()
    run = load_run(run_folder)
    assert run.levels is None and len(run.pairs) == 240 and {pair.level for pair in run.pairs} == {0}


def test_logs_without_a_loss_are_passed_over(run_folder: Path) -> None:
    change(run_folder / "pretrain-none" / "train_results.json", log_history=[{"step": 1, "loss": 2.0}, {"step": 2}])
    assert load_run(run_folder).trainings["pretrain", "none"].curve == ((1, 2.0),)


def test_a_line_separator_inside_an_answer_does_not_split_it(run_folder: Path) -> None:
    answer = {"question_id": 7, "text": "a\N{LINE SEPARATOR}b", "score": 1.0}
    (run_folder / "eval-none" / "answers.jsonl").write_text(json.dumps(answer, ensure_ascii=False), encoding="utf-8")
    assert load_run(run_folder).results["none"].scores == {"7": 1.0}


@pytest.mark.parametrize(
    ("state", "found"), [("absent", "does not exist"), ("file", "is a file"), ("empty", "none of")]
)
def test_what_is_not_a_run_folder_is_refused_with_the_remedy(tmp_path: Path, state: str, found: str) -> None:
    path = tmp_path / "run"
    if state == "file":
        path.write_text("x")
    elif state == "empty":
        (path / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match=found) as error:
        load_run(path)
    assert f"aligngpt run synthetic --output {path}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        ("levels/levels.json", {"boundaries": ...}, "'boundaries' is missing"),
        ("eval-none/results.json", {"accuracy": ...}, "'accuracy' is missing"),
        ("eval-none/results.json", {"by_kind": 3}, "not as expected"),
        ("pretrain-adaptive/train_results.json", {"modules": None}, "not as expected"),
        ("captions/captions.json", {"examples": [{"image": "x.png"}]}, "'truth' is missing"),
    ],
)
def test_a_damaged_field_names_its_file(run_folder: Path, file: str, fields: dict[str, Any], said: str) -> None:
    change(run_folder / file, **fields)
    with pytest.raises(ValueError, match=said) as error:
        load_run(run_folder)
    assert str(run_folder / file) in str(error.value) and "run the step again" in str(error.value)


def test_gates_must_fit_their_grid_and_each_other(run_folder: Path) -> None:
    path = run_folder / "eval-adaptive" / "gates.json"
    gates = json.loads(path.read_text())
    gates["examples"][0]["grid"] = [3, 5]
    path.write_text(json.dumps(gates))
    with pytest.raises(ValueError, match=r"3 x 5 wants 15 dot products, found 144"):
        load_run(run_folder)
    gates["examples"] = []
    gates["by_kind"]["count"]["weights"] = [0.5, 0.5]
    path.write_text(json.dumps(gates))
    with pytest.raises(ValueError, match=r"as many weights, found \[2, 7\]"):
        load_run(run_folder)


def test_a_broken_answer_names_its_line(run_folder: Path) -> None:
    path = run_folder / "eval-adaptive" / "answers.jsonl"
    path.write_text('{"question_id": 1, "score": 1.0}\n{"question_id": 2,\n')
    with pytest.raises(ValueError, match=r"answers\.jsonl, line 2: not JSON"):
        load_run(run_folder)


def test_a_list_where_an_object_belongs_is_refused(run_folder: Path) -> None:
    (run_folder / "metrics.json").write_text("[]")
    with pytest.raises(ValueError, match=r"metrics\.json: expected a JSON dict, found list"):
        load_run(run_folder)
