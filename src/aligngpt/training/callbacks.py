"""Callbacks of the trainer: progress, and counters that every checkpoint stores."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from aligngpt.data.schema import BadRecord
from aligngpt.utils.progress import Advance

logger = logging.getLogger(__name__)


class SampleCounter(TrainerCallback, ExportableState):
    """Counts distinct truncated and skipped samples; a resumed run continues from the counts of its checkpoint."""

    def __init__(self, num_truncated: int = 0, skipped: list[dict[str, Any]] | None = None) -> None:
        self.num_truncated = num_truncated
        self.skipped = skipped or []
        self._first_pass = True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        return {"args": {"num_truncated": self.num_truncated, "skipped": self.skipped}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue from the counts of the checkpoint, which are zero in a new run."""
        stored = state.stateful_callbacks[type(self).__name__]["args"]
        self.num_truncated, self.skipped = stored["num_truncated"], list(stored["skipped"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Determine whether this is the first pass through the data, in which each sample occurs once."""
        self._first_pass = (state.epoch or 0.0) < 1.0

    def count(self, truncated: int, skipped: list[dict[str, Any]]) -> None:
        """Add the samples of one batch; log each skipped sample once."""
        self.num_truncated += truncated if self._first_pass else 0
        for sample in skipped:
            if sample not in self.skipped:
                self.skipped.append(sample)
                logger.warning("skipped %s", BadRecord(**sample))


class ProgressReporter(TrainerCallback):
    """Reports optimizer steps and the last logged loss to a progress bar or log."""

    def __init__(self, advance: Advance, stage: str) -> None:
        self._advance = advance
        self._stage = stage
        self._loss = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by one step."""
        self._advance(1, f"{self._stage} steps{self._loss}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remember the loss."""
        if logs and "loss" in logs:
            self._loss = f" (loss {float(logs['loss']):.3f})"
