"""The model on tiny random backbones: what fills the placeholders, and how. Its invariants are in tests/invariant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from aligngpt import AlignGPTForConditionalGeneration
from aligngpt.modeling.checkpoints import load_model
from tests import oracle, tiny
from tests.modeling.conftest import Built

ONE, TEXT, TWO = 0, 1, 2  # samples of `batch_of` with one image, none and two
TURNS: dict[int, list[dict[str, str]]] = {
    ONE: [{"role": "user", "content": "<image>\nHow many shapes?"}],
    TEXT: [{"role": "user", "content": "Good morning. Who are you?"}],
    TWO: [
        {"role": "user", "content": "<image>\nIs this <image> the same?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Why?"},
    ],
}
IMAGES = {ONE: [tiny.make_image(0)], TEXT: [], TWO: [tiny.make_image(1), tiny.make_image(2, (9, 40))]}


def batch_of(built: Built, *samples: int, alignment: Any = None, padding_side: str = "left") -> dict[str, torch.Tensor]:
    processor = built[1]
    texts = [processor.render(TURNS[sample], add_generation_prompt=True) for sample in samples]
    images = [image for sample in samples for image in IMAGES[sample]]
    return dict(processor(images or None, texts, alignment=alignment, return_tensors="pt", padding_side=padding_side))


def last_logits(model: AlignGPTForConditionalGeneration, **inputs: Any) -> torch.Tensor:
    """Logits of each row's last real position."""
    with torch.no_grad():
        logits = model(**inputs).logits
    ends = inputs["attention_mask"].shape[1] - 1 - inputs["attention_mask"].flip(-1).argmax(-1)
    return logits[torch.arange(len(ends)), ends]


# --------------------------------------------------------------------------------------------- however it is run


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
def test_attention_implementations_agree(tmp_path: Path, attention: str):
    """Flex attention is asked for with heads of 16, the least it takes."""
    built = tiny.build(tmp_path)
    inputs = batch_of(built, ONE, TEXT, TWO)
    expected = last_logits(built[0], **inputs)
    built[0].set_attn_implementation(attention)
    torch.testing.assert_close(last_logits(built[0], **inputs), expected, atol=1e-4, rtol=0)


def test_beams_sampling_and_several_answers_keep_rows_and_images_together(built: Built):
    model = built[0]
    inputs = batch_of(built, TEXT, TWO, ONE)
    start = inputs["input_ids"].shape[1]
    beams = model.generate(**inputs, num_beams=3, num_return_sequences=2, do_sample=False, max_new_tokens=4)
    for row, sample in enumerate((TEXT, TWO, ONE)):
        alone = batch_of(built, sample)
        expected = model.generate(**alone, num_beams=3, num_return_sequences=2, do_sample=False, max_new_tokens=4)
        assert torch.equal(beams[2 * row : 2 * row + 2, start:], expected[:, alone["input_ids"].shape[1] :])
    torch.manual_seed(3)
    first = model.generate(**inputs, do_sample=True, top_k=20, max_new_tokens=4)
    torch.manual_seed(3)
    assert torch.equal(first, model.generate(**inputs, do_sample=True, top_k=20, max_new_tokens=4))


def test_a_language_model_with_sampling_settings_can_be_saved(tmp_path: Path):
    """Vicuna's generation_config.json has a temperature and no sampling, which transformers refuses to write."""
    llm, tower = tiny.save_language_model(tmp_path / "llm"), tiny.save_vision_tower(tmp_path / "clip")
    settings = {"bos_token_id": 2, "eos_token_id": 3, "temperature": 0.9, "top_p": 0.6, "max_length": 4096}
    (llm / "generation_config.json").write_text(json.dumps(settings))
    model, _ = AlignGPTForConditionalGeneration.from_backbones(llm, tower, template="bare")
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [3] and saved["bos_token_id"] == 2
    assert not saved.keys() & {"temperature", "top_p", "max_length"}


def test_placeholders_can_never_be_chosen(built: Built):
    model = built[0]
    logits = last_logits(model, **batch_of(built, ONE))[0]
    placeholders = [model.config.image_token_id, model.config.align_token_id]
    assert (logits.softmax(-1)[placeholders] == 0).all()


# --------------------------------------------------------------------------------------------------- the alignment


@pytest.mark.parametrize("later", ["Why?", "Or <image>?"])
def test_gate_and_embedding_equal_the_slow_loops_over_the_first_images_turn(built: Built, later: str) -> None:
    model, processor = built
    turns = [*TURNS[TWO][:2], {"role": "user", "content": later}]
    images = [*IMAGES[TWO], *[tiny.make_image(3)] * later.count("<image>")]
    inputs = processor(images, processor.render(turns, add_generation_prompt=True), return_tensors="pt")
    mask = inputs["instruction_mask"]
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"])
        aligned = model.get_alignment(inputs["input_ids"], features, instruction_mask=mask)
        words = model.get_input_embeddings()(inputs["input_ids"])[0]
    read = mask[0].bool() & (inputs["input_ids"][0] != processor.image_token_id)
    gate = model.alignment_gate
    layers = [(layer.weight.tolist(), layer.bias.tolist()) for layer in (gate.linear_1, gate.linear_2)]
    alpha = oracle.gate_weights(features[:2].tolist(), words[read].tolist(), *layers)
    assert aligned.gate_weights is not None
    assert aligned.gate_weights[0].tolist() == pytest.approx(alpha, abs=1e-4)
    expected = oracle.alignment_embedding(model.alignment_embeddings.weight.tolist(), "adaptive", alpha)
    assert aligned.embedding[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert processor.tokenizer.decode(inputs["input_ids"][0][read]) == "\nIs this  the same?"


def test_embeddings_replace_the_placeholders(built: Built):
    model = built[0]
    inputs = batch_of(built, TEXT, ONE)
    seen: dict[str, torch.Tensor] = {}
    handle = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(embeds=kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs, alignment=3)
        features = model.get_image_features(inputs["pixel_values"])
    handle.remove()
    ids, embeds = inputs["input_ids"], seen["embeds"]
    assert torch.equal(embeds[ids == model.config.image_token_id], features[0])
    assert torch.equal(embeds[ids == model.config.align_token_id], model.alignment_embeddings.weight[2:3])
    words = (ids != model.config.image_token_id) & (ids != model.config.align_token_id)
    assert torch.equal(embeds[words], model.get_input_embeddings()(ids)[words])
    assert (ids[1] == model.config.align_token_id).nonzero().item() == (ids[1] == 2).nonzero()[0].item() + 1
    assert model.config.align_token_id not in ids[0]


@pytest.mark.parametrize(
    "setting, weights",
    [
        ("global", [0, 0, 0, 0, 0, 0, 0, 1]),
        ("average", [1 / 7] * 7 + [1]),
        (3, [0, 0, 1, 0, 0, 0, 0, 0]),
        ("3", [0, 0, 1, 0, 0, 0, 0, 0]),
        (torch.tensor([3]), [0, 0, 1, 0, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_a_setting_is_its_weights_in_forward_and_generate(built: Built, setting: Any, weights: list[float]):
    model = built[0]
    inputs = batch_of(built, ONE)
    assert torch.equal(last_logits(model, **inputs, alignment=setting), last_logits(model, **inputs, alignment=weights))
    assert not torch.equal(last_logits(model, **inputs, alignment=setting), last_logits(model, **inputs))
    one, other = (
        model.generate(**inputs, alignment=asked, do_sample=False, max_new_tokens=6) for asked in (setting, weights)
    )
    assert torch.equal(one, other)


def test_adaptive_is_local_plus_global(built: Built):
    model = built[0]
    inputs = batch_of(built, ONE)
    with torch.no_grad():
        alpha = model(**inputs, return_gate_weights=True).gate_weights[0].tolist()
    for setting, last in (("adaptive", 1.0), ("local", 0.0)):
        explicit = last_logits(model, **inputs, alignment=[*alpha, last])
        torch.testing.assert_close(last_logits(model, **inputs, alignment=setting), explicit, atol=1e-5, rtol=0)


def test_the_configuration_sets_what_a_call_does_not(fresh: Built):
    model = fresh[0]
    inputs = batch_of(fresh, ONE)
    expected = last_logits(model, **inputs, alignment=5)
    model.config.alignment = 5
    assert torch.equal(last_logits(model, **inputs), expected)


def test_gate_text_all_reads_every_token_but_the_first(fresh: Built):
    model = fresh[0]
    inputs = batch_of(fresh, ONE, TEXT, TWO)
    every = inputs["attention_mask"].clone()
    every[range(3), every.argmax(-1)] = 0
    model.config.gate_text = "all"
    whole = last_logits(model, **inputs)
    model.config.gate_text = "instruction"
    assert torch.equal(whole, last_logits(model, **{**inputs, "instruction_mask": every}))
    assert not torch.allclose(whole[2], last_logits(model, **inputs)[2])


def test_gate_weights_and_dots_are_returned_on_request(built: Built):
    model = built[0]
    inputs = batch_of(built, ONE, TEXT, TWO)
    with torch.no_grad():
        output = model(**inputs, return_gate_weights=True)
        assert output.gate_weights.shape == (3, 7)
        assert output.image_text_similarity.shape == (3, 9)
        torch.testing.assert_close(output.gate_weights.sum(-1), torch.ones(3))
        assert torch.equal(output.image_text_similarity[1], torch.zeros(9))
        weights, dots = model.get_gate_weights(**inputs)
        assert torch.equal(weights, output.gate_weights) and torch.equal(dots, output.image_text_similarity)
        silent = model(**inputs)
        assert silent.gate_weights is None and silent.image_text_similarity is None
        assert model(**inputs, alignment=2, return_gate_weights=True).gate_weights.shape == (3, 7)


# ---------------------------------------------------------------------------------------------------------- LLaVA


def test_none_equals_llava_with_the_same_weights(built: Built):
    model, processor = built
    config = LlavaConfig(
        text_config=model.config.text_config,
        vision_config=model.config.vision_config,
        image_token_index=model.config.image_token_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=9,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    llava.model.vision_tower.load_state_dict(model.vision_tower.state_dict())
    llava.model.multi_modal_projector.load_state_dict(model.multi_modal_projector.state_dict())
    llava.model.language_model.load_state_dict(model.language_model.model.state_dict())
    llava.lm_head.load_state_dict(model.language_model.lm_head.state_dict())
    inputs = batch_of(built, ONE, TEXT, TWO, alignment="none")
    assert model.config.align_token_id not in inputs["input_ids"]
    theirs = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    placeholders = (processor.image_token_id, processor.align_token_id)
    words = [index for index in range(len(processor.tokenizer)) if index not in placeholders]
    with torch.no_grad():
        expected = llava(**theirs).logits[..., words]
        found = model(**inputs, alignment="none").logits[..., words]
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=0)
    llava.generation_config.suppress_tokens = list(placeholders)
    options: dict[str, Any] = {"do_sample": False, "min_new_tokens": 6, "max_new_tokens": 6, "pad_token_id": 0}
    assert torch.equal(model.generate(**inputs, alignment="none", **options), llava.generate(**theirs, **options))


def test_none_hides_the_align_token_of_a_prompt_that_has_it(built: Built):
    model = built[0]
    bare, aligned = (batch_of(built, ONE, TWO, alignment=setting) for setting in ("none", "adaptive"))
    assert bare["input_ids"].shape[1] + 1 == aligned["input_ids"].shape[1]
    expected = last_logits(model, **bare, alignment="none")
    torch.testing.assert_close(last_logits(model, **aligned, alignment="none"), expected, atol=1e-5, rtol=0)
    options: dict[str, Any] = {"alignment": "none", "do_sample": False, "min_new_tokens": 6, "max_new_tokens": 6}
    new = [model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :] for inputs in (bare, aligned)]
    assert torch.equal(*new)


# -------------------------------------------------------------------------------------------------------- training


def test_loss_at_kept_positions_equals_the_loss_over_all(built: Built):
    model = built[0]
    inputs = batch_of(built, ONE, TWO, padding_side="right")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, 20:24], labels[1, 30:33] = inputs["input_ids"][0, 20:24], inputs["input_ids"][1, 30:33]
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    kept = (shifted != -100).any(0).nonzero().squeeze(-1)
    with torch.no_grad():
        whole = model(**inputs, labels=labels)
        part = model(**inputs, labels=labels, logits_to_keep=kept, shift_labels=shifted[:, kept])
    assert part.logits.shape[1] == len(kept) == 7
    torch.testing.assert_close(part.loss, whole.loss, atol=1e-6, rtol=0)
    halves = model(**inputs, labels=labels, num_items_in_batch=14).loss
    torch.testing.assert_close(2 * halves, whole.loss, atol=1e-6, rtol=0)


def gradients(model: AlignGPTForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_changes_no_gradient(fresh: Built):
    model = fresh[0].train()
    model.vision_tower.requires_grad_(False)
    inputs = batch_of(fresh, ONE, TEXT, TWO)
    expected = gradients(model, inputs)
    assert any(name.startswith("alignment_gate") for name in expected)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    found = gradients(model, inputs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------- bad inputs


def test_images_that_do_not_fit_the_placeholders_are_refused(built: Built):
    model, processor = built
    inputs = batch_of(built, TWO)
    with pytest.raises(ValueError, match="18 <image> placeholders, but 1 images have 9 image tokens"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
    with pytest.raises(ValueError, match="18 <image> placeholders, but 0 images"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="the prompts have 1 <image> placeholders for 2 images"):
        processor(IMAGES[TWO], "<s>USER: <image>\nhi ASSISTANT:")


def test_a_gate_without_an_instruction_mask_says_what_to_pass(built: Built):
    inputs = batch_of(built, ONE)
    inputs.pop("instruction_mask")
    with pytest.raises(ValueError, match="instruction_mask is missing"):
        built[0](**inputs)
    assert built[0](**inputs, alignment="global").logits.shape[0] == 1


def test_align_tokens_out_of_place_are_refused(built: Built):
    model = built[0]
    inputs = batch_of(built, ONE)
    doubled = inputs["input_ids"].clone()
    doubled[0, -1] = model.config.align_token_id
    with pytest.raises(ValueError, match="2 <align> placeholders for 1 images"):
        model(**{**inputs, "input_ids": doubled})
    with pytest.raises(ValueError, match="images but no <align>"):
        model(**batch_of(built, ONE, alignment="none"), alignment=3)


def test_models_of_another_kind_are_refused(tmp_path: Path):
    llm, tower = tiny.save_language_model(tmp_path / "llm"), tiny.save_vision_tower(tmp_path / "clip")
    with pytest.raises(ValueError, match="is a llama model, not AlignGPT"):
        load_model(llm)
    with pytest.raises(ValueError, match="is a clip_vision_model model; pass a causal language model"):
        AlignGPTForConditionalGeneration.from_backbones(tower, tower)


def test_generate_refuses_to_return_gate_weights(built: Built):
    with pytest.raises(ValueError, match=r"use get_gate_weights\(\)"):
        built[0].generate(**batch_of(built, ONE), return_gate_weights=True)


def test_chunked_prefill_is_refused(built: Built):
    with pytest.raises(ValueError, match="prefill_chunk_size"):
        built[0].generate(**batch_of(built, ONE), prefill_chunk_size=4, max_new_tokens=2)


@pytest.mark.parametrize("name", ["no/such/folder/here", "./nowhere", "/nowhere", "nowhere"])
def test_a_missing_backbone_is_found_before_the_hub_is_asked(tmp_path: Path, name: str):
    tower = tiny.save_vision_tower(tmp_path / "clip")
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        AlignGPTForConditionalGeneration.from_backbones(name, tower)


def test_a_language_model_is_no_vision_tower(tmp_path: Path):
    llm = tiny.save_language_model(tmp_path / "llm")
    with pytest.raises(ValueError, match="is a llama model; pass a CLIP or SigLIP model"):
        AlignGPTForConditionalGeneration.from_backbones(llm, llm)
