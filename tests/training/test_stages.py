"""What trains in each stage, what a run leaves, and that a run cut off goes on as if nothing had happened."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from aligngpt import AlignGPTForConditionalGeneration
from aligngpt.data.schema import StrictDataError
from aligngpt.modeling.artifacts import Stage1Checkpoint
from aligngpt.modeling.checkpoints import load_model, load_stage1
from aligngpt.training.artifacts import TrainConfigFile, TrainResult
from aligngpt.training.datasets import InstructionDataset
from aligngpt.training.freezing import TRAINABLE_MODULES, apply_stage
from aligngpt.training.sampler import ModalityGroupedSampler
from aligngpt.training.stages import finetune, identify_checkpoint, identify_data, identify_images, pretrain
from aligngpt.training.trainer import AlignGPTTrainer, build_training_arguments
from aligngpt.utils.config import load_config, write_yaml
from aligngpt.utils.errors import ArgumentError
from tests import tiny
from tests.training.conftest import LEVELS, World, stage1_config, stage2_config

PARTS = ("vision_tower", "multi_modal_projector", "alignment_embeddings", "alignment_gate", "language_model")


def tensors(model: AlignGPTForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed_parts(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Parts of which any parameter differs in any bit."""
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


# ------------------------------------------------------------------------------------------------------ what trains


@pytest.mark.parametrize(
    ("stage", "alignment", "training"),
    [
        ("pretrain", "adaptive", {"multi_modal_projector", "alignment_embeddings"}),
        ("pretrain", "none", {"multi_modal_projector"}),
        ("finetune", "adaptive", {"multi_modal_projector", "alignment_gate", "language_model"}),
        ("finetune", "local", {"multi_modal_projector", "alignment_gate", "language_model"}),
        ("finetune", "global", {"multi_modal_projector", "language_model"}),
        ("finetune", "average", {"multi_modal_projector", "language_model"}),
        ("finetune", "none", {"multi_modal_projector", "language_model"}),
    ],
)
def test_the_table_is_applied_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: Any, alignment: str, training: set[str]
) -> None:
    model, _ = tiny.build(tmp_path, alignment=alignment)
    model.requires_grad_(True)
    model.alignment_gate.requires_grad_(False)  # whatever was set before does not matter
    with caplog.at_level(logging.INFO, "aligngpt.training.freezing"):
        rows = apply_stage(model, stage)
    assert tuple(row.name for row in rows) == PARTS
    assert {row.name for row in rows if row.trainable} == training
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] in training), name
    lines = [record.getMessage() for record in caplog.records]
    for row, line in zip(rows, lines, strict=True):
        count = sum(value.numel() for name, value in tensors(model).items() if name.startswith(f"{row.name}."))
        assert row.num_parameters == count > 0
        assert line.split() == [f"{stage}:", row.name, f"{count:,}", "trained" if row.trainable else "frozen"]


def test_the_table_is_the_papers() -> None:
    assert {
        "pretrain": {"multi_modal_projector", "alignment_embeddings"},
        "finetune": {"multi_modal_projector", "alignment_gate", "language_model"},
    } == TRAINABLE_MODULES


@pytest.mark.parametrize(
    ("alignment", "changing"),
    [("levels", {"multi_modal_projector", "alignment_embeddings"}), ("none", {"multi_modal_projector"})],
)
def test_stage_1_changes_projector_and_table_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Any, changing: set[str]
) -> None:
    built: list[tuple[AlignGPTForConditionalGeneration, dict[str, torch.Tensor]]] = []
    original = AlignGPTForConditionalGeneration.from_backbones

    def from_backbones(*args: Any, **kwargs: Any) -> Any:
        model, processor = original(*args, **kwargs)
        built.append((model, tensors(model)))
        return model, processor

    monkeypatch.setattr(AlignGPTForConditionalGeneration, "from_backbones", from_backbones)
    result = pretrain(stage1_config(alignment=alignment), **world.stage1_inputs, output=tmp_path / "out")
    [(model, before)] = built
    assert changed_parts(before, tensors(model)) == changing
    assert {row.name for row in result.modules if row.trainable} == changing
    assert result.alignment == alignment


@pytest.mark.parametrize(
    ("alignment", "changing"),
    [
        ("adaptive", {"multi_modal_projector", "alignment_gate", "language_model"}),
        ("global", {"multi_modal_projector", "language_model"}),
        ("none", {"multi_modal_projector", "language_model"}),
    ],
)
def test_stage_2_changes_neither_table_nor_tower(
    world: World, stage1: Path, tmp_path: Path, alignment: Any, changing: set[str]
) -> None:
    before, _, _ = load_stage1(stage1)
    result = finetune(stage2_config(alignment=alignment), **world.stage2_inputs, stage1=stage1, output=tmp_path / "out")
    after, processor = load_model(tmp_path / "out")
    # The gate of the checkpoint is drawn anew each time, so it is looked at through what the run says it trained.
    parts = changed_parts(tensors(before), tensors(after)) - {"alignment_gate"}
    assert parts == changing - {"alignment_gate"}
    assert {row.name for row in result.modules if row.trainable} == changing
    assert after.config.alignment == alignment
    assert processor.use_alignment == (alignment != "none")


def test_the_gate_learns_where_it_is_read(world: World, stage1: Path, tmp_path: Path) -> None:
    gates = []
    for steps in (1, 3):
        output = tmp_path / str(steps)
        config = stage2_config(max_steps=steps, warmup_ratio=0)
        finetune(config, **world.stage2_inputs, stage1=stage1, output=output)
        gates.append({k: v for k, v in load_file(output / "model.safetensors").items() if "alignment_gate" in k})
    assert len(gates[0]) == 4
    assert all(not torch.equal(value, gates[1][name]) for name, value in gates[0].items())


# ------------------------------------------------------------------------------------------------- what a run leaves


def test_a_run_writes_its_configuration_and_its_result(world: World, stage1: Path) -> None:
    result = TrainResult.read(stage1)
    assert (result.stage, result.global_step, result.num_samples, result.global_batch_size) == ("pretrain", 2, 8, 4)
    assert (result.num_skipped, result.num_without_level, result.num_truncated) == (0, 0, 0)
    assert (stage1 / "skipped.jsonl").read_text() == ""
    assert [entry.step for entry in result.log_history] == [1, 2]
    losses = [entry.loss or 0.0 for entry in result.log_history]
    assert min(losses) > 0 and all((entry.grad_norm or 0) > 0 for entry in result.log_history)
    assert result.final_loss == result.train_loss == pytest.approx(sum(losses) / 2, abs=1e-4)
    assert load_config({"any": stage1_config}, file=stage1) == stage1_config()
    run = TrainConfigFile.read(stage1)
    assert (run.stage, run.config) == ("pretrain", asdict(stage1_config()))
    assert run.inputs == {
        "data": identify_data(world.folder / "pairs.json"),
        "images": identify_images(world.folder / "images"),
        "levels": None,
        "stage1": None,
        "language_model": identify_checkpoint(world.folder / "llm"),
        "vision_tower": identify_checkpoint(world.folder / "tower"),
    }
    assert set(run.inputs["language_model"]) == {"config.json", "model.safetensors"}
    assert run.inputs["data"]["size"] == (world.folder / "pairs.json").stat().st_size
    assert set(run.versions) == {"python", "aligngpt", "torch", "transformers"}


def test_weights_have_the_mode_of_other_files(stage1: Path, stage2: Path) -> None:
    usual = (stage1 / "train_results.json").stat().st_mode
    assert usual & 0o777 == 0o644
    for file in (stage1 / "stage1.safetensors", stage2 / "model.safetensors", stage2 / "config.json"):
        assert file.stat().st_mode == usual, file


def test_loss_by_level_has_a_gap_where_a_level_has_no_pair(world: World, stage1: Path) -> None:
    losses = TrainResult.read(stage1).loss_by_level
    assert losses is not None and len(losses) == LEVELS and losses[2] is None
    model, processor = load_model(stage1)
    records = json.loads((world.folder / "pairs.json").read_text())
    for level in (1, 2):
        total = tokens = 0.0
        for record in (record for record in records if record["alignment_level"] == level):
            caption = record["conversations"][1]["value"] + "\n"
            ids = processor.tokenizer.encode(caption, add_special_tokens=False)
            head = [2, processor.align_token_id, *[processor.image_token_id] * processor.image_seq_length]
            image = tiny.Image.open(world.folder / "images" / record["image"])
            pixels = processor.pixel_values([image])
            with torch.no_grad():
                logits = model(torch.tensor([head + ids]), pixels, alignment=level).logits[0]
            said = logits.log_softmax(-1)[range(len(head) - 1, len(head) + len(ids) - 1), ids]
            total -= float(said.sum())
            tokens += len(ids)
        assert losses[level - 1] == pytest.approx(total / tokens, abs=2e-4)


def test_the_model_folder_answers(stage2: Path) -> None:
    model, processor = load_model(stage2)
    text = processor.render([{"role": "user", "content": "<image>\nWhat?"}], add_generation_prompt=True)
    inputs = processor(tiny.make_image(0), text, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 2
    assert processor.image_aspect_ratio == "square" and processor.chat_template.count("USER: ") == 1


@pytest.mark.usefixtures("no_training")
def test_the_result_of_a_finished_run_is_returned(
    world: World, stage1: Path, stage2: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "aligngpt.utils.output_dir"):
        first = pretrain(stage1_config(), **world.stage1_inputs, output=stage1)
    assert caplog.messages == [f"complete: {stage1}; nothing to do"]
    assert first == TrainResult.read(stage1)
    second = finetune(stage2_config(), **world.stage2_inputs, stage1=stage1, output=stage2)
    assert second == TrainResult.read(stage2)


def test_a_finished_run_answers_without_torch_and_without_reading_its_data(world: World, stage1: Path) -> None:
    program = f"""
import sys
from aligngpt.training.stages import pretrain
from aligngpt.training.configs import PretrainConfig
from aligngpt.utils.config import load_config, write_yaml
config = load_config({{"paper": PretrainConfig}}, file={str(stage1)!r})
folder = {str(world.folder)!r}
result = pretrain(config, data=folder + "/pairs.json", images=folder + "/images", language_model=folder + "/llm",
                  vision_tower=folder + "/tower", output={str(stage1)!r})
assert result.global_step == 2
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    assert time.monotonic() - started < 3


def test_truncated_samples_are_counted(world: World, tmp_path: Path) -> None:
    # The head has 11 tokens; of the captions "noise " to "noise xxxxxxx" with their newlines, p5 to p7 are cut.
    for steps in (2, 5):  # one pass, two and a half passes
        config = stage1_config(max_length=11 + 11, max_steps=steps)
        assert pretrain(config, **world.stage1_inputs, output=tmp_path / str(steps)).num_truncated == 3


def test_few_steps_are_a_warning_that_names_the_options(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = stage1_config(max_steps=-1)
    with caplog.at_level(logging.INFO, "aligngpt.training.trainer"):
        build_training_arguments(config, tmp_path, num_samples=76)
        build_training_arguments(config, tmp_path, num_samples=80)
        build_training_arguments(stage1_config(max_steps=3), tmp_path, num_samples=8)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "only 19 optimizer steps (76 samples, global batch size 4" in warnings[0]
    for option in ("gradient-accumulation-steps", "per-device-train-batch-size", "num-train-epochs", "max-steps"):
        assert f"--{option}" in warnings[0]
    assert "80 samples, global batch size 4, 20 optimizer steps" in caplog.text


def test_progress_has_steps_loss_and_time_left_and_nothing_else(world: World, tmp_path: Path) -> None:
    write_yaml(tmp_path / "run.yaml", stage1_config(max_steps=3, dataloader_num_workers=3))
    inputs = [f"--{name.replace('_', '-')}={path}" for name, path in world.stage1_inputs.items()]
    command = ["pretrain", *inputs, "--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out")]
    program = (
        "import aligngpt.utils.progress as p; p.FIRST_LINE = p.INTERVAL = 0.0; from aligngpt.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert all(line.startswith("aligngpt: ") for line in lines), done.stderr
    assert any(
        re.fullmatch(r"aligngpt: pretrain steps \(loss \d\.\d{3}\): 3 of 3, about 0 s left", line) for line in lines
    )
    assert "{" not in done.stdout + done.stderr and "optimizer steps" in done.stdout


# ------------------------------------------------------------------------------------------------ the same numbers


def comparable(result: TrainResult) -> dict[str, Any]:
    return result.model_dump(exclude={"train_runtime"})


def test_stage_1_resumed_equals_uninterrupted(
    world: World, tmp_path: Path, cut_off_after: Callable[[int], Any]
) -> None:
    config = stage1_config(max_steps=7, save_steps=2, max_length=11 + 11)  # three and a half passes, some samples cut
    whole = pretrain(config, **world.stage1_inputs, output=tmp_path / "whole")
    with cut_off_after(5):
        pretrain(config, **world.stage1_inputs, output=tmp_path / "cut")
    assert not (tmp_path / "cut" / "train_results.json").exists()
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-4"]
    shutil.copytree(tmp_path / "cut", tmp_path / "torn")
    resumed = pretrain(config, **world.stage1_inputs, output=tmp_path / "cut")
    assert comparable(resumed) == comparable(whole)
    name = "stage1.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    (tmp_path / "torn" / "checkpoint-6").mkdir()  # cut off while it was written: the one before counts
    (tmp_path / "torn" / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
    assert comparable(pretrain(config, **world.stage1_inputs, output=tmp_path / "torn")) == comparable(whole)


def test_stage_2_resumed_equals_uninterrupted(
    world: World, stage1: Path, tmp_path: Path, cut_off_after: Callable[[int], Any]
) -> None:
    config = stage2_config(
        max_steps=6, save_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )  # two passes of 2 + 2 + 1 batches
    inputs = world.stage2_inputs | {"stage1": stage1}
    whole = finetune(config, **inputs, output=tmp_path / "whole")
    with cut_off_after(8):
        finetune(config, **inputs, output=tmp_path / "cut")
    resumed = finetune(config, **inputs, output=tmp_path / "cut")
    assert comparable(resumed) == comparable(whole)
    name = "model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_stage_2_takes_its_samples_by_modality(
    world: World, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    lengths: list[int] = []
    original = InstructionDataset.__getitem__

    def getitem(self: InstructionDataset, index: int) -> Any:
        taken.append(index)
        lengths[:] = self.modality_lengths
        return original(self, index)

    monkeypatch.setattr(InstructionDataset, "__getitem__", getitem)
    config = stage2_config(max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2, seed=3)
    finetune(config, **world.stage2_inputs, stage1=stage1, output=tmp_path / "out")
    sampler = ModalityGroupedSampler(lengths, 2, 2, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    assert taken == [0, *first, *sampler]  # the first sample is also read to check the image folder
    assert sorted(length < 0 for length in lengths) == [False] * 7 + [True] * 3


def test_the_device_batch_does_not_matter(world: World, tmp_path: Path) -> None:
    losses, weights = [], []
    for size in (4, 1):
        config = stage1_config(per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=3)
        result = pretrain(config, **world.stage1_inputs, output=tmp_path / str(size))
        losses.append([entry.loss for entry in result.log_history])
        weights.append(load_file(tmp_path / str(size) / "stage1.safetensors"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-5), name


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.usefixtures("no_training")
def test_the_same_bases_elsewhere_make_the_same_run(world: World, stage1: Path, tmp_path: Path) -> None:
    moved = {name: shutil.copytree(path, tmp_path / name) for name, path in world.backbones.items()}
    result = pretrain(stage1_config(), **world.stage1_inputs | moved, output=stage1)
    assert result == TrainResult.read(stage1)


@pytest.mark.usefixtures("no_training")
def test_another_run_in_the_folder_is_refused(world: World, stage1: Path, stage2: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"config\.learning_rate is 0\.002 there, 0\.0001 requested; choose another --output"
    ):
        pretrain(stage1_config(learning_rate=1e-4), **world.stage1_inputs, output=stage1)
    with pytest.raises(ValueError, match=r"config\.seed is 0 there, 3 requested"):
        finetune(stage2_config(seed=3), **world.stage2_inputs, stage1=stage1, output=stage2)

    def caption(records: list[dict[str, Any]]) -> None:
        records[0]["conversations"][1]["value"] = "another caption"

    changed = world.rewrite("pairs.json", tmp_path / "pairs.json", caption)
    with pytest.raises(ValueError, match=r"inputs\.data\.size is \d+ there, \d+ requested; inputs\.data\.modified is"):
        pretrain(stage1_config(), **world.stage1_inputs | {"data": changed}, output=stage1)
    other = shutil.copytree(world.folder / "images", tmp_path / "other")
    with pytest.raises(ValueError, match=r"inputs\.images\.path is .*images\" there, .*other\" requested"):
        pretrain(stage1_config(), **world.stage1_inputs | {"images": other}, output=stage1)
    with pytest.raises(ValueError, match=r'stage is "pretrain" there, "finetune" requested; .*more fields differ'):
        finetune(stage2_config(), **world.stage2_inputs, stage1=stage1, output=stage1)


@pytest.mark.usefixtures("no_training")
def test_copies_of_the_data_are_the_same_data(world: World, stage1: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pairs.json"
    shutil.copy(world.folder / "pairs.json", copy)
    os.utime(copy, ns=(1, 1))
    inputs = world.stage1_inputs | {"data": copy}
    assert pretrain(stage1_config(), **inputs, output=stage1) == TrainResult.read(stage1)
    copy.write_text(copy.read_text().replace("noise xx", "noise yy"))
    with pytest.raises(ValueError, match=r"inputs\.data\.modified is \d+ there, .*inputs\.data\.fingerprint is"):
        pretrain(stage1_config(), **inputs, output=stage1)


def test_data_are_read_only_if_their_time_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pairs.json"
    file.write_text("[]")
    stored = identify_data(file)
    monkeypatch.setattr("aligngpt.training.stages.hash_file", lambda path: pytest.fail("the file is read"))
    assert identify_data(file, stored) == stored


@pytest.mark.usefixtures("no_training")
def test_the_number_of_levels_is_that_of_stage_1(world: World, stage1: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=rf"is 4, but stage 1 in .* has {LEVELS} levels"):
        finetune(stage2_config(num_alignment_levels=4), **world.stage2_inputs, stage1=stage1, output=tmp_path / "out")


def test_levels_set_the_rows_of_the_table(world: World, tmp_path: Path) -> None:
    columns = {"id": ["p0", "p1"], "clip_score": [0.1, 0.2], "alignment_level": [1, 4]}
    pq.write_table(pa.table(columns), tmp_path / "levels.parquet")
    (tmp_path / "levels.json").write_text(json.dumps({"num_levels": 4}))
    config = stage1_config(num_alignment_levels=None, max_steps=1)
    pretrain(config, **world.stage1_inputs, levels=tmp_path, output=tmp_path / "out")
    assert Stage1Checkpoint.read(tmp_path / "out").settings.num_alignment_levels == 4


def test_a_complete_model_is_neither_tower_nor_stage_1(world: World, stage2: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a complete AlignGPT model; pass a CLIP or SigLIP model"):
        pretrain(stage1_config(), **world.stage1_inputs | {"vision_tower": stage2}, output=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is not a finished stage-1 checkpoint"):
        finetune("synthetic", **world.stage2_inputs, stage1=stage2, output=tmp_path / "out")


def test_what_cannot_start_leaves_the_folder_free(world: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="template 'gone'"):
        pretrain(stage1_config(template="gone"), **world.stage1_inputs, output=tmp_path / "out")
    assert pretrain(stage1_config(max_steps=1), **world.stage1_inputs, output=tmp_path / "out").global_step == 1


def test_levels_must_be_there_and_fit(world: World, tmp_path: Path) -> None:
    def without(records: list[dict[str, Any]]) -> None:
        for record in records:
            del record["alignment_level"]

    plain = {**world.stage1_inputs, "data": world.rewrite("pairs.json", tmp_path / "plain.json", without)}
    with pytest.raises(ValueError, match="the pairs have no levels; pass --levels"):
        pretrain(stage1_config(), **plain, output=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"levels\.parquet: no such file"):
        pretrain(stage1_config(), **plain, levels=tmp_path, output=tmp_path / "out")

    def high(records: list[dict[str, Any]]) -> None:
        records[3]["alignment_level"] = LEVELS + 1

    levels = {**world.stage1_inputs, "data": world.rewrite("pairs.json", tmp_path / "high.json", high)}
    with pytest.raises(ValueError, match=f"has level {LEVELS + 1}, but num_alignment_levels is {LEVELS}"):
        pretrain(stage1_config(), **levels, output=tmp_path / "out")
    result = pretrain(stage1_config(alignment="none", max_steps=1), **plain, output=tmp_path / "out")
    assert result.loss_by_level is None


@pytest.mark.parametrize("level", [0, LEVELS + 1])
def test_levels_of_a_file_must_fit(world: World, tmp_path: Path, level: int) -> None:
    columns = {"id": ["p0", "p1"], "clip_score": [0.1, 0.2], "alignment_level": [1, level]}
    pq.write_table(pa.table(columns), tmp_path / "levels.parquet")
    with pytest.raises(ValueError, match=rf"level {level}(, but num_alignment_levels is {LEVELS}|; )"):
        pretrain(stage1_config(), **world.stage1_inputs, levels=tmp_path, output=tmp_path / "out")


def test_levels_of_a_file_come_before_those_of_the_pairs(world: World, tmp_path: Path) -> None:
    columns = {"id": ["p0", "p1", "p2"], "clip_score": [0.1, 0.2, math.nan], "alignment_level": [3, 3, None]}
    pq.write_table(pa.table(columns), tmp_path / "levels.parquet")
    config = stage1_config(max_steps=1, per_device_train_batch_size=2)
    result = pretrain(config, **world.stage1_inputs, levels=tmp_path, output=tmp_path / "out")
    assert (result.num_samples, result.num_without_level) == (2, 6)
    assert [loss is None for loss in result.loss_by_level or []] == [True, True, False]


def test_bad_records_are_left_out_or_fatal(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def spoil(records: list[dict[str, Any]]) -> None:
        records[0]["image"] = "gone.png"
        records[2]["conversations"][1]["value"] = "  "

    pairs = world.rewrite("pairs.json", tmp_path / "pairs.json", spoil)
    config = stage1_config(max_steps=4)
    arguments = {**world.stage1_inputs, "data": pairs}
    with pytest.raises(StrictDataError, match=r"1 of 8 records are bad: .*id p2"):
        pretrain(config, **arguments, output=tmp_path / "strict", strict=True)
    with caplog.at_level(logging.WARNING, "aligngpt"):
        result = pretrain(config, **arguments, output=tmp_path / "out")
    assert (result.num_samples, result.num_skipped) == (7, 2)
    warnings = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert "p2" in warnings[0] and "p0" in warnings[1]
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["index"], line["id"], line["image"]) for line in skipped] == [
        (2, "p2", "2.png"),
        (0, "p0", "gone.png"),
    ]
    assert [line["reason"] for line in skipped] == ["empty caption or answer in turn 2", "no such file"]
    records = json.loads(pairs.read_text())
    pairs.write_text(json.dumps([record for record in records if record["id"] != "p2"]))
    with pytest.raises(StrictDataError, match=r"pairs\.json: record 0, id p0, image gone\.png: no such file"):
        pretrain(config, **arguments, output=tmp_path / "strict", strict=True)


# ------------------------------------------------------------------------------------------------ config to arguments


def test_a_recipe_becomes_training_arguments(tmp_path: Path) -> None:
    config = stage1_config(
        max_steps=-1,
        num_train_epochs=2.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        warmup_ratio=0.1,
    )
    arguments = build_training_arguments(config, tmp_path, num_samples=81)  # 11 steps a pass
    assert (arguments.max_steps, arguments.gradient_accumulation_steps) == (22, 4)
    assert (arguments.per_device_train_batch_size, arguments.warmup_steps) == (2, 3)
    assert build_training_arguments(stage1_config(), tmp_path, num_samples=81).max_steps == 2
    assert not arguments.bf16 and arguments.seed == 0


def test_levels_of_another_number_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "levels.json").write_text('{"num_levels": 2}')
    ids = [f"p{place}" for place in range(8)]
    table = pa.table({"id": ids, "alignment_level": pa.array([place % 2 + 1 for place in range(8)], pa.int8())})
    pq.write_table(table, tmp_path / "levels.parquet")
    for levels in (tmp_path, tmp_path / "levels.parquet"):
        with pytest.raises(ValueError, match=r"num_alignment_levels is 3, but .*levels\.json has 2 levels; omit"):
            pretrain(stage1_config(), **world.stage1_inputs, levels=levels, output=tmp_path / "out")
    same = stage1_config(num_alignment_levels=2)
    assert pretrain(same, **world.stage1_inputs, levels=tmp_path, output=tmp_path / "out").global_step == 2


def test_several_processes_are_refused_until_they_are_supported(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="with several processes is not supported yet"):
        pretrain(stage1_config(), **world.stage1_inputs, output=tmp_path)


def test_a_loss_that_is_no_number_is_an_error(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = torch.tensor(float("nan"))
    monkeypatch.setattr(AlignGPTTrainer, "training_step", lambda self, *args, **kwargs: broken)
    with pytest.raises(ValueError, match="the loss is nan"):
        pretrain(stage1_config(), **world.stage1_inputs, output=tmp_path)
    assert not (tmp_path / "train_results.json").exists()


def test_a_text_without_room_for_its_answer_ends_no_run(world: World, stage1: Path, tmp_path: Path) -> None:
    def lengthen(records: list[dict[str, Any]]) -> None:
        for record in records:
            if "image" not in record:  # all of the text-only ones, so that whole batches have nothing to learn
                record["conversations"][0]["value"] = "Say. " * 200

    data = world.rewrite("finetune.json", tmp_path / "long.json", lengthen)
    inputs = world.stage2_inputs | {"data": data}
    config = stage2_config(max_steps=6, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    result = finetune(config, **inputs, stage1=stage1, output=tmp_path / "run")
    assert result.global_step == 6 and result.num_truncated == 3
    assert all(math.isfinite(entry.loss or 0.0) for entry in result.log_history)


def test_a_run_of_which_nothing_fits_is_an_error(world: World, stage1: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sample has an answer within max_length 5; start again"):
        finetune(stage2_config(max_length=5), **world.stage2_inputs, stage1=stage1, output=tmp_path / "run")
    assert not (tmp_path / "run" / "train_results.json").exists()


def test_a_final_loss_is_told_even_of_a_run_too_short_to_log(world: World, tmp_path: Path) -> None:
    result = pretrain(stage1_config(logging_steps=10), **world.stage1_inputs, output=tmp_path)
    assert result.log_history == [] and result.final_loss > 0


def test_a_done_stage_2_loads_no_model(
    world: World, stage1: Path, stage2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aligngpt.training.runner.load_stage1", None)
    assert finetune(stage2_config(), **world.stage2_inputs, stage1=stage1, output=stage2).global_step == 2
