"""The two stages: what trains in each, and how each is run from files to a checkpoint."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from aligngpt.curation.levels import LEVELS_JSON, LEVELS_PARQUET, levels_file, read_levels
from aligngpt.data.schema import ReadResult, read_conversations, read_pairs
from aligngpt.modeling import AlignGPTForConditionalGeneration, AlignGPTProcessor
from aligngpt.modeling.alignment import needs_gate
from aligngpt.modeling.checkpoints import WEIGHTS_FILE, describe_backbones, load_stage1, read_stage1, save_stage1
from aligngpt.training.collator import Collator
from aligngpt.training.configs import FinetuneConfig, PretrainConfig, StageConfig
from aligngpt.training.datasets import InstructionDataset, PretrainDataset
from aligngpt.training.trainer import AlignGPTTrainer
from aligngpt.utils.io import hash_file, read_json, versions, write_json

logger = logging.getLogger(__name__)

Stage = Literal["pretrain", "finetune"]

# What trains in each stage; everything else is frozen.
TRAINABLE_MODULES: dict[Stage, dict[str, bool]] = {
    "pretrain": {
        "vision_tower": False,
        "multi_modal_projector": True,
        "alignment_embeddings": True,
        "alignment_gate": False,
        "language_model": False,
    },
    "finetune": {
        "vision_tower": False,
        "multi_modal_projector": True,
        "alignment_embeddings": False,
        "alignment_gate": True,
        "language_model": True,
    },
}
RECIPE_FILE = "recipe.json"
RESULT_FILE = "training.json"
_CHECKPOINTING = (  # the name changed with transformers 5.2x
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)
_HISTORY = ("step", "loss", "learning_rate", "grad_norm")
_LOSS_SAMPLES_PER_LEVEL = 128


def apply_stage(model: AlignGPTForConditionalGeneration, stage: Stage) -> list[dict[str, Any]]:
    """Freeze and unfreeze the model's parts as `TRAINABLE_MODULES` says, and log the table.

    Parts that the model's alignment setting does not use do not train: table and gate under `"none"`, the gate
    wherever the setting reads no gate.

    Returns:
        A row for each part: `part`, `parameters`, `trains`.
    """
    alignment = model.config.alignment
    unused = {"alignment_gate"} if stage == "finetune" and not needs_gate(alignment) else set()
    if alignment == "none":
        unused |= {"alignment_embeddings", "alignment_gate"}
    rows = []
    for part, trains in TRAINABLE_MODULES[stage].items():
        module = getattr(model, part)
        module.requires_grad_(trains and part not in unused)
        count = sum(parameter.numel() for parameter in module.parameters())
        rows.append({"part": part, "parameters": count, "trains": trains and part not in unused})
        logger.info("%s: %-22s %14s %s", stage, part, f"{count:,}", "trains" if rows[-1]["trains"] else "frozen")
    return rows


def pretrain(
    config: PretrainConfig,
    *,
    data: str | Path,
    images: str | Path,
    language_model: str | Path,
    vision_tower: str | Path,
    output: str | Path,
    levels: str | Path | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Run stage 1 and write a stage-1 checkpoint; done work is returned, interrupted work resumed.

    Args:
        config: Every number of the run.
        data: Pairs, LLaVA JSON or JSON Lines.
        images: Folder of the images.
        language_model, vision_tower: Checkpoint folders or hub names.
        output: Folder of the checkpoint; also gets `recipe.json` and `training.json`.
        levels: `levels.parquet`, or its folder; the levels in the pairs themselves are used without it.
        strict: A bad record is an error.

    Returns:
        What `training.json` holds: losses, counts, seconds.

    Raises:
        ValueError: Levels are missing, or `output` holds a run of another config or other data.
        StrictDataError: Bad records with `strict`.
    """
    read = read_pairs(data, images, check_images="decode" if strict else config.check_images)
    _report_bad(read, strict)
    known_levels = _levels_of(config, read, levels)
    base = describe_backbones(language_model, vision_tower)
    inputs = {"data": read.source_hash, "levels": _hash_levels(levels), **base.identity}
    run = _Run(Path(output), "pretrain", config, inputs)
    if run.done:
        return run.result()

    set_seed(config.seed)
    settings: dict[str, Any] = {
        "template": config.template,
        "num_alignment_levels": config.num_alignment_levels,
        "image_aspect_ratio": config.image_aspect_ratio,
        "alignment": "none" if config.alignment == "none" else "global",  # the gate learns in stage 2
    }
    model, processor = AlignGPTForConditionalGeneration.from_backbones(
        language_model, vision_tower, attn_implementation=config.attn_implementation, **settings
    )
    dataset = PretrainDataset(read.records, images, processor, known_levels, config.max_length)
    result = run.train(model, processor, dataset)
    save_stage1(model, run.output, base, settings)
    if known_levels is not None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
            result["loss_by_level"] = loss_by_level(model, processor, dataset, config.num_alignment_levels)
    return run.finish(
        result | {"alignment": config.alignment, "num_without_level": dataset.num_without_level, "bad": len(read.bad)}
    )


def finetune(
    config: FinetuneConfig,
    *,
    data: str | Path,
    images: str | Path,
    output: str | Path,
    stage1: str | Path | None = None,
    language_model: str | Path | None = None,
    vision_tower: str | Path | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Run stage 2 and write a complete model folder; done work is returned, interrupted work resumed.

    Args:
        config: Every number of the run.
        data: Conversations, LLaVA JSON or JSON Lines.
        images: Folder of the images.
        output: The model folder; also gets `recipe.json` and `training.json`.
        stage1: Stage-1 checkpoint. It can be left out only with `alignment_embeddings="random"` and both backbones.
        language_model, vision_tower: Where the backbones lie, if not where stage 1 found them.
        strict: A bad record is an error.

    Returns:
        What `training.json` holds: losses, counts, seconds.

    Raises:
        ValueError: There is no stage-1 checkpoint and random embeddings were not asked for, or `output` holds another
            run.
        StrictDataError: Bad records with `strict`.
    """
    if stage1 is None and (config.alignment_embeddings != "random" or not language_model or not vision_tower):
        raise ValueError(
            "stage 2 needs a stage-1 checkpoint: give one, or ask for alignment_embeddings='random' by name and give "
            "the language model and the vision tower"
        )
    read = read_conversations(data, images, check_images="decode" if strict else config.check_images)
    _report_bad(read, strict)
    base = read_stage1(stage1).backbones if stage1 else describe_backbones(str(language_model), str(vision_tower))
    stage1_hash = hash_file(Path(stage1) / WEIGHTS_FILE) if stage1 else ""
    inputs = {"data": read.source_hash, "stage1": stage1_hash, **base.identity}
    run = _Run(Path(output), "finetune", config, inputs)
    if run.done:
        return run.result()
    set_seed(config.seed)
    model, processor = _stage2_model(config, stage1, language_model, vision_tower)
    dataset = InstructionDataset(read.records, images, processor, config.max_length)
    result = run.train(model, processor, dataset)
    model.save_pretrained(run.output)
    processor.save_pretrained(run.output)
    return run.finish(result | {"alignment": config.alignment, "bad": len(read.bad)})


def _stage2_model(
    config: FinetuneConfig,
    stage1: str | Path | None,
    language_model: str | Path | None,
    vision_tower: str | Path | None,
) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    overrides: dict[str, Any] = {
        "alignment": config.alignment,
        "gate_text": config.gate_text,
        "image_aspect_ratio": config.image_aspect_ratio,
    }
    if config.template is not None:
        overrides["template"] = config.template
    if stage1 is not None:
        model, processor, _ = load_stage1(
            stage1,
            language_model=language_model,
            vision_tower=vision_tower,
            random_embeddings=config.alignment_embeddings == "random",
            attn_implementation=config.attn_implementation,
            **overrides,
        )
    else:
        assert language_model and vision_tower  # finetune has checked it
        overrides["num_alignment_levels"] = config.num_alignment_levels
        model, processor = AlignGPTForConditionalGeneration.from_backbones(
            language_model, vision_tower, attn_implementation=config.attn_implementation, **overrides
        )
    return model, processor


# ----------------------------------------------------------------------------------------------------------- one run


class _Run:
    """The output folder of one stage: what it is a run of, whether it is done, where it can resume."""

    def __init__(self, output: Path, stage: Stage, config: StageConfig, inputs: Mapping[str, Any]) -> None:
        self.output = output
        self.stage = stage
        self.config = config
        self._resolved = json.loads(json.dumps({"stage": stage, "config": asdict(config), "inputs": dict(inputs)}))
        if (output / RECIPE_FILE).is_file():
            known = read_json(output / RECIPE_FILE)
            changed = sorted(key for key, value in self._resolved.items() if known.get(key) != value)
            if changed:
                raise ValueError(
                    f"{output} holds a run with another {' and other '.join(changed)}: choose another output folder, "
                    "or remove this one"
                )
        self.done = (output / RESULT_FILE).is_file()

    def result(self) -> dict[str, Any]:
        """What a finished run left."""
        return read_json(self.output / RESULT_FILE)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result last, which marks the run as done, and drop what was kept to resume from."""
        write_json(self.output / RESULT_FILE, result)
        for checkpoint in self.output.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return result

    def train(
        self, model: AlignGPTForConditionalGeneration, processor: AlignGPTProcessor, dataset: Dataset
    ) -> dict[str, Any]:
        """Train, from the last checkpoint if there is one."""
        parameters = apply_stage(model, self.stage)
        if self.stage == "pretrain":  # a checkpoint holds what trains, alone
            model._keys_to_ignore_on_save = [
                name for name, value in model.named_parameters() if not value.requires_grad
            ]
        trainer = AlignGPTTrainer(
            model=model,
            args=training_arguments(self.config, self.output, len(dataset)),  # type: ignore[arg-type]
            train_dataset=dataset,
            data_collator=Collator(processor.tokenizer.pad_token_id),
            group_by_modality=self.stage == "finetune",
        )
        if not (self.output / RECIPE_FILE).is_file():  # only now: what cannot start leaves no claim on the folder
            write_json(self.output / RECIPE_FILE, self._resolved | {"versions": versions()})
        outcome = trainer.train(resume_from_checkpoint=_last_checkpoint(self.output))
        model._keys_to_ignore_on_save = None
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        last = [entry["loss"] for entry in history[-5:]] or [outcome.training_loss]
        final_loss = sum(last) / len(last)
        if not math.isfinite(final_loss):
            raise ValueError(f"the loss became {final_loss}: start again in a new folder with a lower learning rate")
        if history and not trainer.learned_batches:
            raise ValueError(
                f"no sample has an answer within max_length {self.config.max_length}, so nothing was learned: raise it "
                "and start again in a new folder"
            )
        return {
            "stage": self.stage,
            "steps": trainer.state.global_step,
            "samples": len(dataset),  # type: ignore[arg-type]
            "seconds": round(outcome.metrics["train_runtime"], 2),
            "truncated_samples": trainer.truncated_samples,
            "final_loss": round(final_loss, 4),
            "history": [{key: entry.get(key) for key in _HISTORY} for entry in history],
            "loss_by_level": None,
            "parameters": parameters,
        }


def _last_checkpoint(output: Path) -> str | None:
    """The last checkpoint that was written whole; the trainer's state is the last of its files."""
    whole = [path.parent for path in output.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def training_arguments(config: StageConfig, output: Path, samples: int) -> TrainingArguments:
    """A config as `transformers.TrainingArguments`.

    Raises:
        ValueError: A launcher started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # set by torchrun and accelerate launch
        raise ValueError("training over several processes is not supported yet: start one process, without a launcher")
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    steps = config.max_steps
    if steps < 0:
        steps = math.ceil(config.num_train_epochs * math.ceil(samples / per_step))
    checkpointing = {_CHECKPOINTING: True} if config.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        dataloader_num_workers=config.dataloader_num_workers,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # a loss that is no number is to be seen
        save_steps=config.save_steps,
        save_total_limit=1,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to=config.report_to,
        **checkpointing,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process has one GPU: no DataParallel over all it sees
    return arguments


@torch.no_grad()
def loss_by_level(
    model: AlignGPTForConditionalGeneration, processor: AlignGPTProcessor, dataset: PretrainDataset, num_levels: int
) -> list[float | None]:
    """Mean caption loss of the pairs of each level, 1 to N, told that level; `None` where a level has no pair.

    Over at most 128 pairs of each level, the same ones whenever the data are the same.
    """
    by_level: dict[int, list[int]] = {level: [] for level in range(1, num_levels + 1)}
    for index, pair in enumerate(dataset.pairs):
        members = by_level[dataset.levels[pair.id]]  # type: ignore[index]
        if len(members) < _LOSS_SAMPLES_PER_LEVEL:
            members.append(index)
    collate = Collator(processor.tokenizer.pad_token_id)
    was_training = model.training
    model.eval()
    losses: list[float | None] = []
    for members in by_level.values():
        total, tokens = 0.0, 0
        for start in range(0, len(members), 32):
            batch = collate([dataset[index] for index in members[start : start + 32]])
            batch.pop("truncated")
            batch = {key: value.to(model.device) for key, value in batch.items()}
            count = int((batch["labels"] != -100).sum())
            if count:
                total += float(model(**batch, use_cache=False).loss) * count
                tokens += count
        losses.append(round(total / tokens, 4) if tokens else None)
    model.train(was_training)
    return losses


# ------------------------------------------------------------------------------------------------------------ inputs


def _report_bad(read: ReadResult, strict: bool) -> None:
    if strict:
        read.raise_if_bad()
    read.raise_if_empty()
    for record in read.bad:
        logger.warning("left out: %s", record)


def _hash_levels(levels: str | Path | None) -> str:
    return "" if levels is None else hash_file(levels_file(levels, LEVELS_PARQUET))


def _check_number_of_levels(config: PretrainConfig, levels: str | Path) -> None:
    """A table with more rows than there are levels would leave its global row untrained."""
    beside = levels_file(levels, LEVELS_PARQUET).with_name(LEVELS_JSON)
    if beside.is_file():
        number = read_json(beside)["num_levels"]
        if number != config.num_alignment_levels:
            raise ValueError(
                f"{beside} divides the pairs into {number} levels, but num_alignment_levels is "
                f"{config.num_alignment_levels}: give the same number"
            )


def _levels_of(config: PretrainConfig, read: ReadResult, levels: str | Path | None) -> dict[str, int] | None:
    """Level of each pair by id, from the levels file or the pairs themselves; `None` without alignment.

    Raises:
        ValueError: There are no levels, or one lies outside 1..N.
    """
    if config.alignment == "none":
        return None
    if levels is not None:
        known = read_levels(levels)
        _check_number_of_levels(config, levels)
    else:
        known = {pair.id: pair.alignment_level for pair in read.records if pair.alignment_level is not None}
    if not known:
        raise ValueError("the pairs carry no levels: run aligngpt level and give its output, or alignment='none'")
    strange = {min(known.values()), max(known.values())} - set(range(1, config.num_alignment_levels + 1))
    if strange:
        raise ValueError(
            f"a pair has level {max(strange)}, but num_alignment_levels is {config.num_alignment_levels}, counted from "
            "1: give the number of levels that the pairs were divided into"
        )
    if max(known.values()) < config.num_alignment_levels:
        logger.warning(
            "no pair has a level above %d of %d: the global embedding stays untrained unless num_alignment_levels is "
            "the number that the pairs were divided into",
            max(known.values()),
            config.num_alignment_levels,
        )
    return known
