"""The synthetic backbones: one token per word, documents in the format of the templates, ordinary checkpoints."""

from __future__ import annotations

import random
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from aligngpt import AlignGPTProcessor
from aligngpt.modeling.processing import load_template
from aligngpt.synthetic import backbones
from aligngpt.synthetic.artifacts import BackbonesInfo
from aligngpt.synthetic.backbones import (
    BOS,
    BUNDLED_FOLDER,
    EOS,
    PAD,
    Document,
    DocumentSampler,
    embed_documents,
    train_backbones,
)
from aligngpt.synthetic.configs import BackboneTrainingConfig
from aligngpt.synthetic.scenes import COLORS, NUMBERS, PLACES, SHAPES, SIZES, Scene, parse_objects, sample_scene
from tests import tiny
from tests.synthetic import oracle

TINY = BackboneTrainingConfig(clip_steps=2, clip_batch=4, llm_steps=2, llm_batch=4)
STRANGE = ("", " ", "a\n\tb  c", "Zażółć gęślą jaźń", "日本語", "👩‍🚀", "a\x00b\x7f", "<s> no token </s>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return backbones.train_tokenizer(random.Random(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    result = train_backbones(TINY, folder)
    assert result.config == asdict(TINY) and result.seconds is not None
    return folder


# ---------------------------------------------------------------------------------------------------------- tokenizer


def check_tokenizer(tokenizer: Any) -> None:
    words = {*SHAPES, *COLORS, *SIZES, *NUMBERS, "yes", "no"} | {word for place in PLACES for word in place.split()}
    for word in words:
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1, word
    assert [tokenizer.convert_tokens_to_ids(name) for name in ("<pad>", "<s>", "</s>")] == [PAD, BOS, EOS]
    for text in STRANGE[:-1]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_every_word_is_a_token_and_any_text_can_be_encoded(tokenizer: Any) -> None:
    check_tokenizer(tokenizer)
    ids = tokenizer.encode(STRANGE[-1], add_special_tokens=False)
    assert tokenizer.decode(ids) == STRANGE[-1] and (BOS in ids, EOS in ids) == (True, True)
    assert tokenizer.encode("red")[0] == BOS and tokenizer.encode("red")[-1] != EOS
    assert backbones._append_end_token(tokenizer).encode("red")[-1] == EOS  # CLIP pools there
    assert (
        tokenizer.backend_tokenizer.to_str() == backbones.train_tokenizer(random.Random(0)).backend_tokenizer.to_str()
    )


# ---------------------------------------------------------------------------------------------------------- documents


def test_labels_are_on_answers_only(tokenizer: Any) -> None:
    sampler = DocumentSampler(tokenizer, random.Random(1))
    soft = captions = 0
    for _ in range(200):
        document = sampler.sample()
        assert document.tokens[0] == [BOS] and len(document.tokens) == len(document.labels)
        for token, label in zip(document.tokens, document.labels, strict=True):
            assert label == -100 or token == [label]
            assert PAD not in token and len(token) >= 1
        learned = tokenizer.decode([label for label in document.labels if label != -100])
        captions += learned.endswith(".\n")
        assert re.fullmatch(r"an? [^\n]+\.\n|( [^<\n]+</s>){2,3}", learned), learned
        soft += any(len(token) > 1 for token in document.tokens)
    assert 60 < captions < 120 and 100 < soft < 180


def test_documents_have_the_format_of_the_templates(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, trained: Path
) -> None:
    image_processor = AutoImageProcessor.from_pretrained(trained / "clip", backend="pil")
    processor = AlignGPTProcessor(
        image_processor, AutoTokenizer.from_pretrained(trained / "llm"), load_template("bare"), image_seq_length=3
    )
    processor.use_alignment = False
    monkeypatch.setattr(DocumentSampler, "_sample_soft_context", lambda self, scene: [[processor.image_token_id]] * 3)
    scenes: list[Scene] = []

    def sampled(*args: Any) -> Scene:
        scenes.append(sample_scene(*args))
        return scenes[-1]

    monkeypatch.setattr(backbones, "sample_scene", sampled)
    sampler = DocumentSampler(tokenizer, random.Random(2))
    kinds, headings = set(), set()
    for _ in range(120):
        document = sampler.sample()
        ids = [token[0] for token in document.tokens]
        if processor.image_token_id not in ids:
            continue  # the scene is described in words
        text = processor.tokenizer.decode(ids).removeprefix("<s>").replace("<image>" * 3, "<image>")
        opening, _, rest = text.partition("<image>")
        template = None
        if opening == "USER: ":
            messages = []
            for question, said in re.findall(r"USER: (.*?) ASSISTANT: (.*?)</s>", text, re.S):
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
        else:
            assert rest.endswith(".\n")  # the template ends the line
            messages = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": rest[:-1]}]
            template = load_template("plain")
            headings.add(opening)
            if opening:  # a heading of one token: the coverage in quarters, without a label
                quarters = round(4 * oracle.coverage(scenes[-1].objects, parse_objects(rest)))
                assert opening == f" {NUMBERS[quarters]}"
                assert document.labels.pop(1) == -100
                del ids[1]
        encoding = processor.encode(processor.render(messages, template))
        assert encoding.input_ids == ids
        answers = [token if marked else -100 for token, marked in zip(ids, encoding.answer_mask, strict=True)]
        assert answers == document.labels
        kinds.add(len(messages))
    assert kinds == {2, 4, 6}
    assert {"", " zero", " two", " four"} <= headings


def test_soft_tokens_are_sums_of_embeddings(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    torch.manual_seed(0)
    table = torch.nn.Embedding(len(tokenizer), 6)
    sampler = DocumentSampler(tokenizer, random.Random(3))
    batch = [Document([[BOS], [5, 9, 5], [7]], [-100, -100, 7]), *(sampler.sample() for _ in range(3))]
    embeds, attention_mask, labels = embed_documents(batch, table)
    length = max(len(document.tokens) for document in batch)
    assert embeds.shape == (4, length, 6)
    for row, document in enumerate(batch):
        for index in range(length):
            inside = index < len(document.tokens)
            vector = torch.zeros(6)
            for word in document.tokens[index] if inside else []:
                vector = vector + table.weight[word]
            assert torch.allclose(embeds[row, index], vector, atol=1e-6)
            assert attention_mask[row, index] == int(inside)
            assert labels[row, index] == (document.labels[index] if inside else -100)


def test_noise_is_on_tokens_only(tokenizer: Any) -> None:
    torch.manual_seed(0)
    table = torch.nn.Embedding(len(tokenizer), 64)
    batch = [Document([[BOS]] * 40, [-100] * 40), Document([[BOS]], [-100])]
    embeds, _, _ = embed_documents(batch, table)
    noise = embeds[0] - table.weight[BOS]
    assert noise.std().item() == pytest.approx(0.15 * table.weight.std().item(), rel=0.1)
    assert (embeds[1, 1:] == 0).all()


# ------------------------------------------------------------------------------------------------------------- making


def check_folders(folder: Path) -> None:
    clip = AutoModel.from_pretrained(folder / "clip")
    llm = AutoModelForCausalLM.from_pretrained(folder / "llm")
    image_processor = AutoImageProcessor.from_pretrained(folder / "clip", backend="pil")
    words = AutoTokenizer.from_pretrained(folder / "clip")
    check_tokenizer(words)
    check_tokenizer(AutoTokenizer.from_pretrained(folder / "llm"))
    side = BackboneTrainingConfig().image_size
    pixels = image_processor([tiny.make_image(0, (100, 70))], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, side, side)
    ids = words("a large red circle at the top left.", return_tensors="pt")
    assert clip(**ids, pixel_values=pixels).logits_per_image.shape == (1, 1)
    written = llm.generate(ids["input_ids"][:, :-1], max_new_tokens=3, do_sample=False)
    assert written[0, 0] == BOS and llm.generation_config.eos_token_id == EOS
    assert not list(folder.rglob("*.bin")) and len(list(folder.rglob("*.safetensors"))) == 2


def test_the_folders_are_ordinary_checkpoints(trained: Path) -> None:
    check_folders(trained)


def test_trained_models_are_kept(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "_train_folder", None)
    info = BackbonesInfo.read(trained)
    assert train_backbones(TINY, trained) == info
    with pytest.raises(ValueError, match=r"belongs to another run: config\.seed is 0 there, 1 requested"):
        train_backbones(replace(TINY, seed=1), trained)
    interrupted = info.model_copy(update={"seconds": None})
    interrupted.write(trained)
    assert train_backbones(TINY, trained) == interrupted


@pytest.mark.skipif(not (BUNDLED_FOLDER / "llm" / "config.json").is_file(), reason="the package has no backbones")
def test_the_bundled_models_are_small_and_load() -> None:
    check_folders(BUNDLED_FOLDER)
    assert sum(path.stat().st_size for path in BUNDLED_FOLDER.rglob("*") if path.is_file()) < 20e6
