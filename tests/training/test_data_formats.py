"""Both stages train on every data format, with DataLoader workers, and name the records that they skip."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aligngpt.data.schema import StrictDataError
from aligngpt.training.stages import finetune, pretrain
from tests.source_files import datasets_folder, turns, write_json, write_lines, write_parquet, write_tar
from tests.tiny import make_image
from tests.training.conftest import World, stage1_config, stage2_config

COUNT = 8


def encoded(number: int) -> bytes:
    content = io.BytesIO()
    make_image(number).save(content, "PNG")
    return content.getvalue()


def records(stage: int) -> list[dict[str, Any]]:
    question = {"from": "human", "value": "<image>\nWhat?"}
    return [
        {
            "id": f"p{number}",
            "image": f"{number}.png",
            "alignment_level": number % 2 + 1,
            "conversations": turns(f"noise {number}") if stage == 1 else [question, *turns(f"noise {number}")[1:]],
        }
        for number in range(COUNT)
    ]


def write(kind: str, folder: Path, stage: int) -> Path:
    """Write the same records in a format, images in the rows where it can hold them."""
    rows = records(stage)
    stored = [row | {"image": {"bytes": encoded(number), "path": None}} for number, row in enumerate(rows)]
    if kind == "llava_json":
        return write_json(folder, rows)
    if kind == "json_lines":
        return write_lines(folder, rows)
    if kind == "parquet":
        columns = {name: [row[name] for row in stored] for name in stored[0]}
        return write_parquet(folder / "a.parquet", columns, row_group_size=3)
    if kind == "datasets":
        return datasets_folder(folder / "set", pa.Table.from_pylist(stored))
    members = {}
    for number, row in enumerate(rows):
        members[f"p{number}.png"] = encoded(number)
        members[f"p{number}.json"] = json.dumps({key: row[key] for key in row if key != "image"}).encode()
    return write_tar(folder / "a.tar", members)


@pytest.fixture(scope="module")
def losses() -> dict[int, list[list[float | None]]]:
    return {1: [], 2: []}


@pytest.mark.parametrize("kind", ["llava_json", "json_lines", "parquet", "datasets", "webdataset"])
def test_both_stages_learn_the_same_from_every_format(
    world: World, stage1: Path, tmp_path: Path, losses: dict[int, list[list[float | None]]], kind: str
) -> None:
    images = world.folder / "images" if "json" in kind else None
    for stage in (1, 2):
        (tmp_path / str(stage)).mkdir()
        data, output = write(kind, tmp_path / str(stage), stage), tmp_path / f"out-{stage}"
        if stage == 1:
            result = pretrain(stage1_config(), data=data, images=images, **world.backbones, output=output)
        else:
            result = finetune(stage2_config(), data=data, images=images, stage1=stage1, output=output)
        assert (result.num_samples, result.num_skipped) == (COUNT, 0)
        losses[stage].append([entry.loss for entry in result.log_history])
        assert losses[stage][0] == losses[stage][-1]


def test_skipped_records_survive_an_interruption(
    world: World, tmp_path: Path, cut_off_after: Callable[[int], Any]
) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        rows[1]["image"] = "gone.png"
        rows[4]["image"] = "text.png"
        rows[6]["conversations"] = []

    (tmp_path / "images").mkdir()
    for file in (world.folder / "images").iterdir():
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "images" / "text.png").write_text("not an image")
    data = world.rewrite("pairs.json", tmp_path / "pairs.json", spoil)
    arguments = {**world.stage1_inputs, "data": data, "images": tmp_path / "images"}
    config = stage1_config(max_steps=4, per_device_train_batch_size=2, save_steps=1, dataloader_num_workers=2)
    whole = pretrain(config, **arguments, output=tmp_path / "whole")
    with cut_off_after(2):
        pretrain(config, **arguments, output=tmp_path / "cut")
    pretrain(config, **arguments, output=tmp_path / "cut")
    content = (tmp_path / "whole" / "skipped.jsonl").read_text()
    assert (tmp_path / "cut" / "skipped.jsonl").read_text() == content
    lines = [json.loads(line) for line in content.splitlines()]
    assert sorted((line["id"], line["reason"]) for line in lines) == [
        ("p1", "no such file"),
        ("p4", "not an image, although its name ends in .png"),
        ("p6", "conversations is empty"),
    ]
    assert (whole.num_samples, whole.num_skipped) == (7, 3)
    with pytest.raises(StrictDataError, match=r"1 of 8 records are bad: .*id p6.*conversations is empty"):
        pretrain(config, **arguments, output=tmp_path / "strict", strict=True)


def test_a_batch_of_skipped_records_changes_nothing(world: World, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        for row in rows[1:]:
            row["image"] = "gone.png"

    data = world.rewrite("pairs.json", tmp_path / "pairs.json", spoil)
    config = stage1_config(max_steps=8, per_device_train_batch_size=1)
    result = pretrain(config, **{**world.stage1_inputs, "data": data}, output=tmp_path / "out")
    assert result.num_skipped == 7
    assert sum(entry.loss != 0 for entry in result.log_history) == 1


def test_a_wrong_image_folder_is_an_error_before_training(world: World, tmp_path: Path) -> None:
    arguments = {**world.stage1_inputs, "images": tmp_path}
    with pytest.raises(ValueError, match=r"none of 8 samples can be read, the first is 0\.png: no such file; check"):
        pretrain(stage1_config(), **arguments, output=tmp_path / "out")
    assert not (tmp_path / "out" / "run_config.json").exists()
