"""Official checkpoints in every form become model folders with the same answers; and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from aligngpt.cli import cli
from aligngpt.inference.chat_session import ChatSession
from aligngpt.modeling.checkpoints import load_model, load_stage1
from aligngpt.modeling.conversion import from_official as conversion
from aligngpt.modeling.conversion.from_official import convert_official
from aligngpt.modeling.conversion.official_config import convert_rope
from aligngpt.modeling.conversion.to_official import export_official
from aligngpt.modeling.conversion.weight_files import list_weight_files
from tests import official, tiny

RECORDED = Path(__file__).parents[2] / "parity" / "official"
PROMPT = f"{official.VICUNA} USER: <image>\nWhat is in the image? ASSISTANT:"


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return official.save_tower(tmp_path_factory.mktemp("towers") / "clip")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tower: Path) -> Path:
    return official.save_checkpoint(tmp_path_factory.mktemp("official") / "checkpoint", tower)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """What stage 1 leaves, over a base that is the same language model under its own name."""
    folder = tmp_path_factory.mktemp("stage1")
    state = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    trained = {key: value for key, value in state.items() if key.startswith(("mm_projector", "align_indicators"))}
    torch.save(trained, folder / "mm_projector_align.bin")
    (folder / "base").mkdir()
    torch.save(
        {key: value for key, value in state.items() if key.startswith(("model.", "lm_head"))},
        folder / "base" / "pytorch_model.bin",
    )
    fields = json.loads((checkpoint / "config.json").read_text())
    own = {key: value for key, value in fields.items() if not key.startswith("mm_")} | {"model_type": "llama"}
    (folder / "base" / "config.json").write_text(json.dumps(own | {"architectures": ["LlamaForCausalLM"]}))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, folder / "base" / name)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in list_weight_files(folder) for name, value in load_file(file).items()}


def answer(folder: Path, image: Image.Image) -> list[int]:
    image.save(folder.parent / "asked.png")
    session = ChatSession(folder, [folder.parent / "asked.png"])
    return session.ask("What is in the image?", max_new_tokens=12).token_ids


def assert_same_model(folder: Path, source: Path, tower: Path, vocabulary: int = 520) -> None:
    """A converted folder gives the reference's logits and tokens, and the alignment embedding matters in them."""
    image, reference = tiny.make_image(5, (90, 40)), official.Reference(source, tower)
    pixels = official.pixels_of(image, tower)
    model, processor = load_model(folder)
    inputs = processor(image, f"{processor.tokenizer.bos_token}{PROMPT}", return_tensors="pt")
    with torch.no_grad():
        found, other = (model(**inputs, alignment=way).logits[0, -1, :vocabulary] for way in (None, "global"))
    torch.testing.assert_close(found, reference.next_logits(PROMPT, pixels), atol=2e-4, rtol=0)
    assert (found - other).abs().max() > 0.005  # 25 times the tolerance
    assert answer(folder, image) == reference.generate(PROMPT, pixels, 12)


# ------------------------------------------------------------------------------------------------- the same answers


def test_the_slow_reference_is_the_official_code(tmp_path: Path) -> None:
    reference = official.Reference(RECORDED / "checkpoint", RECORDED / "vision_tower")
    recorded = json.loads((RECORDED / "recordings" / "inference.json").read_text())[0]
    pixels = official.pixels_of(Image.open(RECORDED / "images" / recorded["image"]), RECORDED / "vision_tower")
    assert reference.tokenize(recorded["prompt"]) == recorded["input_ids"]
    assert reference.generate(recorded["prompt"], pixels, 12) == recorded["new_tokens"]


@pytest.mark.parametrize(
    ("levels", "vocabulary", "image_size", "sizes"),
    [
        (6, 520, 56, {"hidden_size": 48, "num_hidden_layers": 4, "num_key_value_heads": 2}),
        (2, 600, 28, {}),
        (12, 400, 70, {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    ],
    ids=["grouped queries, 6 levels", "2 levels, 4 patches", "tied, 12 levels"],
)
def test_checkpoints_of_other_sizes_answer_the_same(
    tmp_path: Path, levels: int, vocabulary: int, image_size: int, sizes: dict[str, Any]
) -> None:
    tower = official.save_tower(tmp_path / "tower", image_size=image_size)
    source = official.save_checkpoint(tmp_path / "source", tower, levels=levels, vocabulary=vocabulary, **sizes)
    report = convert_official(source, tmp_path / "model", vision_tower=tower)
    assert report.num_alignment_levels == levels
    assert report.image_seq_length == (image_size // 14) ** 2
    assert_same_model(tmp_path / "model", source, tower, vocabulary)


@pytest.mark.parametrize("kind", ["aligngpt_phi", "aligngpt_gemma", "aligngpt_mistral", "aligngpt_qwen2"])
def test_the_familys_other_language_models(tmp_path: Path, tower: Path, kind: str) -> None:
    source = official.save_checkpoint(tmp_path / "source", tower, kind)
    report = convert_official(source, tmp_path / "model", vision_tower=tower, template="vicuna_v1")
    assert "--template" in report.warnings[0]
    assert_same_model(tmp_path / "model", source, tower)


def test_a_siglip_tower(tmp_path: Path) -> None:
    tower = official.save_tower(tmp_path / "siglip", "siglip")
    source = official.save_checkpoint(tmp_path / "source", tower)
    convert_official(source, tmp_path / "model", vision_tower=tower)
    assert_same_model(tmp_path / "model", source, tower)


@pytest.mark.parametrize(
    ("kind", "template", "start"),
    [
        ("aligngpt", "vicuna_v1", "USER: "),
        ("aligngpt_qwen2", "qwen", "<|im_start|>"),
        ("aligngpt_phi", "phi", "A chat"),
    ],
)
def test_the_template_is_that_of_the_language_model(
    tmp_path: Path, tower: Path, kind: str, template: str, start: str
) -> None:
    source = official.save_checkpoint(tmp_path / "source", tower, kind)
    convert_official(source, tmp_path / "model", vision_tower=tower)
    _, processor = load_model(tmp_path / "model")
    assert processor.chat_template == (conversion.load_template(template))
    assert start in processor.render([{"role": "user", "content": "hi"}])


# ------------------------------------------------------------------------------------------------- every official form


def _sharded(state: dict[str, torch.Tensor], folder: Path, suffix: str, save: Callable[..., None]) -> None:
    names = sorted(state)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        save({name: state[name].contiguous() for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("form", ["old pickle", "sharded pickle", "safetensors", "sharded safetensors"])
def test_every_form_of_the_weights_gives_the_same_folder(
    checkpoint: Path, copy: Path, tower: Path, tmp_path: Path, form: str
) -> None:
    convert_official(checkpoint, tmp_path / "expected", vision_tower=tower)
    state = torch.load(copy / "pytorch_model.bin", weights_only=True)
    (copy / "pytorch_model.bin").unlink()
    if form == "old pickle":
        torch.save(state, copy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif form == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, copy / "model.safetensors")
    else:
        suffix = "bin" if form == "sharded pickle" else "safetensors"
        _sharded(state, copy, suffix, torch.save if suffix == "bin" else save_file)
    convert_official(copy, tmp_path / "found", vision_tower=tower)
    expected, found = tensors_of(tmp_path / "expected"), tensors_of(tmp_path / "found")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_half_precision_stays_half_and_the_tower_follows(copy: Path, tower: Path, tmp_path: Path) -> None:
    state = torch.load(copy / "pytorch_model.bin", weights_only=True)
    torch.save({name: value.half() for name, value in state.items()}, copy / "pytorch_model.bin")
    convert_official(copy, tmp_path / "model", vision_tower=tower)
    assert {value.dtype for value in tensors_of(tmp_path / "model").values()} == {torch.float16}
    assert load_model(tmp_path / "model")[0].dtype == torch.float16


def test_files_are_written_in_parts_that_stay_small(
    checkpoint: Path, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_official(checkpoint, tmp_path / "whole", vision_tower=tower)
    monkeypatch.setattr("aligngpt.modeling.conversion.weight_files.FILE_BYTES", 100_000)
    convert_official(checkpoint, tmp_path / "parts", vision_tower=tower)
    assert len(list_weight_files(tmp_path / "parts")) > 3
    image = tiny.make_image(5)
    assert answer(tmp_path / "parts", image) == answer(tmp_path / "whole", image)


# ------------------------------------------------------------------------------------------------------------ stage 1


def test_a_stage_1_file_becomes_a_model_and_a_stage_1_checkpoint(
    stage1: Path, checkpoint: Path, tower: Path, tmp_path: Path
) -> None:
    report = convert_official(
        stage1 / "mm_projector_align.bin", tmp_path / "model", vision_tower=tower, language_model=stage1 / "base"
    )
    assert report.kind == "stage 1"
    model, _ = load_model(tmp_path / "model")
    assert (model.config.alignment, model.config.num_alignment_levels) == ("global", 8)
    state = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    assert torch.equal(model.alignment_embeddings.weight, state["align_indicators.indicator_embs"])
    assert torch.equal(model.language_model.lm_head.weight[:520], state["lm_head.weight"])
    again, _, _ = load_stage1(tmp_path / "model", alignment="adaptive")
    assert torch.equal(again.multi_modal_projector.linear_1.weight, state["mm_projector.0.weight"])
    convert_official(stage1, tmp_path / "twin", vision_tower=tower, language_model=stage1 / "base")
    twin, first = tensors_of(tmp_path / "twin"), tensors_of(tmp_path / "model")
    assert all(torch.equal(twin[name], first[name]) for name in first)


def test_stage_2_starts_from_a_converted_stage_1(stage1: Path, tower: Path, tmp_path: Path) -> None:
    from aligngpt.training.configs import FinetuneConfig
    from aligngpt.training.stages import finetune

    convert_official(stage1, tmp_path / "model", vision_tower=tower, language_model=stage1 / "base")
    tiny.make_image(0).save(tmp_path / "0.png")
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]
    record = {"id": "a", "image": "0.png", "conversations": said}
    (tmp_path / "data.json").write_text(json.dumps([record] * 2))
    small: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "dataloader_num_workers": 0,
        "bf16": False,
        "max_length": 128,
    }
    config = FinetuneConfig(**small, max_steps=1, gradient_checkpointing=False)
    result = finetune(
        config,
        data=tmp_path / "data.json",
        images=tmp_path,
        stage1=tmp_path / "model",
        output=tmp_path / "tuned",
    )
    assert result.global_step == 1
    assert load_model(tmp_path / "tuned")[0].config.gate_text == "instruction"


# ------------------------------------------------------------------------------------------------------------ and back


def test_the_round_trip_gives_the_same_checkpoint(checkpoint: Path, tower: Path, tmp_path: Path) -> None:
    convert_official(checkpoint, tmp_path / "model", vision_tower=tower)
    export_official(tmp_path / "model", tmp_path / "back", vision_tower="./playground/model/tower")
    expected = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    found = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert expected.keys() - found.keys() == {"model.layers.0.self_attn.rotary_emb.inv_freq"}
    assert found.keys() <= expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        read = (tmp_path / "back" / name).read_bytes()
        assert (
            json.loads(read) == json.loads((checkpoint / name).read_bytes())
            if name == "config.json"
            else (read == (checkpoint / name).read_bytes())
        )
    image = tiny.make_image(5)
    pixels = official.pixels_of(image, tmp_path / "back" / "vision_tower")
    assert torch.equal(pixels, official.pixels_of(image, tower))
    back = official.Reference(tmp_path / "back", tmp_path / "back" / "vision_tower")
    assert back.generate(PROMPT, pixels, 12) == official.Reference(checkpoint, tower).generate(PROMPT, pixels, 12)


def test_a_model_trained_here_is_exported_with_the_tokenizer_of_its_language_model(
    stage1: Path, tower: Path, tmp_path: Path
) -> None:
    model, processor = tiny.AlignGPTForConditionalGeneration.from_backbones(stage1 / "base", tower, gate_text="all")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="pass its language model as --language-model"):
        export_official(tmp_path / "model", tmp_path / "back")
    report = export_official(tmp_path / "model", tmp_path / "back", language_model=stage1 / "base")
    assert any("a constant of 576 image tokens" in warning for warning in report.warnings)
    image = tiny.make_image(5)
    back = official.Reference(tmp_path / "back", tmp_path / "back" / "vision_tower")
    assert back.generate(PROMPT, official.pixels_of(image, tower), 12) == answer(tmp_path / "model", image)
    convert_official(tmp_path / "back", tmp_path / "again")
    first, again = tensors_of(tmp_path / "model"), tensors_of(tmp_path / "again")
    vocabulary = {name for name in first if name in conversion.VOCABULARY}
    assert all(torch.equal(first[name], again[name]) for name in first.keys() - vocabulary)
    assert all(torch.equal(first[name][:520], again[name][:520]) for name in vocabulary)


def test_rows_without_a_token_survive_the_round_trip(copy: Path, tower: Path, tmp_path: Path) -> None:
    _change(
        copy,
        lambda state: state.update(
            {key: torch.cat([state[key], torch.ones(1, 32)]) for key in ("model.embed_tokens.weight", "lm_head.weight")}
        ),
    )
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(fields | {"vocab_size": 521}))
    convert_official(copy, tmp_path / "model", vision_tower=tower)
    export_official(tmp_path / "model", tmp_path / "back")
    found = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert torch.equal(found["lm_head.weight"][520], torch.ones(32)) and len(found["lm_head.weight"]) == 521


def test_the_exported_tower_is_found_from_anywhere(
    checkpoint: Path, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_official(checkpoint, tmp_path / "model", vision_tower=tower)
    monkeypatch.chdir(tmp_path)
    export_official("model", "back")
    monkeypatch.chdir("/")
    assert convert_official(tmp_path / "back", tmp_path / "again").kind == "complete"


@pytest.mark.parametrize("own", [True, False], ids=["own template", "built-in template"])
def test_the_round_trip_keeps_the_template(checkpoint: Path, tower: Path, tmp_path: Path, own: bool) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(conversion.load_template("vicuna_v1").replace("USER: ", "HUMAN: "))
    convert_official(checkpoint, tmp_path / "model", vision_tower=tower, template=template if own else "llava_v1")
    assert export_official(tmp_path / "model", tmp_path / "back").template == ("custom" if own else "llava_v1")
    again = convert_official(tmp_path / "back", tmp_path / "again")
    assert again.template.startswith("custom ") if own else again.template == "llava_v1"
    first, second = (load_model(tmp_path / name)[1].chat_template for name in ("model", "again"))
    assert first == second == conversion.load_template(template if own else "llava_v1")


def test_rotary_settings_are_exported_as_older_transformers_writes_them() -> None:
    parts = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0, "partial_rotary_factor": 0.4}
    written = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.4}
    assert convert_rope(parts) == written
    with pytest.raises(ValueError, match="does not support rotary embeddings of type llama3"):
        convert_rope({"rope_type": "llama3", "factor": 8.0})


@pytest.mark.parametrize("form", ["model folder", "checkpoint alone"])
def test_stage_1_is_exported_to_one_file(stage1: Path, tower: Path, tmp_path: Path, form: str) -> None:
    convert_official(stage1, tmp_path / "model", vision_tower=tower, language_model=stage1 / "base")
    source = tmp_path / "model"
    if form == "checkpoint alone":
        (tmp_path / "alone").mkdir()
        for name in ("stage1.json", "stage1.safetensors"):
            source = Path(shutil.copy(tmp_path / "model" / name, tmp_path / "alone")).parent
    export_official(source, tmp_path / "back")
    assert not (tmp_path / "back" / "pytorch_model.bin").exists()
    expected = torch.load(stage1 / "mm_projector_align.bin", weights_only=True)
    found = torch.load(tmp_path / "back" / "mm_projector_align.bin", weights_only=True)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    again = convert_official(tmp_path / "back", tmp_path / "again", language_model=stage1 / "base")
    assert (again.kind, again.num_alignment_levels) == ("stage 1", 8)


@pytest.mark.parametrize("spoil", ["alignment", "bias", "language model"])
def test_models_that_the_official_code_does_not_support_are_refused(tmp_path: Path, spoil: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "alignment": {"alignment": "none"},
        "bias": {"multimodal_projector_bias": False},
    }
    kind = "qwen3" if spoil == "language model" else "llama"
    model, processor = tiny.build(tmp_path / "b", kind, **settings.get(spoil, {}))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"does not support a|no variant for a qwen3 language model"):
        export_official(tmp_path / "model", tmp_path / "back")
    assert not (tmp_path / "back").exists()


# ---------------------------------------------------------------------------------------------------------- bad inputs


class _Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def refused(source: Path, output: Path, *options: str) -> str:
    """The one line with which the command refuses; nothing is written."""
    result = CliRunner().invoke(cli, ["convert", str(source), "--output", str(output), *options])
    assert result.exit_code in (1, 2), result.output  # 2: a path that does not exist
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert not output.exists() and not list(output.parent.glob(f".{output.name}*"))
    return result.stderr


@pytest.mark.parametrize("form", ["new", "old"])
def test_a_pickle_with_code_is_refused_and_not_executed(copy: Path, tower: Path, tmp_path: Path, form: str) -> None:
    state = torch.load(copy / "pytorch_model.bin", weights_only=True)
    trace = tmp_path / "executed"
    torch.save(
        state | {"model.extra": _Code(trace)}, copy / "pytorch_model.bin", _use_new_zipfile_serialization=form == "new"
    )
    said = refused(copy, tmp_path / "model", "--vision-tower", str(tower))
    assert "pytorch_model.bin is refused: it contains" in said and "can run any code when it is read" in said
    assert not trace.exists()
    torch.load(copy / "pytorch_model.bin", weights_only=False)
    assert trace.exists()  # it would have run


def _change(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update({"model.surprise": torch.ones(2)}), "unknown tensor model.surprise; no official AlignGPT"),
        (lambda s: s.pop("model.norm.weight"), "lacks model.norm.weight; check that it is complete"),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("gated_weight_layer")],
            "lacks gated_weight_layer.mlp.0.weight and 3 more tensors",
        ),
        (
            lambda s: s.pop("align_indicators.indicator_embs"),
            "lacks align_indicators.indicator_embs, the alignment embeddings, as checkpoints that the official",
        ),
        (
            lambda s: s.update({"model.norm.weight": torch.ones(31)}),
            "model.norm.weight has shape (31,), but config.json and the vision tower require (32,)",
        ),
        (
            lambda s: s.update({"lm_head.weight": torch.ones(999, 32)}),
            "lm_head.weight has shape (999, 32), but config.json and the vision tower require (522, 32)",
        ),
        (
            lambda s: s.update({"align_indicators.indicator_embs": torch.tensor(1.0)}),
            "align_indicators.indicator_embs has shape (), expected a matrix",
        ),
        (lambda s: s.update({5: torch.ones(2)}), "5 is not a dense tensor; expected a dictionary of dense tensors"),
        (
            lambda s: s.update({"model.norm.weight": torch.ones(32).to_sparse()}),
            "model.norm.weight is not a dense tensor",
        ),
        (lambda s: s.update({"model.norm.weight": 3}), "model.norm.weight is not a dense tensor"),
    ],
    ids=[
        *("unknown", "missing", "no gate", "no table", "shape", "vocabulary"),
        *("flat table", "no name", "sparse", "no tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    copy: Path, tower: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    _change(copy, change)
    assert said in refused(copy, tmp_path / "model", "--vision-tower", str(tower))


def test_a_missing_or_different_tower_is_refused(copy: Path, tmp_path: Path) -> None:
    said = refused(copy, tmp_path / "model")
    assert "names the vision tower './playground/model/tower', which does not exist; pass --vision-tower" in said
    assert "nowhere: no such model folder" in refused(copy, tmp_path / "model", "--vision-tower", "nowhere")
    other = official.save_tower(tmp_path / "other", image_size=28)
    said = refused(copy, tmp_path / "model", "--vision-tower", str(other))
    assert "the gate has 16 image tokens, but the vision tower has 4" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("vision_model.pre_layrnorm.bias"), "lacks pre_layrnorm.bias, expected (24,)"),
        (
            lambda s: s.update({"vision_model.pre_layrnorm.bias": torch.ones(23)}),
            "has pre_layrnorm.bias with shape (23,), expected (24,)",
        ),
    ],
    ids=["missing", "shape"],
)
def test_a_tower_whose_tensors_do_not_fit_is_refused(
    checkpoint: Path, tower: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    shutil.copytree(tower, tmp_path / "tower")
    _change(tmp_path / "tower", change)
    assert said in refused(checkpoint, tmp_path / "model", "--vision-tower", str(tmp_path / "tower"))


def test_a_vocabulary_with_missing_rows_is_refused(copy: Path, tower: Path, tmp_path: Path) -> None:
    _change(copy, lambda state: state.update({"lm_head.weight": state["lm_head.weight"][:400]}))
    said = refused(copy, tmp_path / "model", "--vision-tower", str(tower))
    assert "lm_head.weight has shape (400, 32)" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for %}", "is invalid: the conversation does not fit the template"),
        ("{{ bos_token }}{{ messages[0].content }}", "does not mark the answers"),
    ],
    ids=["syntax", "no marks"],
)
def test_a_template_that_cannot_be_used_is_refused(
    checkpoint: Path, tower: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "own.jinja").write_text(text)
    options = ("--vision-tower", str(tower), "--template", str(tmp_path / "own.jinja"))
    assert said in refused(checkpoint, tmp_path / "model", *options)


def test_a_tokenizer_without_settings_equals_the_official_one(copy: Path, tower: Path, tmp_path: Path) -> None:
    (copy / "tokenizer_config.json").unlink()
    convert_official(copy, tmp_path / "model", vision_tower=tower)
    _, processor = load_model(tmp_path / "model")
    reference = official.Reference(copy, tower)
    assert processor.encode("<s>What is it? A b").input_ids == reference.tokenize("What is it? A b")


def test_a_folder_inside_the_checkpoint_is_refused(copy: Path, tower: Path) -> None:
    assert "is inside" in refused(copy, copy / "model", "--vision-tower", str(tower))


def test_an_invalid_tokenizer_file_is_refused(copy: Path, tower: Path, tmp_path: Path) -> None:
    (copy / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is not a SentencePiece model" in refused(copy, tmp_path / "model", "--vision-tower", str(tower))


def test_a_tower_that_differs_from_the_copy_gives_a_warning(copy: Path, tower: Path, tmp_path: Path) -> None:
    name = "vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight"
    _change(copy, lambda state: state.update({name: state[name] + 1}))
    report = convert_official(copy, tmp_path / "model", vision_tower=tower)
    assert "has a copy of its vision tower that differs" in report.warnings[0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_type", "llama", "describes a llama model; expected an official AlignGPT"),
        ("mm_projector_type", "linear", "mm_projector_type is 'linear'; only 'mlp2x_gelu' is supported"),
        ("use_s2", True, "use_s2 is True; only False is supported"),
        ("mm_vision_select_layer", -20, "mm_vision_select_layer is -20, but"),
        ("num_attention_heads", "four", "is not a valid llama configuration"),
        ("hidden_size", 48, "has shape"),
    ],
)
def test_a_config_of_another_model_is_refused(
    copy: Path, tower: Path, tmp_path: Path, field: str, value: Any, said: str
) -> None:
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(fields | {field: value}))
    assert said in refused(copy, tmp_path / "model", "--vision-tower", str(tower))


def test_damaged_and_missing_files_are_named(copy: Path, tower: Path, tmp_path: Path) -> None:
    weights = copy / "pytorch_model.bin"
    whole = weights.read_bytes()
    options = ("--vision-tower", str(tower))
    for content in (whole[: len(whole) // 2], b"", b"nothing that torch writes"):
        weights.write_bytes(content)
        assert "pytorch_model.bin is " in refused(copy, tmp_path / "model", *options)
    weights.unlink()
    assert "has neither a complete checkpoint nor mm_projector_align.bin" in refused(copy, tmp_path / "model", *options)
    (copy / "pytorch_model.bin.index.json").write_text("{}")
    assert "has no weight_map" in refused(copy, tmp_path / "model", *options)
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    said = refused(copy, tmp_path / "model", *options)
    assert "pytorch_model-00001-of-00002.bin: no such file, but pytorch_model.bin.index.json lists it" in said
    (copy / "pytorch_model.bin.index.json").unlink()
    (copy / "model.safetensors").write_bytes(b"no header")
    assert "model.safetensors is damaged" in refused(copy, tmp_path / "model", *options)


def test_a_stage_1_file_needs_its_language_model(stage1: Path, tower: Path, tmp_path: Path) -> None:
    said = refused(stage1, tmp_path / "model", "--vision-tower", str(tower))
    assert "is a stage-1 file; pass its language model as --language-model" in said


def test_an_official_checkpoint_is_not_loaded_directly(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint of the official code; convert it with"):
        load_model(checkpoint)


def test_done_work_is_returned_and_other_work_is_not_replaced(
    checkpoint: Path, tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = convert_official(checkpoint, tmp_path / "model", vision_tower=tower)
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_write_weights", lambda *args: pytest.fail("converted again"))
        assert convert_official(checkpoint, tmp_path / "model", vision_tower=tower) == first
    with pytest.raises(
        ValueError, match=r'belongs to another run: inputs.template is "vicuna_v1" there, "llava_v1" requested'
    ):
        convert_official(checkpoint, tmp_path / "model", vision_tower=tower, template="llava_v1")
    with pytest.raises(ValueError, match="belongs to another run"):
        export_official(tmp_path / "model", tmp_path / "model")
