"""How `generate` brings images and instruction into the prefill, and goes on from the cache of an earlier turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from aligngpt.modeling.alignment import needs_gate, parse_alignment


class AlignGPTGenerationMixin(GenerationMixin):
    """The generating half of `AlignGPTForConditionalGeneration`."""

    config: Any
    generation_config: Any

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, alignment: Any = None, **kwargs: Any) -> Any:
        """`GenerationMixin.generate`, with the images and the alignment setting among its inputs.

        A conversation may go on from the `past_key_values` of its earlier turns: pass them with the whole conversation
        and all of its images. The default gate reads the turn of the first image alone, so what they hold stays
        true when another instruction follows. They cannot be checked: they must be of the same tokens under the same
        setting, which a first image in a later turn changes (it brings `<align>` to the front), as `ChatSession` knows.

        Args:
            inputs: As `input_ids`.
            alignment: Overrides `config.alignment` for this call, see `forward`.
            **kwargs: The processor's outputs and anything `generate` takes.

        Raises:
            ValueError: `prefill_chunk_size` is set: a chunk of a prompt cannot see the whole instruction. Or
                `return_gate_weights` is: `gate` and `forward` return them. Or `past_key_values` of an earlier turn are
                given to a model whose gate reads the whole prompt, for which they are out of date.
        """
        if kwargs.pop("return_gate_weights", False):
            raise ValueError("generate returns tokens: ask gate() or forward(return_gate_weights=True) for the weights")
        generation_config = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("prefill_chunk_size", getattr(generation_config, "prefill_chunk_size", None)) is not None:
            raise ValueError(
                "prefill_chunk_size is set, but the alignment embedding depends on the whole prompt: leave it out"
            )
        input_ids = kwargs.pop("input_ids", inputs)
        if cached_length(kwargs.get("past_key_values")) and self._gate_reads_all(alignment):
            raise ValueError(
                "past_key_values hold an alignment embedding of the earlier prompt, but gate_text 'all' reads the new "
                "one too: leave them out, so that the whole conversation is computed again"
            )
        if alignment is not None:
            kwargs["alignment"] = parse_alignment(alignment, self.config.num_alignment_levels)
        if input_ids is not None and self._drops_align_token(alignment):
            mask, _ = self._without_align_token(input_ids, kwargs.get("attention_mask"), None)
            kwargs["attention_mask"] = mask
        if input_ids is not None and self.config.gate_text == "all":
            kwargs["prompt_length"] = input_ids.shape[1]
        return super().generate(input_ids, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        is_first_iteration: bool = False,
        pixel_values: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        prompt_length: int | None = None,
        alignment: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Images and instruction go into the prefill alone; without a cache every step is one."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            known = input_ids.shape[1] - inputs["input_ids"].shape[1]  # positions of earlier turns, in the cache
            inputs["pixel_values"] = self._images_from(input_ids, pixel_values, known)
            inputs["alignment"] = alignment
            inputs["prompt_length"] = prompt_length
            if instruction_mask is not None and not known:
                written = input_ids.shape[1] - instruction_mask.shape[1]
                inputs["instruction_mask"] = torch.nn.functional.pad(instruction_mask, (0, written))
        return inputs

    def _images_from(self, input_ids: Tensor, pixel_values: Tensor | None, start: int) -> Tensor | None:
        """The images whose placeholders stand at position `start` or behind; `None` where there are none."""
        if pixel_values is None or start == 0:
            return pixel_values
        is_image = input_ids == self.config.image_token_id
        all_images, kept = (
            (mask.sum(-1) // self.config.image_seq_length).tolist() for mask in (is_image, is_image[:, start:])
        )
        rows = zip(pixel_values.split(all_images), kept, strict=True)
        images = torch.cat([images[len(images) - number :] for images, number in rows])
        return images if len(images) else None

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each row for beams; a row's images are repeated together, so that their order is kept."""
        pixel_values = model_kwargs.pop("pixel_values", None)
        if pixel_values is not None and input_ids is not None and expand_size > 1:
            counts = (input_ids == self.config.image_token_id).sum(-1) // self.config.image_seq_length
            images = pixel_values.split(counts.tolist())
            pixel_values = torch.cat([row for row in images for _ in range(expand_size)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if pixel_values is not None:
            model_kwargs["pixel_values"] = pixel_values
        return input_ids, model_kwargs

    def _gate_reads_all(self, alignment: Any) -> bool:
        setting = self.config.alignment if alignment is None else alignment
        return self.config.gate_text == "all" and needs_gate(parse_alignment(setting, self.config.num_alignment_levels))


def cached_length(past_key_values: Any) -> int:
    """Positions whose keys and values are known; 0 without a cache."""
    return 0 if past_key_values is None else past_key_values.get_seq_length()


def build_generation_config(known: Any, processor: Any) -> GenerationConfig:
    """Greedy generation with the special tokens of a language model's configuration.

    The token with which the processor's template ends an answer ends generation too. What else the language model
    brings stays behind: some, such as Vicuna, carry sampling settings that cannot be saved again without sampling.

    Args:
        known: A configuration, of the model or of its generation, with the ids of the special tokens.
        processor: With tokenizer and template.
    """
    ends = known.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return GenerationConfig(
        bos_token_id=known.bos_token_id,
        eos_token_id=sorted({*ends, *processor.answer_end_ids}) or None,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
