"""Runs of both stages: read the data, build the model, train, write the checkpoint."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from transformers.trainer import TRAINER_STATE_NAME

from aligngpt.curation.levels import LEVELS_JSON, LEVELS_PARQUET, levels_file
from aligngpt.data.indexed import IndexedSource, open_conversations, open_pairs
from aligngpt.data.schema import ImageTextPair
from aligngpt.data.sources import open_source
from aligngpt.modeling.checkpoints import describe_backbones, load_stage1, read_stage1, save_stage1
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor
from aligngpt.training.artifacts import LogEntry, SkippedSample, Stage, TrainResult
from aligngpt.training.callbacks import ProgressReporter
from aligngpt.training.collator import Collator
from aligngpt.training.configs import FinetuneConfig, PretrainConfig, StageConfig
from aligngpt.training.datasets import InstructionDataset, PretrainDataset, read_levels_of
from aligngpt.training.freezing import apply_stage
from aligngpt.training.trainer import AlignGPTTrainer, training_arguments
from aligngpt.utils.config import CONFIG_FILE, write_yaml
from aligngpt.utils.io import apply_umask, read_json, versions, write_jsonl
from aligngpt.utils.output_dir import OutputDir
from aligngpt.utils.progress import progress, status

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped.jsonl"
_LOSS_SAMPLES_PER_LEVEL = 128
_LOSS_BATCH_SIZE = 32
_FINAL_ENTRIES = 5  # log entries that final_loss is the mean of

ModelAndProcessor = tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]


def run_pretrain(
    run: OutputDir,
    config: PretrainConfig,
    *,
    data: str | Path,
    images: str | Path,
    language_model: str | Path,
    vision_tower: str | Path,
    levels: str | Path | None,
    strict: bool,
) -> TrainResult:
    """Train projector and alignment embeddings and write a stage-1 checkpoint; arguments as `stages.pretrain`."""
    pairs = open_pairs(open_source(data, images))
    pairs.check(strict)
    pair_levels = read_pair_levels(config, pairs, levels)
    set_seed(config.seed)
    settings: dict[str, Any] = {
        "template": config.template,
        "num_alignment_levels": config.num_alignment_levels,
        "image_aspect_ratio": config.image_aspect_ratio,
        "alignment": "none" if config.alignment == "none" else "global",  # stage 2 trains the gate
    }
    with status(f"loading {language_model} and {vision_tower}"):
        model, processor = AlignGPTForConditionalGeneration.from_backbones(
            language_model, vision_tower, attn_implementation=config.attn_implementation, **settings
        )
    dataset = PretrainDataset(pairs, processor, pair_levels, config.max_length)
    outcome, skipped = train(run, "pretrain", config, model, processor, dataset, strict=strict)
    save_stage1(model, run.path, describe_backbones(language_model, vision_tower), settings)
    losses = None
    if pair_levels is not None:
        with (
            status("computing the loss of each level"),
            torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16),
        ):
            losses = loss_by_level(model, processor, dataset, config.num_alignment_levels)
    outcome |= {"alignment": config.alignment, "loss_by_level": losses, "num_without_level": dataset.num_without_level}
    return finish(run, outcome, [*map(dataclasses.asdict, pairs.bad), *skipped])


def run_finetune(
    run: OutputDir,
    config: FinetuneConfig,
    *,
    data: str | Path,
    images: str | Path,
    stage1: str | Path | None,
    language_model: str | Path | None,
    vision_tower: str | Path | None,
    strict: bool,
) -> TrainResult:
    """Train language model, projector and gate and write a complete model; arguments as `stages.finetune`."""
    if stage1 is not None:
        read_stage1(stage1)  # a wrong folder is noticed before the data are read
    conversations = open_conversations(open_source(data, images))
    conversations.check(strict)
    set_seed(config.seed)
    with status(f"loading {stage1 or language_model}"):
        model, processor = _load_stage2_model(config, stage1, language_model, vision_tower)
    dataset = InstructionDataset(conversations, processor, config.max_length)
    outcome, skipped = train(run, "finetune", config, model, processor, dataset, strict=strict)
    with status(f"writing {run.path}"):
        model.save_pretrained(run.path)
        processor.save_pretrained(run.path)
        apply_umask(run.path)
    outcome |= {"alignment": config.alignment, "loss_by_level": None, "num_without_level": 0}
    return finish(run, outcome, [*map(dataclasses.asdict, conversations.bad), *skipped])


def _load_stage2_model(
    config: FinetuneConfig,
    stage1: str | Path | None,
    language_model: str | Path | None,
    vision_tower: str | Path | None,
) -> ModelAndProcessor:
    settings: dict[str, Any] = {
        "alignment": config.alignment,
        "gate_text": config.gate_text,
        "image_aspect_ratio": config.image_aspect_ratio,
        "attn_implementation": config.attn_implementation,
    }
    if config.template is not None:
        settings["template"] = config.template
    if stage1 is None:
        assert language_model and vision_tower  # checked by stages.finetune
        settings["num_alignment_levels"] = config.num_alignment_levels
        return AlignGPTForConditionalGeneration.from_backbones(language_model, vision_tower, **settings)
    model, processor, _ = load_stage1(
        stage1,
        language_model=language_model,
        vision_tower=vision_tower,
        random_embeddings=config.alignment_embeddings == "random",
        **settings,
    )
    return model, processor


def train(
    run: OutputDir,
    stage: Stage,
    config: StageConfig,
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    dataset: PretrainDataset | InstructionDataset,
    *,
    strict: bool,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train from the last checkpoint of the run, or from the beginning.

    Returns:
        The fields of `TrainResult` that training determines, and the samples that were skipped.

    Raises:
        ValueError: The loss is not finite, or no sample has a label.
    """
    modules = apply_stage(model, stage)
    if stage == "pretrain":  # checkpoints contain the trained parameters alone
        model._keys_to_ignore_on_save = [name for name, value in model.named_parameters() if not value.requires_grad]
    num_samples = len(dataset)
    dataset.check_images()
    arguments = training_arguments(config, run.path, num_samples)
    trainer = AlignGPTTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=Collator(processor.tokenizer.pad_token_id),
        group_by_modality=stage == "finetune",
        strict=strict,
    )
    run.start(versions=versions())  # only now: a run that cannot start does not claim the folder
    write_yaml(run.path / CONFIG_FILE, config, f"aligngpt {stage}; run it again with --config {CONFIG_FILE}")
    checkpoint = find_last_checkpoint(run.path)
    done = 0 if checkpoint is None else _step_of(checkpoint)
    with progress(f"{stage} steps", arguments.max_steps, done=done) as advance:
        trainer.add_callback(ProgressReporter(advance, stage))
        output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    model._keys_to_ignore_on_save = None
    history = [LogEntry.model_validate(_log_entry(entry)) for entry in trainer.state.log_history if "loss" in entry]
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry] or [output.training_loss]
    final_loss = sum(losses[-_FINAL_ENTRIES:]) / len(losses[-_FINAL_ENTRIES:])
    if not math.isfinite(final_loss):
        raise ValueError(f"the loss is {final_loss}; start again in a new --output with a lower --learning-rate")
    if history and not trainer.has_learned:
        raise ValueError(
            f"no sample has an answer within max_length {config.max_length}; start again in a new --output with a "
            "larger --max-length"
        )
    outcome = {
        "stage": stage,
        "global_step": trainer.state.global_step,
        "global_batch_size": config.per_device_train_batch_size * config.gradient_accumulation_steps,
        "num_samples": num_samples,
        "num_truncated": trainer.counter.num_truncated,
        "train_runtime": round(output.metrics["train_runtime"], 2),
        "train_loss": round(sum(losses) / len(losses), 4),
        "final_loss": round(final_loss, 4),
        "log_history": history,
        "modules": modules,
    }
    return outcome, trainer.counter.skipped


def _log_entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in LogEntry.model_fields}


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the last complete checkpoint of a run; the trainer's state is the last file of one."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return max(complete, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def finish(run: OutputDir, outcome: dict[str, Any], skipped: list[dict[str, Any]]) -> TrainResult:
    """Write the skipped samples and, last, the result, which completes the run; delete its checkpoints."""
    write_jsonl(run.path / SKIPPED_FILE, [SkippedSample.model_validate(sample).model_dump() for sample in skipped])
    result = TrainResult(**outcome, num_skipped=len(skipped))
    result.write(run.path)
    for checkpoint in run.path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return result


@torch.no_grad()
def loss_by_level(
    model: AlignGPTForConditionalGeneration, processor: AlignGPTProcessor, dataset: PretrainDataset, num_levels: int
) -> list[float | None]:
    """Return the mean caption loss (nats per token) of the pairs of each level 1..N, conditioned on that level.

    At most 128 pairs of each level are used, the same for the same data. A level without pairs has `None`.
    """
    by_level: dict[int, list[int]] = {level: [] for level in range(1, num_levels + 1)}
    assert dataset.levels is not None
    for level, members in by_level.items():
        members += np.flatnonzero(dataset.levels == level)[:_LOSS_SAMPLES_PER_LEVEL].tolist()
    collate = Collator(processor.tokenizer.pad_token_id)
    was_training = model.training
    model.eval()
    losses: list[float | None] = []
    for members in by_level.values():
        total, num_tokens = 0.0, 0
        for start in range(0, len(members), _LOSS_BATCH_SIZE):
            batch = collate([dataset[index] for index in members[start : start + _LOSS_BATCH_SIZE]])
            inputs = {key: value.to(model.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
            count = int((inputs["labels"] != -100).sum())
            if count:
                total += float(model(**inputs, use_cache=False).loss) * count
                num_tokens += count
        losses.append(round(total / num_tokens, 4) if num_tokens else None)
    model.train(was_training)
    return losses


def read_pair_levels(
    config: PretrainConfig, pairs: IndexedSource[ImageTextPair], levels: str | Path | None
) -> np.ndarray | None:
    """Return the level of each pair, uint8 (pairs,), 0 for a pair without one; `None` without alignment.

    Raises:
        ValueError: There are no levels, or a level is outside 1..N.
    """
    if config.alignment == "none":
        return None
    if levels is not None:
        _check_num_levels(config, levels)
    pair_levels = read_levels_of(pairs, levels)
    highest = int(pair_levels.max(initial=0))
    if not highest and levels is None:
        raise ValueError("the pairs have no levels; pass --levels (written by aligngpt level) or --alignment none")
    if highest > config.num_alignment_levels:
        raise ValueError(
            f"a pair has level {highest}, but the levels of num_alignment_levels {config.num_alignment_levels} are 1 "
            f"to {config.num_alignment_levels}; pass --num-alignment-levels as in aligngpt level"
        )
    if highest < config.num_alignment_levels:
        logger.warning(
            "the highest level of any pair is %d of %d; the global embedding stays untrained unless "
            "--num-alignment-levels is the number that the pairs were binned into",
            *(highest, config.num_alignment_levels),
        )
    return pair_levels


def _check_num_levels(config: PretrainConfig, levels: str | Path) -> None:
    """Check N against `levels.json`: a larger table would leave its last row, the global embedding, untrained."""
    summary = levels_file(levels, LEVELS_PARQUET).with_name(LEVELS_JSON)
    if summary.is_file():
        num_levels = read_json(summary)["num_levels"]
        if num_levels != config.num_alignment_levels:
            raise ValueError(
                f"{summary} has {num_levels} levels, but num_alignment_levels is {config.num_alignment_levels}; pass "
                f"--num-alignment-levels {num_levels}"
            )
