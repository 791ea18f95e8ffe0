"""An AlignGPT model for lmms-eval, found by the entry point `lmms_eval.models`; see docs/guides/lmms-eval.md."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from aligngpt.inference.batch_generation import GenerationSettings, generate_batches, plan_batches
from aligngpt.inference.prompts import build_prompt, build_user_turn
from aligngpt.modeling.alignment import parse_alignment
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.settings import DTYPES
from aligngpt.utils.progress import progress

MANIFEST = ModelManifest("aligngpt", simple_class_path="aligngpt.serving.lmms_eval_model.AlignGPT")


class AlignGPT(lmms):
    """Answers lmms-eval's requests: generated text in batches, and losses of given answers.

    Args:
        pretrained: Model folder, stage-1 checkpoint or hub name.
        alignment: Alignment setting: a name, a level from 1, or weights in quotes, `"0.5,0.5"`; by default the model's.
        batch_size: Requests per batch; lmms-eval's `--batch_size`.
        max_batch_size: Passed by lmms-eval and ignored.
        device: lmms-eval's `--device`; by default a GPU if there is one. Ignored under `accelerate launch`.
        dtype: `auto` for the dtype of the weights, or a name such as `bfloat16`.
        attn_implementation: As in transformers.
        max_new_tokens: Maximum length of an answer if the task does not set it.

    Raises:
        FileNotFoundError: The model does not exist.
        ValueError: The alignment setting, the batch size or the dtype is invalid.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        alignment: Any = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        max_new_tokens: int = 1024,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size!r}; use an integer from 1")
        if dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device if self._world_size > 1 else device
        options = {"attn_implementation": attn_implementation} if attn_implementation else {}
        self.model, self.processor = load_model(
            pretrained, device=self.device, dtype=dtype if dtype == "auto" else getattr(torch, dtype), **options
        )
        self.device = self.model.device
        setting = alignment.strip("\"'") if isinstance(alignment, str) else alignment
        self.alignment = None if setting is None else parse_alignment(setting, self.model.config.num_alignment_levels)
        self.batch_size = int(batch_size)
        self.max_new_tokens = max_new_tokens

    # Generation -----------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answer to each request.

        Requests of a batch have the same settings, longest first, so that a lack of memory shows at the start. An
        answer ends before the first of its task's `until` strings.
        """
        answers: dict[int, str] = {}
        groups = [str(sorted(request.args[1].items())) for request in requests]
        batches = plan_batches([request.args[0] for request in requests], groups, self.batch_size)
        with progress("lmms-eval: generating", len(requests), enabled=self.rank == 0) as advance:
            for _, group in itertools.groupby(batches, key=lambda batch: groups[batch[0]]):
                same = list(group)
                settings = self._convert_settings(requests[same[0][0]].args[1])
                arguments = ([requests[index].args for index in batch] for batch in same)
                prompts = (
                    [build_prompt(self.processor, text, self._load_images(*document)) for text, _, *document in batch]
                    for batch in arguments
                )
                results = generate_batches(self.model, self.processor, prompts, settings)
                for batch, completions in zip(same, results, strict=True):
                    answers.update(zip(batch, (completion.text for completion in completions), strict=True))
                    advance(len(batch))
        return [answers[index] for index in range(len(requests))]

    def _convert_settings(self, settings: dict[str, Any]) -> GenerationSettings:
        """Convert the settings of a task; it samples only above temperature 0."""
        until = settings.get("until") or []
        return GenerationSettings(
            max_new_tokens=settings.get("max_new_tokens") or self.max_new_tokens,
            alignment=self.alignment,
            temperature=settings.get("temperature") or 0.0,
            top_p=settings.get("top_p"),
            top_k=settings.get("top_k"),
            num_beams=settings.get("num_beams") or 1,
            stop_strings=(until,) if isinstance(until, str) else tuple(until),
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse tasks of several rounds with a `NotImplementedError`."""
        raise NotImplementedError("aligngpt answers tasks of one round; remove tasks of generate_until_multi_round")

    # Losses ---------------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Return the loss of each request's answer and whether it is the greedy answer.

        Returns:
            In `text`, a pair of the mean negative log-likelihood over the answer's tokens (nats), without the end
            token, and the boolean. lmms-eval selects the choice with the smallest loss; 0.7.3 converts a bare pair to a
            string on its way to the task.
        """
        losses: dict[int, tuple[float, bool]] = {}
        # The official code's gate reads the complete prompt, whose length is one number per batch.
        size = 1 if self.model.config.gate_text == "all" else self.batch_size
        batches = plan_batches([request.args[0] for request in requests], [""] * len(requests), size)
        with progress("lmms-eval: computing losses", len(requests), enabled=self.rank == 0) as advance:
            for batch in batches:
                results = self._compute_losses([requests[index].args for index in batch])
                losses.update(zip(batch, results, strict=True))
                advance(len(batch))
        return [GenerationResult(losses[index]) for index in range(len(requests))]

    @torch.inference_mode()
    def _compute_losses(self, batch: Sequence[tuple[Any, ...]]) -> list[tuple[float, bool]]:
        texts, images, positions = [], [], []
        for context, target, *document in batch:
            own_images = self._load_images(*document)
            answer = target if isinstance(target, str) else str(target(self._read_document(*document[1:])))
            turns = [build_user_turn(context, len(own_images)), {"role": "assistant", "content": answer.strip()}]
            texts.append(self.processor.render(turns))
            positions.append(self._find_answer(texts[-1]))
            images += own_images
        inputs = self.processor(images=images or None, text=texts, alignment=self.alignment, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        if self.model.config.gate_text == "all":
            inputs["prompt_length"] = inputs["input_ids"].shape[1] + positions[0][0]
        kept = 1 - min(row[0] for row in positions)  # from the token before the longest answer on
        logits = self.model(**inputs, alignment=self.alignment, logits_to_keep=kept).logits
        results = []
        for row, answer_positions in enumerate(positions):
            index = torch.tensor(answer_positions, device=logits.device)
            tokens, scores = inputs["input_ids"][row, index], logits[row, index - 1].float().log_softmax(-1)
            loss = -scores.gather(-1, tokens[:, None]).mean().item()
            results.append((loss, bool((scores.argmax(-1) == tokens).all())))
        return results

    def _find_answer(self, text: str) -> list[int]:
        """Return the positions of the answer's tokens from the end, -1, -2, ...: batches are padded on the left."""
        ends = self.model.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), *self.processor.answer_end_ids}
        encoding = self.processor.encode(text, alignment=self.alignment)
        length = len(encoding.input_ids)
        positions = [index - length for index, is_answer in enumerate(encoding.answer_mask) if is_answer]
        while positions and encoding.input_ids[positions[-1]] in ends:
            positions.pop()
        if not positions:
            raise ValueError("a task requests the loss of an empty answer, which has no tokens")
        return positions

    # Requests -------------------------------------------------------------------------------------------------------

    def _read_document(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _load_images(self, doc_to_visual: Any = None, *document: Any) -> list[Image.Image]:
        visuals = (doc_to_visual(self._read_document(*document)) if doc_to_visual else None) or []
        for visual in visuals:
            if not isinstance(visual, Image.Image):
                raise ValueError(f"task {document[1]} has a {type(visual).__name__}; aligngpt supports images only")
        return list(visuals)
