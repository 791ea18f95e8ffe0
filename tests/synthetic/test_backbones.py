"""The two base models: one token a word, documents as the templates write them, folders that anyone can load."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from aligngpt.modeling import AlignGPTProcessor, load_template
from aligngpt.synthetic import backbones as bases
from aligngpt.synthetic.backbones import (
    BASES,
    BOS,
    EOS,
    PAD,
    Document,
    DocumentReader,
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
    return bases.make_tokenizer(random.Random(0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    result = train_backbones(TINY, folder)
    assert result["recipe"] == asdict(TINY) and result["seconds"] > 0
    return folder


# ---------------------------------------------------------------------------------------------------------- tokenizer


def check_tokenizer(tokenizer: Any) -> None:
    words = {*SHAPES, *COLORS, *SIZES, *NUMBERS, "yes", "no"} | {word for place in PLACES for word in place.split()}
    for word in words:
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1, word
    assert [tokenizer.convert_tokens_to_ids(name) for name in ("<pad>", "<s>", "</s>")] == [PAD, BOS, EOS]
    for text in STRANGE[:-1]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_every_word_is_a_token_and_any_text_can_be_written(tokenizer: Any) -> None:
    check_tokenizer(tokenizer)
    ids = tokenizer.encode(STRANGE[-1], add_special_tokens=False)
    assert tokenizer.decode(ids) == STRANGE[-1] and (BOS in ids, EOS in ids) == (True, True)
    assert tokenizer.encode("red")[0] == BOS and tokenizer.encode("red")[-1] != EOS
    assert bases._with_end_token(tokenizer).encode("red")[-1] == EOS  # CLIP pools there
    assert tokenizer.backend_tokenizer.to_str() == bases.make_tokenizer(random.Random(0)).backend_tokenizer.to_str()


# ---------------------------------------------------------------------------------------------------------- documents


def test_documents_learn_answers_alone(tokenizer: Any) -> None:
    reader = DocumentReader(tokenizer, random.Random(1))
    soft = captions = 0
    for _ in range(200):
        document = reader.draw()
        assert document.tokens[0] == [BOS] and len(document.tokens) == len(document.labels)
        for token, label in zip(document.tokens, document.labels, strict=True):
            assert label == -100 or token == [label]
            assert PAD not in token and len(token) >= 1
        learned = tokenizer.decode([label for label in document.labels if label != -100])
        captions += learned.endswith(".\n")
        assert re.fullmatch(r"an? [^\n]+\.\n|( [^<\n]+</s>){2,3}", learned), learned
        soft += any(len(token) > 1 for token in document.tokens)
    assert 60 < captions < 120 and 100 < soft < 180


def test_documents_are_written_as_the_templates_write(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    image_processor = AutoImageProcessor.from_pretrained(made / "clip", backend="pil")
    processor = AlignGPTProcessor(
        image_processor, AutoTokenizer.from_pretrained(made / "llm"), load_template("bare"), image_seq_length=3
    )
    processor.use_alignment = False
    monkeypatch.setattr(DocumentReader, "_soft_context", lambda self, scene: [[processor.image_token_id]] * 3)
    told: list[Scene] = []

    def sampled(*args: Any) -> Scene:
        told.append(sample_scene(*args))
        return told[-1]

    monkeypatch.setattr(bases, "sample_scene", sampled)
    reader = DocumentReader(tokenizer, random.Random(2))
    kinds, headings = set(), set()
    for _ in range(120):
        document = reader.draw()
        ids = [token[0] for token in document.tokens]
        if processor.image_token_id not in ids:
            continue  # the scene is told in words there
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
            if opening:  # a heading of one token, which tells the coverage in quarters and is not learned
                quarters = round(4 * oracle.coverage(told[-1].objects, parse_objects(rest)))
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
    reader = DocumentReader(tokenizer, random.Random(3))
    batch = [Document([[BOS], [5, 9, 5], [7]], [-100, -100, 7]), *(reader.draw() for _ in range(3))]
    embeds, attention_mask, labels = embed_documents(batch, table)
    length = max(len(document.tokens) for document in batch)
    assert embeds.shape == (4, length, 6)
    for row, document in enumerate(batch):
        for place in range(length):
            inside = place < len(document.tokens)
            vector = torch.zeros(6)
            for word in document.tokens[place] if inside else []:
                vector = vector + table.weight[word]
            assert torch.allclose(embeds[row, place], vector, atol=1e-6)
            assert attention_mask[row, place] == int(inside)
            assert labels[row, place] == (document.labels[place] if inside else -100)


def test_noise_falls_on_tokens_alone(tokenizer: Any) -> None:
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


def test_the_folders_are_ordinary_checkpoints(made: Path) -> None:
    check_folders(made)


def test_what_is_made_is_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_make_clip_folder", "_make_llm_folder"):
        monkeypatch.setattr(bases, name, None)
    told = json.loads((made / "bases.json").read_text())
    assert train_backbones(TINY, made) == told
    with pytest.raises(ValueError, match="models of another recipe"):
        train_backbones(replace(TINY, seed=1), made)
    (made / "bases.json").unlink()  # cut off between the last model and the file
    assert train_backbones(TINY, made) == told | {"seconds": None}


@pytest.mark.skipif(not (BASES / "llm" / "config.json").is_file(), reason="no base models in the package")
def test_the_shipped_models_are_small_and_load() -> None:
    check_folders(BASES)
    assert sum(path.stat().st_size for path in BASES.rglob("*") if path.is_file()) < 20e6
