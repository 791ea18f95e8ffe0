"""An AlignGPT model for lmms-eval, which finds it by the entry point `lmms_eval.models`; see docs/lmms_eval.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from aligngpt.inference.batch_generation import GenerationSettings, generate_batches
from aligngpt.inference.prompts import Prompt, build_prompt, build_user_turn
from aligngpt.modeling.alignment import parse_alignment
from aligngpt.modeling.checkpoints import load_model
from aligngpt.utils.progress import progress

MANIFEST = ModelManifest("aligngpt", simple_class_path="aligngpt.evaluation.lmms_eval_model.AlignGPT")


class AlignGPT(lmms):
    """The model behind lmms-eval's requests: greedy or sampled answers in batches, and losses of given answers.

    Args:
        pretrained: Model folder or stage-1 checkpoint.
        alignment: Overrides the model's setting: a name, a level from 1, or weights in quotes, `"0.5,0.5"`.
        batch_size: Requests answered at once; lmms-eval's `--batch_size`.
        max_batch_size: lmms-eval passes it; not used.
        device: lmms-eval's `--device`; a GPU if there is one. Ignored under `accelerate launch`.
        dtype: `auto` for what the weights are stored in, or a name of torch, such as `bfloat16`.
        attn_implementation: As in transformers.
        max_new_tokens: Longest answer where a task does not say.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The alignment setting, the batch size or the dtype is not known.
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
            raise ValueError(f"batch_size must be a whole number from 1, got {batch_size!r}")
        if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"dtype {dtype!r} is not known: give auto, float32, bfloat16 or float16")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device if self._world_size > 1 else device
        options = {"attn_implementation": attn_implementation} if attn_implementation else {}
        self.model, self.processor = load_model(
            pretrained, device=self.device, dtype=dtype if dtype == "auto" else getattr(torch, dtype), **options
        )
        self.device = self.model.device
        self.alignment = self._setting(alignment)
        self.batch_size = int(batch_size)
        self.max_new_tokens = max_new_tokens

    def _setting(self, alignment: Any) -> Any:
        if alignment is None:
            return None
        if isinstance(alignment, str) and "," in alignment:
            try:
                alignment = tuple(float(part) for part in alignment.strip("\"'").split(","))
            except ValueError:
                raise ValueError(f'alignment weights must be numbers, "0.5,0.5", got {alignment}') from None
        return parse_alignment(alignment, self.model.config.num_alignment_levels)

    # Answers --------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer each request, in the order of the requests.

        A batch has requests of the same settings, longest first, so that a lack of memory shows at the start. An answer
        ends before the first of its task's `until` strings.
        """
        answers: dict[int, str] = {}
        batches = self._batches([(str(sorted(request.args[1].items())), request.args[0]) for request in requests])
        with progress("lmms-eval: answering", len(requests), enabled=self.rank == 0) as advance:
            for _, group in itertools.groupby(batches, key=lambda batch: str(requests[batch[0]].args[1])):
                same = list(group)
                settings = self._generation_settings(requests[same[0][0]].args[1])
                prompts = ([self._prompt(*requests[index].args) for index in batch] for batch in same)
                for batch, completions in zip(
                    same, generate_batches(self.model, self.processor, prompts, settings), strict=True
                ):
                    answers.update((index, one.text) for index, one in zip(batch, completions, strict=True))
                    advance(len(batch))
        return [answers[index] for index in range(len(requests))]

    def _prompt(self, context: str, _: Any, *where: Any) -> Prompt:
        return build_prompt(self.processor, context, self._images(*where))

    def _generation_settings(self, settings: dict[str, Any]) -> GenerationSettings:
        """Convert a task's settings; it samples only above temperature 0."""
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
        """Refuse tasks of several rounds.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("aligngpt answers tasks of one round; remove tasks of generate_until_multi_round")

    # Losses ---------------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """For each request the loss of its answer and whether it is the greedy one.

        Returns:
            In `text` the mean negative log-probability of the answer's tokens, in nats, without the token that ends it,
            and the truth value. lmms-eval takes the choice with the least loss, and 0.7.3 turns a bare pair into a
            string on its way to the task.
        """
        losses: dict[int, tuple[float, bool]] = {}
        # The official code's gate reads all of the prompt, whose length is one number for the batch.
        size = 1 if self.model.config.gate_text == "all" else self.batch_size
        with progress("lmms-eval: computing losses", len(requests), enabled=self.rank == 0) as advance:
            for places in self._batches([("", request.args[0]) for request in requests], size):
                found = self._losses([requests[place].args for place in places])
                losses.update(zip(places, found, strict=True))
                advance(len(places))
        return [GenerationResult(losses[place]) for place in range(len(requests))]

    @torch.inference_mode()
    def _losses(self, batch: Sequence[tuple[Any, ...]]) -> list[tuple[float, bool]]:
        texts, images, places = [], [], []
        for context, target, *where in batch:
            own = self._images(*where)
            answer = target if isinstance(target, str) else str(target(self._doc(*where[1:])))
            messages = [build_user_turn(context, len(own)), {"role": "assistant", "content": answer.strip()}]
            texts.append(self.processor.render(messages))
            places.append(self._answer_places(texts[-1]))
            images += own
        inputs = self._inputs(texts, images)
        if self.model.config.gate_text == "all":
            inputs["prompt_length"] = inputs["input_ids"].shape[1] + places[0][0]
        kept = 1 - min(row[0] for row in places)  # from the token in front of the longest answer on
        logits = self.model(**inputs, alignment=self.alignment, logits_to_keep=kept).logits
        found = []
        for row, answer_places in enumerate(places):
            at = torch.tensor(answer_places, device=logits.device)
            tokens, scores = inputs["input_ids"][row, at], logits[row, at - 1].float().log_softmax(-1)
            loss = -scores.gather(-1, tokens[:, None]).mean().item()
            found.append((loss, bool((scores.argmax(-1) == tokens).all())))
        return found

    def _answer_places(self, text: str) -> list[int]:
        """Where the answer's tokens stand, counted from the end as -1, -2, ...: the batch is padded in front."""
        encoding = self.processor.encode(text, alignment=self.alignment)
        length = len(encoding.input_ids)
        places = [place - length for place, kept in enumerate(encoding.answer_mask) if kept]
        while places and encoding.input_ids[places[-1]] in self._ends:
            places.pop()
        if not places:
            raise ValueError("a task asks for the loss of an empty answer: it has no tokens")
        return places

    @property
    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        return [*(ends if isinstance(ends, list) else [ends]), *self.processor.answer_end_ids]

    # Requests -------------------------------------------------------------------------------------------------------

    def _batches(self, requests: Sequence[tuple[str, str]], size: int | None = None) -> Iterator[list[int]]:
        """Places of requests, given as settings and context, by settings, and longest context first."""
        alike: dict[str, list[int]] = {}
        for place, (settings, _) in enumerate(requests):
            alike.setdefault(settings, []).append(place)
        size = size or self.batch_size
        for places in alike.values():
            places.sort(key=lambda place: -len(requests[place][1]))
            yield from (places[start : start + size] for start in range(0, len(places), size))

    def _doc(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _images(self, doc_to_visual: Any = None, *where: Any) -> list[Image.Image]:
        visuals = (doc_to_visual(self._doc(*where)) if doc_to_visual else None) or []
        for visual in visuals:
            if not isinstance(visual, Image.Image):
                raise ValueError(f"task {where[1]} shows a {type(visual).__name__}: aligngpt sees images alone")
        return list(visuals)

    def _inputs(self, texts: list[str], images: list[Image.Image]) -> Any:
        inputs = self.processor(images=images or None, text=texts, alignment=self.alignment, return_tensors="pt")
        return inputs.to(self.model.device)
