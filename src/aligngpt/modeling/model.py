"""AlignGPT: any vision tower, a projector, the alignment embedding and any causal language model.

The inputs contain two placeholder tokens: `<image>`, once for each image token, and `<align>`, once in each sample with
an image. `forward` replaces the embeddings of both, so lengths are known before the model runs and padding, caches and
labels need no special treatment. Shapes: B rows, T positions, I images, P tokens of an image, S samples (S = B unless
rows are packed), H hidden, N levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput

from aligngpt.modeling.alignment import (
    AlignmentEmbeddings,
    AlignmentGate,
    compute_alignment_weights,
    compute_image_text_similarity,
    gather_from_runs,
    number_segments,
    parse_alignment,
    segment_mean,
)
from aligngpt.modeling.configuration import AlignGPTConfig
from aligngpt.modeling.generation import AlignGPTGenerationMixin, build_generation_config, cached_length
from aligngpt.modeling.hub import check_language_model, read_vision_config, resolve_model
from aligngpt.modeling.settings import needs_gate


class AlignmentOutput(NamedTuple):
    """The alignment embeddings of a batch and how they were computed; without a gate if the setting needs none."""

    embedding: Tensor  # (S, H), H_align of each sample (Eq. 3)
    weights: Tensor  # (S, N), the weights over the table
    gate_weights: Tensor | None  # (S, N - 1), Eq. 2
    image_text_similarity: Tensor | None  # (S, P), the input of the gate


@dataclass
class AlignGPTCausalLMOutputWithPast(ModelOutput):
    """The language model's output, the image features and, with `return_gate_weights`, the gate's."""

    loss: Tensor | None = None  # mean over all labeled tokens of the batch, or their sum over `num_items_in_batch`
    logits: Tensor | None = None  # (B, T or the kept positions, vocabulary); the two placeholders have the lowest value
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None  # (I, P, H), image features after the projector
    gate_weights: Tensor | None = None  # (S, N - 1), each row sums to 1 (Eq. 2)
    # (S, P), image tokens times mean text embedding, averaged over a sample's images.
    image_text_similarity: Tensor | None = None


class MultiModalProjector(nn.Module):
    """Two linear layers with an exact GELU between them (`mlp2x_gelu` in the official scripts).

    Args:
        vision_hidden_size: Width of the tower's features.
        text_hidden_size: Width of the language model's embeddings.
        bias: Whether the layers have biases.
    """

    def __init__(self, vision_hidden_size: int, text_hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_hidden_size, text_hidden_size, bias=bias)
        self.linear_2 = nn.Linear(text_hidden_size, text_hidden_size, bias=bias)

    def reset_parameters(self) -> None:
        """Initialize both layers as a new `nn.Linear`."""
        self.linear_1.reset_parameters()
        self.linear_2.reset_parameters()

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings (..., text_hidden) of features (..., vision_hidden)."""
        return self.linear_2(F.gelu(self.linear_1(features)))


class AlignGPTForConditionalGeneration(AlignGPTGenerationMixin, PreTrainedModel):
    """The model of the paper with any backbones; with `alignment="none"` it is exactly LLaVA-1.5."""

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
            config.vision_config.hidden_size, hidden, bias=config.multimodal_projector_bias
        )
        self.alignment_embeddings = AlignmentEmbeddings(config.num_alignment_levels, hidden)
        self.alignment_gate = AlignmentGate(
            config.image_seq_length, config.num_alignment_levels, config.gate_hidden_size
        )
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize projector, table and gate as the official code does, not with the language model's range."""
        if isinstance(module, MultiModalProjector | AlignmentEmbeddings | AlignmentGate):
            if not all(getattr(value, "_is_hf_initialized", False) for value in module.parameters()):  # not loaded
                module.reset_parameters()
        elif not isinstance(module, nn.Linear):  # linear layers belong to the three modules above
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
        """Build a new model: load the backbones, initialize projector, table and gate randomly.

        The two placeholder tokens are added to the tokenizer, and rows for them to the language model if it has none
        to spare; these rows are never read as embeddings nor generated.

        Args:
            language_model: Any `AutoModelForCausalLM` with its tokenizer, see `hub.resolve_model`.
            vision_tower: A CLIP or SigLIP model, or its vision part, with its image processor.
            template: Name of a bundled chat template, or a path to a Jinja file.
            dtype: Type of all weights.
            attn_implementation: For example `"sdpa"`, `"eager"`, `"flex_attention"` or `"flash_attention_2"`.
            image_aspect_ratio: `"pad"` to a square, or `"square"`: resize and crop.
            **config: Further fields of `AlignGPTConfig`.

        Returns:
            The model and its `AlignGPTProcessor`.

        Raises:
            FileNotFoundError: A checkpoint does not exist.
            ValueError: A checkpoint is of another kind.
        """
        from aligngpt.modeling.processing import AlignGPTProcessor

        llm_folder, tower_folder = resolve_model(language_model), resolve_model(vision_tower)
        check_language_model(llm_folder)
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
        tower = AutoModel.from_pretrained(tower_folder, config=read_vision_config(tower_folder), **options)
        llm = AutoModelForCausalLM.from_pretrained(llm_folder, **options)
        processor = AlignGPTProcessor.from_backbones(
            llm_folder, tower_folder, template=template, image_aspect_ratio=image_aspect_ratio
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
        model = cls._assemble(aligngpt_config, tower, llm)
        model.generation_config = build_generation_config(llm.generation_config, processor)
        processor.image_seq_length = aligngpt_config.image_seq_length
        processor.use_alignment = aligngpt_config.alignment != "none"
        return model, processor

    @classmethod
    def _assemble(
        cls, config: AlignGPTConfig, tower: PreTrainedModel, llm: PreTrainedModel
    ) -> AlignGPTForConditionalGeneration:
        """Build the model without weights, then insert the loaded backbones: no second copy of a large model."""
        with torch.device("meta"):
            model = cls(config)
        model.vision_tower, model.language_model = tower, llm
        for part in (model.multi_modal_projector, model.alignment_embeddings, model.alignment_gate):
            part.to_empty(device="cpu").to(dtype=llm.dtype)
            part.reset_parameters()
        model.config._attn_implementation_internal = llm.config._attn_implementation
        return model.eval()

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's head."""
        self.language_model.set_output_embeddings(value)

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Return the language model without its head."""
        return self.language_model.get_decoder()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the projected image tokens (I, P, H), without class token, of images (I, channels, height, width)."""
        hidden_states = self.vision_tower(
            pixel_values.to(self.vision_tower.dtype), output_hidden_states=True, return_dict=True
        ).hidden_states
        features = hidden_states[self.config.vision_feature_layer]
        return self.multi_modal_projector(features[:, features.shape[1] - self.config.image_seq_length :])

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
        """Return the alignment embedding of each sample and how it was computed (Eq. 2 and 3).

        Args:
            input_ids: (B, T).
            image_features: (I, P, H), from `get_image_features`, in the order of the images in the rows.
            attention_mask: (B, T), 0 at padding.
            instruction_mask: (B, T), 1 at the turn (text and images) that the gate reads by default.
            segment_ids: (B, T), the sample of each position of packed rows; by default a row is a sample.
            prompt_length: The gate ignores positions from here on, where an answer is generated.
            alignment: A setting, see `parse_alignment`; `config.alignment` by default.
            with_gate: Compute the gate even if the setting does not need it.

        Raises:
            ValueError: The gate is needed and `instruction_mask` is missing.
        """
        setting = self.config.alignment if alignment is None else alignment
        setting = parse_alignment(setting, self.config.num_alignment_levels)
        segments, num_samples = number_segments(input_ids, segment_ids)
        gate_weights = similarity = None
        if needs_gate(setting) or with_gate:
            mask = self._gate_text_mask(input_ids, attention_mask, instruction_mask, segments)
            if prompt_length is not None:
                mask[:, prompt_length:] = False
            text_means = segment_mean(self.get_input_embeddings()(input_ids), mask, segments, num_samples)
            text_means = text_means / self._embed_scale
            is_image, sizes = input_ids == self.config.image_token_id, image_features.shape[:2]
            read = None
            if self.config.gate_text == "instruction" and instruction_mask is not None:
                read = gather_from_runs(is_image, instruction_mask, *sizes)
            image_segments = gather_from_runs(is_image, segments, *sizes)
            similarity = compute_image_text_similarity(image_features, text_means, image_segments, read)
            gate_weights = self.alignment_gate(similarity)
        weights = compute_alignment_weights(setting, gate_weights, num_samples, self.alignment_embeddings.weight)
        return AlignmentOutput(self.alignment_embeddings(weights), weights, gate_weights, similarity)

    @torch.inference_mode()
    def get_gate_weights(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the gate weights of prompts, and its input, without running the language model.

        Returns:
            `gate_weights` (S, N - 1) and `image_text_similarity` (S, P), in float32; see `forward` for the arguments.
        """
        aligned = self.get_alignment(
            input_ids,
            self.get_image_features(pixel_values),
            attention_mask=attention_mask,
            instruction_mask=instruction_mask,
            alignment="adaptive",
        )
        assert aligned.gate_weights is not None and aligned.image_text_similarity is not None  # adaptive reads the gate
        return aligned.gate_weights.float(), aligned.image_text_similarity.float()

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
    ) -> AlignGPTCausalLMOutputWithPast:
        """Replace the placeholders by image and alignment embeddings and run the language model.

        Args:
            input_ids: (B, T), with `<image>` P times for each image and one `<align>` in each sample with an image.
            pixel_values: (I, channels, height, width), all images in the order of the rows.
            attention_mask: (B, T), 0 at padding, on either side.
            labels: (B, T), -100 at tokens without loss.
            instruction_mask: (B, T), 1 at the turn (text and images) that the gate reads, from the processor.
            past_key_values: Cache of the positions before `input_ids`, which then need no `<align>`.
            segment_ids: (B, T), the sample of each position of packed rows.
            prompt_length: The gate ignores positions from here on; `generate` sets it.
            alignment: Overrides `config.alignment`: a name, a level, weights, or a tensor with a level or weights per
                sample.
            return_gate_weights: Also return `gate_weights` and `image_text_similarity`.
            logits_to_keep: Compute logits only at the last n positions, or at the given columns.
            shift_labels: (B, kept), labels of the kept positions, already shifted.
            num_items_in_batch: Divisor of the summed loss, for gradient accumulation.

        Raises:
            ValueError: The numbers of placeholders and images differ, or the gate lacks its instruction mask.
        """
        image_features: Tensor | None = None
        aligned: AlignmentOutput | None = None
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("input_ids and inputs_embeds are missing; pass the output of the processor")
            if self._drops_align_token(alignment):
                attention_mask, position_ids = self._without_align_token(input_ids, attention_mask, position_ids)
            inputs_embeds, image_features, aligned = self._fill_placeholders(
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
        return AlignGPTCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_features,
            gate_weights=aligned.gate_weights if aligned and return_gate_weights else None,
            image_text_similarity=aligned.image_text_similarity if aligned and return_gate_weights else None,
        )

    # ---------------------------------------------------------------------------------------------------- filling

    @property
    def _embed_scale(self) -> Any:
        """The factor by which the language model's embedding layer multiplies its rows, as Gemma's does.

        The official code passes unscaled text, image and alignment embeddings, all of which its Gemma then scales.
        """
        scale = getattr(self.get_input_embeddings(), "embed_scale", 1.0)
        return scale.to(self.dtype) if isinstance(scale, Tensor) else scale

    def _fill_placeholders(
        self, input_ids: Tensor, pixel_values: Tensor | None, with_gate: bool, continues: bool, **context: Any
    ) -> tuple[Tensor, Tensor | None, AlignmentOutput | None]:
        """Return the token embeddings (B, T, H) with images and alignment filled in, image features and alignment."""
        embeds = self.get_input_embeddings()(input_ids)
        drops_align = continues or self._drops_align_token(context["alignment"])
        self._check_placeholders(input_ids, pixel_values, context["segment_ids"], drops_align)
        if pixel_values is None:
            return embeds, None, None
        features = self.get_image_features(pixel_values).to(embeds.dtype)
        is_image = (input_ids == self.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(is_image, features * self._embed_scale)
        if drops_align:
            return embeds, features, None
        aligned = self.get_alignment(input_ids, features, with_gate=with_gate, **context)
        align_mask = input_ids == self.config.align_token_id
        segments, num_samples = number_segments(input_ids, context["segment_ids"])
        with_align = gather_from_runs(align_mask, segments, num_samples, 1)
        vectors = aligned.embedding[with_align].to(embeds.dtype) * self._embed_scale
        return embeds.masked_scatter(align_mask.unsqueeze(-1), vectors), features, aligned

    def _check_placeholders(
        self, input_ids: Tensor, pixel_values: Tensor | None, segment_ids: Tensor | None, drops_align: bool
    ) -> None:
        """Check that placeholders and images agree, except while one token is decoded or a graph is traced."""
        if input_ids.shape[1] == 1 or torch.compiler.is_compiling():
            return
        is_align = input_ids == self.config.align_token_id
        counts = [(input_ids == self.config.image_token_id).sum(), is_align.sum(), is_align.sum(-1).max()]
        placeholders, aligns, most_in_a_row = torch.stack(counts).tolist()  # one device synchronization
        images = 0 if pixel_values is None else pixel_values.shape[0]
        if placeholders != images * self.config.image_seq_length:
            raise ValueError(
                f"the prompts have {placeholders} <image> placeholders, but {images} images have "
                f"{images * self.config.image_seq_length} image tokens; pass every image and tokenize with this "
                "model's processor"
            )
        if (segment_ids is None and most_in_a_row > 1) or aligns > max(images, 0):
            raise ValueError(
                f"the prompts have {aligns} <align> placeholders for {images} images; a sample with an image has one, "
                "immediately after its first token, as the processor inserts it"
            )
        if images and not aligns and not drops_align:
            raise ValueError(
                "the prompts have images but no <align>, so they cannot be conditioned on alignment; tokenize with "
                "alignment, or pass alignment='none'"
            )

    def _gate_text_mask(
        self, input_ids: Tensor, attention_mask: Tensor | None, instruction_mask: Tensor | None, segments: Tensor
    ) -> Tensor:
        """Return the tokens whose mean the gate reads, (B, T) bool."""
        text = (input_ids != self.config.image_token_id) & (input_ids != self.config.align_token_id)
        if self.config.gate_text == "instruction":
            if instruction_mask is None:
                raise ValueError(
                    "instruction_mask is missing, which the gate needs; pass the output of the processor, or a setting "
                    "without a gate, such as alignment='global'"
                )
            return text & instruction_mask.bool()
        attended = torch.ones_like(text) if attention_mask is None else attention_mask.bool()
        before = F.pad(attended[:, :-1], (1, 0))
        same_sample = F.pad(segments[:, 1:] == segments[:, :-1], (1, 0))
        return text & attended & before & same_sample  # without the first token of a sample, BOS

    def _drops_align_token(self, alignment: Any) -> bool:
        return isinstance(alignment, str | None) and (alignment or self.config.alignment) == "none"

    def _without_align_token(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Mask a prompt's `<align>` and renumber the positions: equal to a prompt without it."""
        aligns = input_ids == self.config.align_token_id
        if input_ids.shape[1] == 1 or not bool(aligns.any()):
            return attention_mask, position_ids
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask.masked_fill(aligns, 0)
        return mask, (mask.cumsum(-1) - 1).clamp(min=0)

    def _without_placeholders(self, logits: Tensor) -> Tensor:
        """Set the logits of the placeholders to the lowest value, so that they are never generated."""
        ids = torch.tensor([self.config.image_token_id, self.config.align_token_id], device=logits.device)
        return logits.index_fill(-1, ids, torch.finfo(logits.dtype).min)


AutoConfig.register(AlignGPTConfig.model_type, AlignGPTConfig)
AutoModel.register(AlignGPTConfig, AlignGPTForConditionalGeneration)
AutoModelForImageTextToText.register(AlignGPTConfig, AlignGPTForConditionalGeneration)
