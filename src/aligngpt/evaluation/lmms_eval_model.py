"""An AlignGPT model for lmms-eval, which finds it by the entry point `lmms_eval.models`; see docs/lmms_eval.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from tqdm import tqdm

from aligngpt.data.schema import IMAGE_PLACEHOLDER
from aligngpt.modeling import parse_alignment
from aligngpt.modeling.checkpoints import load_model

MANIFEST = ModelManifest("aligngpt", simple_class_path="aligngpt.evaluation.lmms_eval_model.AlignGPT")

_SAMPLING = ("top_p", "top_k")


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

        Batches are of requests with the same settings, longest first, so that memory runs out at the start or not at
        all. An answer ends in front of the first of its task's `until` texts.
        """
        answers: dict[int, str] = {}
        with self._progress(len(requests), "answering") as bar:
            for places in self._batches([(str(sorted(one.args[1].items())), one.args[0]) for one in requests]):
                batch = [requests[place].args for place in places]
                answers.update(zip(places, self._answer(batch, batch[0][1]), strict=True))
                bar.update(len(places))
        return [answers[place] for place in range(len(requests))]

    @torch.inference_mode()
    def _answer(self, batch: Sequence[tuple[Any, ...]], settings: dict[str, Any]) -> list[str]:
        texts, images = [], []
        for context, _, *where in batch:
            own = self._images(*where)
            prompt = _prompt(context, len(own))
            texts.append(self.processor.render([{"role": "user", "content": prompt}], add_generation_prompt=True))
            images += own
        inputs = self._inputs(texts, images)
        written = self.model.generate(
            **inputs,
            **_decoding(settings),
            alignment=self.alignment,
            max_new_tokens=settings.get("max_new_tokens") or self.max_new_tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        until = settings.get("until") or []
        return [_cut(text.strip(), [until] if isinstance(until, str) else until) for text in texts]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("aligngpt answers tasks of one round; leave out tasks of generate_until_multi_round")

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
        with self._progress(len(requests), "weighing") as bar:
            for places in self._batches([("", request.args[0]) for request in requests], size):
                found = self._losses([requests[place].args for place in places])
                losses.update(zip(places, found, strict=True))
                bar.update(len(places))
        return [GenerationResult(losses[place]) for place in range(len(requests))]

    @torch.inference_mode()
    def _losses(self, batch: Sequence[tuple[Any, ...]]) -> list[tuple[float, bool]]:
        texts, images, places = [], [], []
        for context, target, *where in batch:
            own = self._images(*where)
            prompt = _prompt(context, len(own))
            answer = target if isinstance(target, str) else str(target(self._doc(*where[1:])))
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer.strip()}]
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

    def _progress(self, total: int, what: str) -> Any:
        return tqdm(total=total, desc=what, disable=self.rank != 0)


def _prompt(context: str, images: int) -> Any:
    """What the user says, with images where the context has a placeholder for each, in front of it otherwise."""
    if images and context.count(IMAGE_PLACEHOLDER) == images:
        return context
    return [{"type": "image"}] * images + [{"type": "text", "text": context}]


def _decoding(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as `generate` takes them: sampling only above temperature 0."""
    beams = {"num_beams": settings.get("num_beams") or 1}
    temperature = settings.get("temperature") or 0
    if temperature <= 0:
        return {"do_sample": False, **beams}
    given = {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
    return {"do_sample": True, "temperature": temperature, **given, **beams}


def _cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of the texts that end it."""
    return text[: min((text.find(end) for end in until if end and end in text), default=len(text))]
