"""AlignGPT: any vision tower, a projector, the alignment embedding and any causal language model.

The inputs hold two placeholder tokens: `<image>`, once for each image token, and `<align>`, once in a sample with an
image. `forward` fills both, so lengths are known before the model runs and padding, caches and labels need nothing
special. Shapes below: B rows, T positions, I images, P tokens of an image, S samples (S = B unless rows are packed),
H hidden, N levels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

from aligngpt.modeling.alignment import (
    AlignmentEmbeddings,
    AlignmentGate,
    alignment_weights,
    first_of_runs,
    image_text_dots,
    needs_gate,
    parse_alignment,
    segment_mean,
    segments_of,
)
from aligngpt.modeling.backbones import check_language_model, require_checkpoint, vision_config_of
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.generation import AlignGPTGenerationMixin, cached_length, generation_config_of
from aligngpt.modeling.outputs import AlignGPTOutput, AlignmentOutput
from aligngpt.modeling.projector import MultiModalProjector


class AlignGPTForConditionalGeneration(AlignGPTGenerationMixin, PreTrainedModel):
    """The model of the paper over any backbones; `alignment="none"` is LLaVA-1.5 exactly."""

    config_class = AlignGPTConfig
    base_model_prefix = ""
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: AlignGPTConfig) -> None:
        super().__init__(config)
        hidden = config.text_config.hidden_size
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = MultiModalProjector(
            config.vision_config.hidden_size, hidden, bias=config.projector_bias
        )
        self.alignment_embeddings = AlignmentEmbeddings(config.num_alignment_levels, hidden)
        self.alignment_gate = AlignmentGate(
            config.num_image_tokens, config.num_alignment_levels, config.gate_hidden_size
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Projector, table and gate start as the official code has them, not from the language model's range."""
        if isinstance(module, MultiModalProjector | AlignmentEmbeddings | AlignmentGate):
            if not all(getattr(value, "_is_hf_initialized", False) for value in module.parameters()):  # not loaded
                module.reset_parameters()
        elif not isinstance(module, torch.nn.Linear):  # those here are the layers of the three above
            super()._init_weights(module)

    @classmethod
    def from_backbones(
        cls,
        language_model: str | Path,
        vision_tower: str | Path,
        *,
        template: str | Path = "vicuna_v1",
        dtype: torch.dtype | str = torch.float32,
        attn_implementation: str | None = None,
        image_aspect_ratio: str = "pad",
        **config: Any,
    ) -> tuple[AlignGPTForConditionalGeneration, Any]:
        """A new model from two checkpoint folders: backbones loaded, projector, table and gate drawn at random.

        The two placeholder tokens are added to the tokenizer, and rows for them to the language model where it has
        none to spare; they are never read as embeddings nor chosen as answers.

        Args:
            language_model: Folder or hub name of any `AutoModelForCausalLM`, with its tokenizer.
            vision_tower: Folder or hub name of a CLIP or SigLIP model, or its vision part, with its image processor.
            template: Name of a shipped template, or a path to a Jinja file.
            dtype: Type of all weights.
            attn_implementation: For example `"sdpa"`, `"eager"`, `"flex_attention"` or `"flash_attention_2"`.
            image_aspect_ratio: `"pad"` to a square or `"square"`: resize and crop.
            **config: Further fields of `AlignGPTConfig`.

        Returns:
            The model and its `AlignGPTProcessor`.

        Raises:
            FileNotFoundError: A folder does not exist.
            ValueError: A folder holds a model of another kind.
        """
        from aligngpt.modeling.processing import AlignGPTProcessor

        vision_config = vision_config_of(vision_tower)
        tower = AutoModel.from_pretrained(
            require_checkpoint(vision_tower), config=vision_config, dtype=dtype, attn_implementation=attn_implementation
        )
        llm = AutoModelForCausalLM.from_pretrained(
            check_language_model(language_model), dtype=dtype, attn_implementation=attn_implementation
        )
        processor = AlignGPTProcessor.from_backbones(
            language_model, vision_tower, template=template, image_aspect_ratio=image_aspect_ratio
        )
        if len(processor.tokenizer) > llm.get_input_embeddings().num_embeddings:
            llm.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
        aligngpt_config = AlignGPTConfig(
            text_config=llm.config,
            vision_config=tower.config,
            image_token_id=processor.image_token_id,
            align_token_id=processor.align_token_id,
            dtype=dtype,
            **config,
        )
        model = cls._around(aligngpt_config, tower, llm)
        model.generation_config = generation_config_of(llm.generation_config, processor)
        processor.num_image_tokens = aligngpt_config.num_image_tokens
        processor.use_alignment = aligngpt_config.alignment != "none"
        return model, processor

    @classmethod
    def _around(
        cls, config: AlignGPTConfig, tower: PreTrainedModel, llm: PreTrainedModel
    ) -> AlignGPTForConditionalGeneration:
        """Build without weights, then put the loaded backbones in place: no second copy of a large model."""
        with torch.device("meta"):
            model = cls(config)
        model.vision_tower, model.language_model = tower, llm
        for part in (model.multi_modal_projector, model.alignment_embeddings, model.alignment_gate):
            part.to_empty(device="cpu").to(dtype=llm.dtype)
            part.reset_parameters()
        model.config._attn_implementation_internal = llm.config._attn_implementation
        return model.eval()

    def get_input_embeddings(self) -> torch.nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: torch.nn.Module) -> None:
        """Replace the language model's head."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """The language model without its head."""
        return self.language_model.get_decoder()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Images (I, channels, height, width) to projected image tokens (I, P, H), class token dropped."""
        hidden_states = self.vision_tower(
            pixel_values.to(self.vision_tower.dtype), output_hidden_states=True, return_dict=True
        ).hidden_states
        features = hidden_states[self.config.vision_feature_layer]
        return self.multi_modal_projector(features[:, features.shape[1] - self.config.num_image_tokens :])

    def get_alignment(
        self,
        input_ids: Tensor,
        image_features: Tensor,
        *,
        attention_mask: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        prompt_length: int | None = None,
        alignment: Any = None,
        with_gate: bool = False,
    ) -> AlignmentOutput:
        """The alignment embedding of each sample, and how it came about (Eq. 2 and 3).

        Args:
            input_ids: (B, T).
            image_features: (I, P, H), from `get_image_features`, in the order of the images in the rows.
            attention_mask: (B, T), zero at padding.
            instruction_mask: (B, T), one at the turn, words and images, which the gate reads by default.
            segment_ids: (B, T), the sample of each position where rows are packed; a row is a sample otherwise.
            prompt_length: The gate reads nothing behind so many positions, where an answer is being written.
            alignment: A setting, see `parse_alignment`; the configuration's by default.
            with_gate: Compute the gate even where the setting does not read it.

        Raises:
            ValueError: The gate is asked for and `instruction_mask` is missing.
        """
        setting = parse_alignment(self.config.alignment if alignment is None else alignment, self._num_levels)
        segments, num_samples = segments_of(input_ids, segment_ids)
        gate_weights = dots = None
        if needs_gate(setting) or with_gate:
            mask = self._gate_text_mask(input_ids, attention_mask, instruction_mask, segments)
            if prompt_length is not None:
                mask[:, prompt_length:] = False
            text_means = segment_mean(self._embed(input_ids), mask, segments, num_samples) / self._embed_scale
            is_image, sizes = input_ids == self.config.image_token_id, image_features.shape[:2]
            read = None
            if self.config.gate_text == "instruction" and instruction_mask is not None:
                read = first_of_runs(is_image, instruction_mask, *sizes)
            dots = image_text_dots(image_features, text_means, first_of_runs(is_image, segments, *sizes), read)
            gate_weights = self.alignment_gate(dots)
        weights = alignment_weights(setting, gate_weights, num_samples, self.alignment_embeddings.weight)
        return AlignmentOutput(self.alignment_embeddings(weights), weights, gate_weights, dots)

    @torch.inference_mode()
    def gate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the gate reads and says of prompts, without running the language model.

        Returns:
            `gate_weights` (S, N - 1) and `image_text_dots` (S, P), in float32; see `forward` for the arguments.
        """
        aligned = self.get_alignment(
            input_ids,
            self.get_image_features(pixel_values),
            attention_mask=attention_mask,
            instruction_mask=instruction_mask,
            alignment="adaptive",
        )
        assert aligned.gate_weights is not None and aligned.image_text_dots is not None  # adaptive reads the gate
        return aligned.gate_weights.float(), aligned.image_text_dots.float()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        prompt_length: int | None = None,
        alignment: Any = None,
        return_gate_weights: bool = False,
        logits_to_keep: int | Tensor = 0,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> AlignGPTOutput:
        """Fill the placeholders and run the language model.

        Args:
            input_ids: (B, T), with `<image>` P times for each image and one `<align>` in each sample with any.
            pixel_values: (I, channels, height, width), all images in the order of the rows.
            attention_mask: (B, T), zero at padding, on either side.
            labels: (B, T), -100 where there is nothing to learn.
            instruction_mask: (B, T), one at the turn that the gate reads, words and images, from the processor.
            past_key_values: Of the positions before `input_ids`. What follows these needs no `<align>`.
            segment_ids: (B, T), the sample of each position where rows are packed.
            prompt_length: The gate reads nothing behind so many positions; `generate` sets it.
            alignment: Overrides `config.alignment`: a name, a level, weights, or a tensor with a level or weights for
                each sample.
            return_gate_weights: Also return `gate_weights` and `image_text_dots`.
            logits_to_keep: Compute logits at the last n positions, or at the given columns, alone.
            shift_labels: (B, kept), the labels of the kept positions, already shifted.
            num_items_in_batch: Divide the summed loss by this, as gradient accumulation needs.

        Raises:
            ValueError: Placeholders and images do not fit each other, or the gate lacks its instruction mask.
        """
        aligned: AlignmentOutput | None = None
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("neither input_ids nor inputs_embeds is given: pass the processor's output")
            if self._drops_align_token(alignment):
                attention_mask, position_ids = self._without_align_token(input_ids, attention_mask, position_ids)
            inputs_embeds, aligned = self._fill_placeholders(
                input_ids,
                pixel_values,
                with_gate=return_gate_weights,
                continues=cached_length(past_key_values) > 0,
                attention_mask=attention_mask,
                instruction_mask=instruction_mask,
                segment_ids=segment_ids,
                prompt_length=prompt_length,
                alignment=alignment,
            )
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        logits = self._without_placeholders(outputs.logits)
        loss = None
        if labels is not None or shift_labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        return AlignGPTOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gate_weights=aligned.gate_weights if aligned and return_gate_weights else None,
            image_text_dots=aligned.image_text_dots if aligned and return_gate_weights else None,
        )

    # ---------------------------------------------------------------------------------------------------- filling

    @property
    def _num_levels(self) -> int:
        return self.config.num_alignment_levels

    def _embed(self, input_ids: Tensor) -> Tensor:
        return self.get_input_embeddings()(input_ids)

    @property
    def _embed_scale(self) -> Any:
        """What the language model's embedding multiplies its rows by, as Gemma's does.

        The official code hands it unscaled rows, images and alignment, all of which its Gemma then scales.
        """
        scale = getattr(self.get_input_embeddings(), "embed_scale", 1.0)
        return scale.to(self.dtype) if isinstance(scale, Tensor) else scale

    def _fill_placeholders(
        self, input_ids: Tensor, pixel_values: Tensor | None, with_gate: bool, continues: bool, **context: Any
    ) -> tuple[Tensor, AlignmentOutput | None]:
        """Token embeddings (B, T, H) with image tokens and alignment embeddings in their places."""
        embeds = self._embed(input_ids)
        drops_align = continues or self._drops_align_token(context["alignment"])
        self._check_placeholders(input_ids, pixel_values, context["segment_ids"], drops_align)
        if pixel_values is None:
            return embeds, None
        features = self.get_image_features(pixel_values).to(embeds.dtype)
        is_image = (input_ids == self.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(is_image, features * self._embed_scale)
        if drops_align:
            return embeds, None
        aligned = self.get_alignment(input_ids, features, with_gate=with_gate, **context)
        align_mask = input_ids == self.config.align_token_id
        segments, num_samples = segments_of(input_ids, context["segment_ids"])
        with_align = first_of_runs(align_mask, segments, num_samples, 1)
        vectors = aligned.embedding[with_align].to(embeds.dtype) * self._embed_scale
        return embeds.masked_scatter(align_mask.unsqueeze(-1), vectors), aligned

    def _check_placeholders(
        self, input_ids: Tensor, pixel_values: Tensor | None, segment_ids: Tensor | None, drops_align: bool
    ) -> None:
        """Placeholders and images must agree; skipped while one token is decoded or a graph is traced."""
        if input_ids.shape[1] == 1 or torch.compiler.is_compiling():
            return
        is_align = input_ids == self.config.align_token_id
        counts = [(input_ids == self.config.image_token_id).sum(), is_align.sum(), is_align.sum(-1).max()]
        placeholders, aligns, most_in_a_row = torch.stack(counts).tolist()  # one wait for the device
        images = 0 if pixel_values is None else pixel_values.shape[0]
        if placeholders != images * self.config.num_image_tokens:
            raise ValueError(
                f"the prompts have {placeholders} <image> placeholders, but {images} images give "
                f"{images * self.config.num_image_tokens} image tokens: pass every image, and tokenize with this "
                "model's own processor"
            )
        if (segment_ids is None and most_in_a_row > 1) or aligns > max(images, 0):
            raise ValueError(
                f"the prompts have {aligns} <align> placeholders for {images} images: a sample with an image has one, "
                "directly after its first token, as the processor puts it"
            )
        if images and not aligns and not drops_align:
            raise ValueError(
                "the prompts have images but no <align>, so no alignment can be told: tokenize with alignment, or "
                "pass alignment='none'"
            )

    def _gate_text_mask(
        self, input_ids: Tensor, attention_mask: Tensor | None, instruction_mask: Tensor | None, segments: Tensor
    ) -> Tensor:
        """The tokens whose mean the gate reads, (B, T) bool."""
        text = (input_ids != self.config.image_token_id) & (input_ids != self.config.align_token_id)
        if self.config.gate_text == "instruction":
            if instruction_mask is None:
                raise ValueError(
                    "the gate reads the instruction, but instruction_mask is missing: pass what the processor returns, "
                    "or a setting without a gate, such as alignment='global'"
                )
            return text & instruction_mask.bool()
        attended = torch.ones_like(text) if attention_mask is None else attention_mask.bool()
        before = torch.nn.functional.pad(attended[:, :-1], (1, 0))
        same_sample = torch.nn.functional.pad(segments[:, 1:] == segments[:, :-1], (1, 0))
        return text & attended & before & same_sample  # a sample's first token, BOS, is left out

    def _drops_align_token(self, alignment: Any) -> bool:
        return isinstance(alignment, str | None) and (alignment or self.config.alignment) == "none"

    def _without_align_token(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Hide a prompt's `<align>` and close up the positions: the same as a prompt without it."""
        aligns = input_ids == self.config.align_token_id
        if input_ids.shape[1] == 1 or not bool(aligns.any()):
            return attention_mask, position_ids
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask.masked_fill(aligns, 0)
        return mask, (mask.cumsum(-1) - 1).clamp(min=0)

    def _without_placeholders(self, logits: Tensor) -> Tensor:
        """The placeholders are no words: they take no share of the softmax and are never chosen."""
        ids = torch.tensor([self.config.image_token_id, self.config.align_token_id], device=logits.device)
        return logits.index_fill(-1, ids, torch.finfo(logits.dtype).min)


AutoConfig.register(AlignGPTConfig.model_type, AlignGPTConfig)
AutoModel.register(AlignGPTConfig, AlignGPTForConditionalGeneration)
AutoModelForImageTextToText.register(AlignGPTConfig, AlignGPTForConditionalGeneration)
