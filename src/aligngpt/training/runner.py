"""Runs of both stages: open the data, load the model, train, write the checkpoint."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from aligngpt.data.indexed import open_conversations, open_pairs
from aligngpt.data.schema import BadRecord
from aligngpt.data.sources import open_source
from aligngpt.modeling.checkpoints import describe_backbones, load_stage1, save_stage1
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.training.artifacts import LogEntry, SkippedSample, Stage, TrainResult
from aligngpt.training.callbacks import ProgressReporter
from aligngpt.training.collator import Collator
from aligngpt.training.configs import FinetuneConfig, PretrainConfig
from aligngpt.training.datasets import InstructionDataset, PretrainDataset
from aligngpt.training.freezing import apply_stage
from aligngpt.training.levels import compute_loss_by_level, read_pair_levels
from aligngpt.training.stages import StageInputs
from aligngpt.training.trainer import AlignGPTTrainer, build_training_arguments
from aligngpt.utils.config import CONFIG_FILE, write_yaml
from aligngpt.utils.io import apply_umask, versions, write_jsonl
from aligngpt.utils.output_dir import OutputDir
from aligngpt.utils.progress import progress, status

SKIPPED_FILE = "skipped.jsonl"
_FINAL_ENTRIES = 5  # log entries that final_loss is the mean of


def run_pretrain(run: OutputDir, config: PretrainConfig, inputs: StageInputs) -> TrainResult:
    """Train projector and alignment embeddings and write a stage-1 checkpoint."""
    assert inputs.language_model and inputs.vision_tower and config.num_alignment_levels  # set by pretrain
    pairs = open_pairs(open_source(inputs.data, inputs.images))
    pairs.check(inputs.strict)
    num_levels = config.num_alignment_levels
    pair_levels = None if config.alignment == "none" else read_pair_levels(pairs, inputs.levels, num_levels)
    set_seed(config.seed)
    names = ("template", "num_alignment_levels", "image_aspect_ratio")
    settings = {name: getattr(config, name) for name in names}
    settings["alignment"] = "none" if config.alignment == "none" else "global"  # stage 2 trains the gate
    backbones = (inputs.language_model, inputs.vision_tower)
    with status(f"loading {backbones[0]} and {backbones[1]}"):
        model, processor = AlignGPTForConditionalGeneration.from_backbones(
            *backbones, attn_implementation=config.attn_implementation, **settings
        )
    dataset = PretrainDataset(pairs, processor, pair_levels, config.max_length)
    outcome = train(run, "pretrain", config, model, processor, dataset, strict=inputs.strict)
    save_stage1(model, run.path, describe_backbones(*backbones), settings)
    losses = None
    if pair_levels is not None:
        with (
            status("computing the loss of each level"),
            torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16),
        ):
            losses = compute_loss_by_level(model, processor, dataset, num_levels)
    outcome |= {"loss_by_level": losses, "num_without_level": dataset.num_without_level}
    return finish(run, outcome, pairs.bad)


def run_finetune(run: OutputDir, config: FinetuneConfig, inputs: StageInputs) -> TrainResult:
    """Train language model, projector and gate and write a complete model."""
    conversations = open_conversations(open_source(inputs.data, inputs.images))
    conversations.check(inputs.strict)
    set_seed(config.seed)
    with status(f"loading {inputs.stage1 or inputs.language_model}"):
        model, processor = _load_stage2_model(config, inputs)
    dataset = InstructionDataset(conversations, processor, config.max_length)
    outcome = train(run, "finetune", config, model, processor, dataset, strict=inputs.strict)
    with status(f"writing {run.path}"):
        model.save_pretrained(run.path)
        processor.save_pretrained(run.path)
        apply_umask(run.path)
    return finish(run, outcome, conversations.bad)


def _load_stage2_model(
    config: FinetuneConfig, inputs: StageInputs
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    names = ("alignment", "gate_text", "image_aspect_ratio", "attn_implementation")
    settings = {name: getattr(config, name) for name in names}
    if config.template is not None:
        settings["template"] = config.template
    if inputs.stage1 is None:
        assert inputs.language_model and inputs.vision_tower  # checked by finetune
        settings["num_alignment_levels"] = config.num_alignment_levels
        return AlignGPTForConditionalGeneration.from_backbones(inputs.language_model, inputs.vision_tower, **settings)
    model, processor, _ = load_stage1(
        inputs.stage1,
        language_model=inputs.language_model,
        vision_tower=inputs.vision_tower,
        random_embeddings=config.alignment_embeddings == "random",
        **settings,
    )
    return model, processor


def train(
    run: OutputDir,
    stage: Stage,
    config: PretrainConfig | FinetuneConfig,
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    dataset: PretrainDataset | InstructionDataset,
    *,
    strict: bool,
) -> dict[str, Any]:
    """Train from the last checkpoint of the run, or from the beginning.

    Returns:
        The fields of `TrainResult` that training determines, and `skipped`, the samples that it skipped.

    Raises:
        ValueError: The loss is not finite, or no sample has a label.
    """
    modules = apply_stage(model, stage)
    if stage == "pretrain":  # checkpoints contain the trained parameters alone
        model._keys_to_ignore_on_save = [name for name, value in model.named_parameters() if not value.requires_grad]
    dataset.check_images()
    trainer = AlignGPTTrainer(
        model=model,
        args=build_training_arguments(config, run.path, len(dataset)),
        train_dataset=dataset,
        data_collator=Collator(processor.tokenizer.pad_token_id),
        group_by_modality=stage == "finetune",
        strict=strict,
    )
    run.start(versions=versions())  # only now: a run that cannot start does not claim the folder
    write_yaml(run.path / CONFIG_FILE, config, f"aligngpt {stage}; run it again with --config {CONFIG_FILE}")
    checkpoint = find_last_checkpoint(run.path)
    done = 0 if checkpoint is None else _parse_step(checkpoint)
    with progress(f"{stage} steps", trainer.args.max_steps, done=done) as advance:
        trainer.add_callback(ProgressReporter(advance, stage))
        output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    model._keys_to_ignore_on_save = None
    losses = _summarize_losses(trainer.state, output.training_loss)
    if losses["log_history"] and not trainer.has_learned:
        raise ValueError(
            f"no sample has an answer within max_length {config.max_length}; start again in a new --output with a "
            "larger --max-length"
        )
    return {
        "stage": stage,
        "alignment": config.alignment,
        "global_step": trainer.state.global_step,
        "global_batch_size": config.per_device_train_batch_size * config.gradient_accumulation_steps,
        "num_samples": len(dataset),
        "num_truncated": trainer.counter.num_truncated,
        "skipped": trainer.counter.skipped,
        "train_runtime": round(output.metrics["train_runtime"], 2),
        "modules": modules,
        **losses,
    }


def _summarize_losses(state: TrainerState, training_loss: float) -> dict[str, Any]:
    """Return the fields of `TrainResult` about the loss; a run too short for a log entry has `training_loss`."""
    entries = [{name: entry.get(name) for name in LogEntry.model_fields} for entry in state.log_history]
    history = [entry for entry in entries if entry["loss"] is not None]
    losses = [float(entry["loss"]) for entry in history] or [training_loss]
    last = losses[-_FINAL_ENTRIES:]
    final_loss = sum(last) / len(last)
    if not math.isfinite(final_loss):
        raise ValueError(f"the loss is {final_loss}; start again in a new --output with a lower --learning-rate")
    return {
        "train_loss": round(sum(losses) / len(losses), 4),
        "final_loss": round(final_loss, 4),
        "log_history": history,
    }


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the last complete checkpoint of a run; the trainer's state is the last file of one."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return max(complete, key=_parse_step, default=None)


def _parse_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def finish(run: OutputDir, outcome: dict[str, Any], bad: Iterable[BadRecord]) -> TrainResult:
    """Write the skipped samples and, last, the result, which completes the run; delete its checkpoints."""
    skipped = [SkippedSample(**sample) for sample in (*map(dataclasses.asdict, bad), *outcome.pop("skipped"))]
    write_jsonl(run.path / SKIPPED_FILE, [sample.model_dump() for sample in skipped])
    result = TrainResult(**outcome, num_skipped=len(skipped))
    result.write(run.path)
    for checkpoint in run.path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return result
