"""Generation: images and instruction in the prefill, and continuing from the cache of an earlier turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

from aligngpt.modeling.alignment import parse_alignment
from aligngpt.modeling.settings import needs_gate


class AlignGPTGenerationMixin(GenerationMixin):
    """The generation methods of `AlignGPTForConditionalGeneration`."""

    config: Any
    generation_config: Any

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, alignment: Any = None, **kwargs: Any) -> Any:
        """Generate as `GenerationMixin.generate`, from images and an alignment setting too.

        A conversation may continue from the `past_key_values` of its earlier turns: pass them with the complete
        conversation and all of its images. The default gate reads only the turn of the first image, so the cache
        stays valid when another instruction follows. It must come from the same tokens with the same setting, which
        is not checked; a first image in a later turn changes the tokens (it adds `<align>`). See `ChatSession`.

        Args:
            inputs: Same as `input_ids`.
            alignment: Overrides `config.alignment` for this call, see `forward`.
            **kwargs: Outputs of the processor and arguments of `GenerationMixin.generate`.

        Raises:
            ValueError: `prefill_chunk_size` is set (a part of a prompt does not have the complete instruction),
                `return_gate_weights` is set (`get_gate_weights` and `forward` return them), or `past_key_values` of an
                earlier turn are passed to a model whose gate reads the complete prompt.
        """
        if kwargs.pop("return_gate_weights", False):
            raise ValueError("generate returns tokens only; use get_gate_weights() or forward()")
        generation_config = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("prefill_chunk_size", getattr(generation_config, "prefill_chunk_size", None)) is not None:
            raise ValueError(
                "prefill_chunk_size is set, but the alignment embedding depends on the complete prompt; remove it"
            )
        input_ids = kwargs.pop("input_ids", inputs)
        if cached_length(kwargs.get("past_key_values")) and self._gate_reads_all(alignment):
            raise ValueError(
                "past_key_values contain the alignment embedding of an earlier prompt, but the gate of this model "
                "reads the complete prompt (gate_text 'all'); remove them"
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
        """Pass images and instruction to the prefill only; without a cache every step is a prefill."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            cached = input_ids.shape[1] - inputs["input_ids"].shape[1]  # positions of earlier turns
            inputs["pixel_values"] = self._select_images(input_ids, pixel_values, cached)
            inputs["alignment"] = alignment
            inputs["prompt_length"] = prompt_length
            if instruction_mask is not None and not cached:
                generated = input_ids.shape[1] - instruction_mask.shape[1]
                inputs["instruction_mask"] = torch.nn.functional.pad(instruction_mask, (0, generated))
        return inputs

    def _select_images(self, input_ids: Tensor, pixel_values: Tensor | None, start: int) -> Tensor | None:
        """Return the images whose placeholders are at position `start` or later; `None` if there are none."""
        if pixel_values is None or start == 0:
            return pixel_values
        is_image = input_ids == self.config.image_token_id
        all_images, selected = (
            (mask.sum(-1) // self.config.image_seq_length).tolist() for mask in (is_image, is_image[:, start:])
        )
        rows = zip(pixel_values.split(all_images), selected, strict=True)
        images = torch.cat([images[len(images) - number :] for images, number in rows])
        return images if len(images) else None

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat each row for beams, its images together, so that they stay in the order of the rows."""
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
    """Return the number of cached positions; 0 without a cache."""
    return 0 if past_key_values is None else past_key_values.get_seq_length()


def build_generation_config(source: Any, processor: Any) -> GenerationConfig:
    """Return the configuration of greedy generation with the special tokens of `source`, a model's configuration.

    The token that ends an answer in the processor's template ends generation too. Other settings are not copied: some
    language models, such as Vicuna, have sampling settings that cannot be saved without sampling.
    """
    ends = source.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return GenerationConfig(
        bos_token_id=source.bos_token_id,
        eos_token_id=sorted({*ends, *processor.answer_end_ids}) or None,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
