"""Make the world's two base models: a small CLIP and a small causal language model, as ordinary checkpoint folders.

Both are shown scenes of the train split alone. The CLIP learns from captions of mixed coverage. The language model
learns to read *soft* tokens: vectors that are sums of word embeddings, in any order, spread and repeated, between
fillers. A model that has read only well-formed text cannot be steered by a projector while it is frozen, because
nothing a projector emits looks like anything it has met; one that has read soft tokens can, as a large model can.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from aligngpt.synthetic.configs import BackboneTrainingConfig
from aligngpt.synthetic.scenes import (
    NUMBERS,
    Caption,
    Scene,
    describe,
    draw_scene,
    sample_questions,
    sample_scene,
    web_caption,
)
from aligngpt.utils.io import atomic_path, read_json, versions, write_json

BASES = Path(__file__).parent / "weights"
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
PAD, UNK, BOS, EOS = range(len(SPECIAL_TOKENS))
_FILLERS = (" a", " at", " the", " and", ",", ".", "\n")


def train_backbones(recipe: BackboneTrainingConfig, output: str | Path) -> dict[str, Any]:
    """Make both base models side by side, in one process each; what is already there is kept.

    Args:
        recipe: Sizes, steps and seed.
        output: Folder for `clip/`, `llm/` and `bases.json`, which tells how and how long they were made.

    Returns:
        What `bases.json` holds; `seconds` is `None` where both lay there and nothing told how they were made.

    Raises:
        ValueError: The folder's models were made with another recipe.
    """
    folder = Path(output)
    told = folder / "bases.json"
    if told.is_file() and read_json(told)["recipe"] != asdict(recipe):
        raise ValueError(f"{folder} holds models of another recipe: choose another folder, or remove this one")
    started = time.monotonic()
    context = torch.multiprocessing.get_context("spawn")
    makers = {"clip": _make_clip_folder, "llm": _make_llm_folder}
    missing = [name for name in makers if not (folder / name / "config.json").is_file()]
    with ProcessPoolExecutor(max_workers=max(1, len(missing)), mp_context=context) as pool:
        for done in [pool.submit(makers[name], recipe, folder / name) for name in missing]:
            done.result()
    if missing or not told.is_file():
        seconds = round(time.monotonic() - started) if missing else None
        write_json(told, {"recipe": asdict(recipe), "seconds": seconds, "versions": versions()})
    return read_json(told)


def _make_clip_folder(recipe: BackboneTrainingConfig, output: Path) -> None:
    torch.set_num_threads(recipe.threads)
    with atomic_path(output) as folder:
        make_clip(make_tokenizer(random.Random(recipe.seed)), recipe, folder)


def _make_llm_folder(recipe: BackboneTrainingConfig, output: Path) -> None:
    torch.set_num_threads(recipe.threads)
    with atomic_path(output) as folder:
        make_language_model(make_tokenizer(random.Random(recipe.seed)), recipe, folder)


# -------------------------------------------------------------------------------------------------------- tokenizer


def make_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the world is one token and any other text is spelled out."""
    corpus = []
    for _ in range(3000):
        scene = sample_scene(rng, "train")
        corpus += [describe(scene.objects), web_caption(scene, rng).text]
        questions = sample_questions(scene, 7, rng)
        corpus += [f"{opening}{q.text} ASSISTANT: {q.answer}" for q in questions for opening in ("USER: ", "\n")]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=640, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=1024,
    )


# ------------------------------------------------------------------------------------------------------------- CLIP


def make_clip(tokenizer: PreTrainedTokenizerFast, recipe: BackboneTrainingConfig, output: Path) -> None:
    """Train the CLIP and write it with its image processor and tokenizer to `output`."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed + 1)
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    text |= {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    vision |= {"image_size": recipe.image_size, "patch_size": recipe.patch_size}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    side = {"height": recipe.image_size, "width": recipe.image_size}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": recipe.image_size}, crop_size=side)
    clip_tokenizer = _with_end_token(tokenizer)

    def loss_of_batch() -> Tensor:
        scenes = [sample_scene(rng, "train") for _ in range(recipe.clip_batch)]
        images = [draw_scene(scene, rng) for scene in scenes]
        pixels = image_processor(images, return_tensors="pt")["pixel_values"]
        words = clip_tokenizer([_true_caption(scene, rng) for scene in scenes], padding=True, return_tensors="pt")
        return clip(**words, pixel_values=pixels, return_loss=True).loss

    _train(clip, loss_of_batch, recipe.clip_steps, recipe.clip_learning_rate, weight_decay=0.05)
    clip.save_pretrained(output)
    image_processor.save_pretrained(output)
    clip_tokenizer.save_pretrained(output)


def _true_caption(scene: Scene, rng: random.Random) -> str:
    """A caption of any coverage, but of this scene: contrastive training brings the wrong ones itself."""
    if rng.random() < 0.5:
        return describe(scene.objects)
    while True:
        caption = web_caption(scene, rng)
        if caption.kind != "mismatched":
            return caption.text


def _with_end_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """CLIP pools its text at the end token, so its tokenizer closes every text with one."""
    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ends = [("<s>", BOS), ("</s>", EOS)]
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=77, **names)


# --------------------------------------------------------------------------------------------------- language model


def make_language_model(tokenizer: PreTrainedTokenizerFast, recipe: BackboneTrainingConfig, output: Path) -> None:
    """Train the language model on documents with soft tokens and write it with its tokenizer to `output`."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size); the library's 0.02 is meant for wide models
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config)
    documents = DocumentReader(tokenizer, random.Random(recipe.seed + 2))

    batches = documents.batches(recipe.llm_batch)

    def loss_of_batch() -> Tensor:
        embeds, attention_mask, labels = embed_documents(next(batches), model.get_input_embeddings())
        return model(inputs_embeds=embeds, attention_mask=attention_mask, labels=labels, use_cache=False).loss

    _train(model, loss_of_batch, recipe.llm_steps, recipe.llm_learning_rate, weight_decay=0.01)
    model.generation_config.update(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


SoftToken = list[int]  # the words whose embeddings are summed at one position


@dataclass
class Document:
    """A sequence of soft tokens; `labels` holds the next word where it is to be learned, -100 elsewhere."""

    tokens: list[SoftToken]
    labels: list[int]


class DocumentReader:
    """Draws training documents: a scene told softly or in words, then a caption or questions and answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self.rng = rng
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}
        self._fillers = [self._encode(word)[-1] for word in _FILLERS]

    def draw(self) -> Document:
        """One document about a scene of the train split, in the words of the templates `plain` and `bare`."""
        rng = self.rng
        scene = sample_scene(rng, "train")
        document = Document([[BOS]], [-100])
        as_caption = rng.random() < 0.45
        if as_caption:
            caption, heading = self._caption(scene)
            self._append(document, heading)
        else:
            self._append(document, "USER: ")
        if rng.random() < 0.75:
            soft = self._soft_context(scene)
            document.tokens += soft
            document.labels += [-100] * len(soft)
        else:
            self._append(document, describe(scene.objects))
        if as_caption:
            self._append(document, caption + "\n", learn=True)
            return document
        for turn, question in enumerate(sample_questions(scene, rng.randint(2, 3), rng)):
            opening = "\n" if turn == 0 else "USER: "
            self._append(document, f"{opening}{question.text} ASSISTANT:")
            self._append(document, f" {question.answer}", learn=True)
            document.tokens.append([EOS])
            document.labels.append(EOS)
        return document

    def _caption(self, scene: Scene) -> tuple[str, str]:
        """A caption of the scene, and half of the time a heading: how many quarters of the scene it will tell.

        A large model has met titles and orders that say how much will be told; this one is to have met them too.
        """
        told = Caption(describe(scene.objects), "whole", 1.0)
        if self.rng.random() < 0.6:
            told = web_caption(scene, self.rng)
        heading = f" {NUMBERS[round(4 * told.coverage)]}" if self.rng.random() < 0.5 else ""
        return told.text, heading

    def batches(self, size: int) -> Iterator[list[Document]]:
        """Batches of documents of about one length, which saves half the padding."""
        while True:
            documents = sorted((self.draw() for _ in range(16 * size)), key=lambda document: len(document.tokens))
            starts = list(range(0, len(documents), size))
            self.rng.shuffle(starts)
            for start in starts:
                yield documents[start : start + size]

    def _append(self, document: Document, text: str, learn: bool = False) -> None:
        ids = self._encode(text)
        document.tokens += [[i] for i in ids]
        document.labels += ids if learn else [-100] * len(ids)

    def _encode(self, text: str) -> list[int]:
        if text not in self._ids:
            if len(self._ids) > 50_000:
                self._ids.clear()
            self._ids[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._ids[text]

    def _soft_context(self, scene: Scene) -> list[SoftToken]:
        """The scene as a vision tower might tell it: each thing spread over one to four positions, fillers between."""
        rng = self.rng
        told: list[SoftToken] = []
        objects = list(scene.objects)
        if rng.random() < 0.3:
            rng.shuffle(objects)
        repeat = rng.choice((0.0, 0.3, 1.0))
        for thing in objects:
            positions: list[SoftToken] = [[] for _ in range(rng.randint(1, 4))]
            for word in self._encode(f" {thing.size} {thing.color} {thing.shape} {thing.place}"):
                everywhere = rng.random() < repeat
                for position in positions if everywhere else [rng.choice(positions)]:
                    position.append(word)
            told += [position for position in positions if position]
        if repeat == 1.0 and rng.random() < 0.5:
            rng.shuffle(told)  # every position tells its thing whole, so their order does not matter
        for _ in range(rng.randint(0, 28)):
            told.insert(rng.randint(0, len(told)), [rng.choice(self._fillers)])
        return told


def embed_documents(batch: list[Document], embedding: nn.Embedding) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the word embeddings of every soft token and add noise to the soft ones.

    Returns:
        `inputs_embeds` (batch, length, hidden), `attention_mask` and `labels` (batch, length), padded right.
    """
    length = max(len(document.tokens) for document in batch)
    width = max(len(token) for document in batch for token in document.tokens)
    words = torch.tensor(
        [
            [token + [PAD] * (width - len(token)) for token in document.tokens]
            + [[PAD] * width] * (length - len(document.tokens))
            for document in batch
        ]
    )
    labels = torch.tensor([document.labels + [-100] * (length - len(document.labels)) for document in batch])
    present = (words != PAD).unsqueeze(-1)
    embeds = (embedding(words) * present).sum(2)
    noise = torch.randn_like(embeds) * 0.15 * embedding.weight.std().detach()
    attention_mask = present.any(2).squeeze(-1).long()
    return embeds + noise * attention_mask.unsqueeze(-1), attention_mask, labels


# --------------------------------------------------------------------------------------------------------- training


def _train(
    model: nn.Module,
    loss_of_batch: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """AdamW with a short warm-up and a cosine, logging every hundredth step."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps, warmup=100))
    started = time.monotonic()
    for step in range(1, steps + 1):
        loss = loss_of_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            seconds = time.monotonic() - started
            print(
                f"{type(model).__name__}: step {step} of {steps}, loss {loss.item():.4f}, {seconds:.0f} s", flush=True
            )


def _cosine(step: int, steps: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + 0.01)
