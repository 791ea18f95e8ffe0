"""A thin `transformers.Trainer`: the order of samples, the inputs of the model, and its arguments."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from aligngpt.data.schema import BadRecord, StrictDataError
from aligngpt.training.callbacks import SampleCounter
from aligngpt.training.configs import StageConfig
from aligngpt.training.datasets import IGNORED
from aligngpt.training.sampler import ModalityGroupedSampler
from aligngpt.utils.processes import available_cpus

logger = logging.getLogger(__name__)

MIN_STEPS = 20  # a run with fewer optimizer steps logs a warning
_CHECKPOINTING = (  # the name changed with transformers 5.2x
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)

# Fields of a configuration that are not passed to TrainingArguments unchanged.
_CONVERTED = {"max_steps", "num_train_epochs", "warmup_ratio", "dataloader_num_workers", "gradient_checkpointing"}


class AlignGPTTrainer(Trainer):
    """Trains either stage.

    Args:
        group_by_modality: Order samples with `ModalityGroupedSampler` (stage 2) instead of shuffling them.
        strict: Stop at the first sample that has to be skipped.
        **kwargs: Arguments of `Trainer`.
    """

    def __init__(self, *, group_by_modality: bool = False, strict: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group_by_modality = group_by_modality
        self.strict = strict
        self.has_learned = False  # whether any batch of this call had a label
        self.counter = SampleCounter()
        self.add_callback(self.counter)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if not self.group_by_modality:
            return super()._get_train_sampler(train_dataset)
        return ModalityGroupedSampler(
            self.train_dataset.modality_lengths,
            self.args.per_device_train_batch_size,
            self.args.world_size * self.args.gradient_accumulation_steps,
            seed=self.args.seed,
        )

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch, which is zero if it has no label; count its truncated and skipped samples."""
        truncated, skipped = inputs.pop("truncated", 0), inputs.pop("skipped", [])
        if skipped and self.strict:
            raise StrictDataError(str(BadRecord(**skipped[0])))
        if model.training:
            self.counter.count(int(truncated), skipped)
        inputs = {**inputs, "use_cache": False}
        if bool((inputs["labels"] != IGNORED).any()):
            self.has_learned = True
            return super().compute_loss(model, inputs, *args, **kwargs)
        outputs = model(**inputs)  # the mean over no tokens is not a number
        trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
        loss = (outputs.logits.flatten()[0] + sum(parameter.flatten()[0] for parameter in trainable)) * 0
        return (loss, outputs) if kwargs.get("return_outputs") else loss


def build_training_arguments(config: StageConfig, output: Path, num_samples: int) -> TrainingArguments:
    """Return the `transformers.TrainingArguments` of a configuration; log the global batch size.

    Raises:
        ValueError: A launcher started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # set by torchrun and accelerate launch
        raise ValueError("training with several processes is not supported yet; start one process, without a launcher")
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    steps = config.max_steps
    if steps < 0:
        steps = math.ceil(config.num_train_epochs * math.ceil(num_samples / batch))
        if steps < MIN_STEPS:
            logger.warning(
                "the data fill only %d optimizer steps (%d samples, global batch size %d, num_train_epochs %g); for "
                "more, lower --gradient-accumulation-steps or --per-device-train-batch-size, or raise "
                "--num-train-epochs or --max-steps",
                *(steps, num_samples, batch, config.num_train_epochs),
            )
    logger.info("%d samples, global batch size %d, %d optimizer steps", num_samples, batch, steps)
    names = {field.name for field in dataclasses.fields(TrainingArguments)} - _CONVERTED
    arguments = TrainingArguments(
        **{name: value for name, value in dataclasses.asdict(config).items() if name in names},
        **({_CHECKPOINTING: True} if config.gradient_checkpointing else {}),
        output_dir=str(output),
        max_steps=steps,
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        dataloader_num_workers=min(config.dataloader_num_workers, available_cpus()),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,  # a loss that is not a number has to be noticed
        save_total_limit=1,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # no DataParallel over all visible GPUs
    return arguments
