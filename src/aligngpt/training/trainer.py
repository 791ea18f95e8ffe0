"""A thin `transformers.Trainer`: the order of samples, the model's own inputs, and the count of what was cut."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from aligngpt.training.collator import ModalityGroupedSampler
from aligngpt.training.datasets import IGNORED


class _TruncatedSamples(TrainerCallback, ExportableState):
    """The count of samples that were cut, kept in every checkpoint, so that a resumed run goes on counting."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"args": {"count": self.count}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from the checkpoint's count; from zero in a new run."""
        self.count = state.stateful_callbacks[type(self).__name__]["args"]["count"]


class AlignGPTTrainer(Trainer):
    """Trains either stage.

    Args:
        group_by_modality: Order samples with `ModalityGroupedSampler` (stage 2); shuffle them otherwise.
        **kwargs: Of `Trainer`.
    """

    def __init__(self, *, group_by_modality: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group_by_modality = group_by_modality
        self.learned_batches = 0  # those with a label, of this call
        self._truncated = _TruncatedSamples()
        self.add_callback(self._truncated)

    @property
    def truncated_samples(self) -> int:
        """Samples seen so far, by this process, whose text was cut at the maximum length."""
        return self._truncated.count

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if not self.group_by_modality:
            return super()._get_train_sampler(train_dataset)
        return ModalityGroupedSampler(
            dataset.modality_lengths,
            self.args.per_device_train_batch_size,
            self.args.world_size * self.args.gradient_accumulation_steps,
            seed=self.args.seed,
        )

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's loss; counters that the collator adds to a batch are taken out first."""
        truncated = inputs.pop("truncated", 0)
        if model.training:
            self._truncated.count += int(truncated)
        inputs = {**inputs, "use_cache": False}
        if bool((inputs["labels"] != IGNORED).any()):
            self.learned_batches += 1
            return super().compute_loss(model, inputs, *args, **kwargs)
        outputs = model(**inputs)  # no token to take a mean over, which would be no number
        loss = outputs.logits.flatten()[0] * 0
        return (loss, outputs) if kwargs.get("return_outputs") else loss
