"""Train the two synthetic backbones from scratch: a small CLIP and a small causal language model.

Both see scenes of the train split only, and are ordinary checkpoint folders. The CLIP is trained on captions of mixed
coverage. The language model is trained on *soft tokens*: sums of word embeddings, in any order, spread over positions,
repeated, and with fillers between them. A frozen language model that has seen only well-formed text cannot be steered
by a projector, since no output of a projector resembles its training inputs; one trained on soft tokens can.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

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

from aligngpt.synthetic.artifacts import BackbonesInfo
from aligngpt.synthetic.configs import BackboneTrainingConfig
from aligngpt.synthetic.scenes import (
    NUMBERS,
    Caption,
    Scene,
    describe,
    render_scene,
    sample_caption,
    sample_questions,
    sample_scene,
)
from aligngpt.utils.io import atomic_path, versions
from aligngpt.utils.output_dir import OutputDir
from aligngpt.utils.processes import exit_with_parent
from aligngpt.utils.progress import INTERVAL, INTERVAL_VARIABLE, progress

BUNDLED_FOLDER = Path(__file__).parent / "weights"
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
PAD, UNK, BOS, EOS = range(len(SPECIAL_TOKENS))
_FILLERS = (" a", " at", " the", " and", ",", ".", "\n")


def train_backbones(config: BackboneTrainingConfig, output: str | Path) -> BackbonesInfo:
    """Train both backbones, one process each; a model that the folder already holds is skipped.

    Args:
        config: Sizes, steps and seed.
        output: Folder for `clip/`, `llm/` and `backbones.json`.

    Raises:
        ValueError: The folder's models were trained with another config, or another process holds it.
    """
    info = BackbonesInfo(config=asdict(config), seconds=None, versions=versions())
    run = OutputDir(output, {"config": info.config}, run_file=info.FILE, result_file=info.FILE)
    started = time.monotonic()
    trainers = {"clip": train_clip, "llm": train_language_model}
    missing = [name for name in trainers if not (run.path / name / "config.json").is_file()]
    if run.done and not missing:
        return BackbonesInfo.read(run.path)
    context = torch.multiprocessing.get_context("spawn")
    with run.lock(), ProcessPoolExecutor(max(1, len(missing)), context, initializer=_start_worker) as pool:
        run.start(**info.model_dump(exclude={"config"}))
        for future in [pool.submit(_train_folder, trainers[name], config, run.path / name) for name in missing]:
            future.result()
        info = info.model_copy(update={"seconds": round(time.monotonic() - started)})
        info.write(run.path)
    return info


def _start_worker() -> None:
    exit_with_parent()
    os.environ.setdefault(INTERVAL_VARIABLE, str(INTERVAL))  # lines: two bars would overwrite each other


def _train_folder(train: Callable[..., None], config: BackboneTrainingConfig, output: Path) -> None:
    torch.set_num_threads(config.threads)
    with atomic_path(output) as folder:
        train(train_tokenizer(random.Random(config.seed)), config, folder)


# -------------------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with one token per word of the synthetic texts; other text becomes shorter pieces."""
    corpus = []
    for _ in range(3000):
        scene = sample_scene(rng, "train")
        corpus += [describe(scene.objects), sample_caption(scene, rng).text]
        questions = sample_questions(scene, 7, rng)
        corpus += [f"{prefix}{q.text} ASSISTANT: {q.answer}" for q in questions for prefix in ("USER: ", "\n")]
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


def train_clip(tokenizer: PreTrainedTokenizerFast, config: BackboneTrainingConfig, output: Path) -> None:
    """Train the CLIP and write it with its image processor and tokenizer to `output`."""
    torch.manual_seed(config.seed)
    rng = random.Random(config.seed + 1)
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    text |= {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    vision |= {"image_size": config.image_size, "patch_size": config.patch_size}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))
    square = {"height": config.image_size, "width": config.image_size}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": config.image_size}, crop_size=square)
    clip_tokenizer = _append_end_token(tokenizer)

    def compute_loss() -> Tensor:
        scenes = [sample_scene(rng, "train") for _ in range(config.clip_batch)]
        images = [render_scene(scene, rng) for scene in scenes]
        pixels = image_processor(images, return_tensors="pt")["pixel_values"]
        words = clip_tokenizer(
            [_sample_true_caption(scene, rng) for scene in scenes], padding=True, return_tensors="pt"
        )
        return clip(**words, pixel_values=pixels, return_loss=True).loss

    _train(clip, compute_loss, config.clip_steps, config.clip_learning_rate, weight_decay=0.05)
    clip.save_pretrained(output)
    image_processor.save_pretrained(output)
    clip_tokenizer.save_pretrained(output)


def _sample_true_caption(scene: Scene, rng: random.Random) -> str:
    """Sample a caption of any coverage but of this scene: the other captions of a batch are the negatives."""
    if rng.random() < 0.5:
        return describe(scene.objects)
    while True:
        caption = sample_caption(scene, rng)
        if caption.kind != "mismatched":
            return caption.text


def _append_end_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a copy of the tokenizer that ends every text with the end token, where CLIP pools."""
    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ends = [("<s>", BOS), ("</s>", EOS)]
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=77, **names)


# --------------------------------------------------------------------------------------------------- language model


def train_language_model(tokenizer: PreTrainedTokenizerFast, config: BackboneTrainingConfig, output: Path) -> None:
    """Train the language model on documents with soft tokens and write it with its tokenizer to `output`."""
    torch.manual_seed(config.seed)
    llama_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size); the default 0.02 suits wide models
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(llama_config)
    documents = DocumentSampler(tokenizer, random.Random(config.seed + 2))
    batches = documents.sample_batches(config.llm_batch)

    def compute_loss() -> Tensor:
        embeds, attention_mask, labels = embed_documents(next(batches), model.get_input_embeddings())
        return model(inputs_embeds=embeds, attention_mask=attention_mask, labels=labels, use_cache=False).loss

    _train(model, compute_loss, config.llm_steps, config.llm_learning_rate, weight_decay=0.01)
    model.generation_config.update(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


SoftToken = list[int]  # ids of the tokens whose embeddings are summed at one position


@dataclass
class Document:
    """A sequence of soft tokens with `labels`: the token id where the loss is computed, -100 elsewhere."""

    tokens: list[SoftToken]
    labels: list[int]


class DocumentSampler:
    """Sample training documents: a scene as soft tokens or in words, then a caption or questions and answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self.rng = rng
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}
        self._fillers = [self._encode(word)[-1] for word in _FILLERS]

    def sample(self) -> Document:
        """Sample a document about a scene of the train split, in the format of the templates `plain` and `bare`."""
        rng = self.rng
        scene = sample_scene(rng, "train")
        document = Document([[BOS]], [-100])
        is_caption = rng.random() < 0.45
        if is_caption:
            caption, heading = self._sample_caption(scene)
            self._append(document, heading)
        else:
            self._append(document, "USER: ")
        if rng.random() < 0.75:
            soft = self._sample_soft_context(scene)
            document.tokens += soft
            document.labels += [-100] * len(soft)
        else:
            self._append(document, describe(scene.objects))
        if is_caption:
            self._append(document, caption + "\n", learn=True)
            return document
        for turn, question in enumerate(sample_questions(scene, rng.randint(2, 3), rng)):
            prefix = "\n" if turn == 0 else "USER: "
            self._append(document, f"{prefix}{question.text} ASSISTANT:")
            self._append(document, f" {question.answer}", learn=True)
            document.tokens.append([EOS])
            document.labels.append(EOS)
        return document

    def _sample_caption(self, scene: Scene) -> tuple[str, str]:
        """Sample a caption and, half of the time, a heading: how many quarters of the scene the caption covers.

        A large language model has seen headings and instructions that announce the detail of a text; this one has to
        see them too.
        """
        caption = Caption(describe(scene.objects), "whole", 1.0)
        if self.rng.random() < 0.6:
            caption = sample_caption(scene, self.rng)
        heading = f" {NUMBERS[round(4 * caption.coverage)]}" if self.rng.random() < 0.5 else ""
        return caption.text, heading

    def sample_batches(self, size: int) -> Iterator[list[Document]]:
        """Yield batches of documents of similar length, which halves the padding."""
        while True:
            documents = sorted((self.sample() for _ in range(16 * size)), key=lambda document: len(document.tokens))
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

    def _sample_soft_context(self, scene: Scene) -> list[SoftToken]:
        """Sample soft tokens as a projector may emit them: each object over one to four positions, and fillers."""
        rng = self.rng
        context: list[SoftToken] = []
        objects = list(scene.objects)
        if rng.random() < 0.3:
            rng.shuffle(objects)
        repeat = rng.choice((0.0, 0.3, 1.0))
        for item in objects:
            positions: list[SoftToken] = [[] for _ in range(rng.randint(1, 4))]
            for token in self._encode(f" {item.size} {item.color} {item.shape} {item.place}"):
                repeated = rng.random() < repeat
                for position in positions if repeated else [rng.choice(positions)]:
                    position.append(token)
            context += [position for position in positions if position]
        if repeat == 1.0 and rng.random() < 0.5:
            rng.shuffle(context)  # each position describes its whole object, so the order carries no information
        for _ in range(rng.randint(0, 28)):
            context.insert(rng.randint(0, len(context)), [rng.choice(self._fillers)])
        return context


def embed_documents(batch: list[Document], embedding: nn.Embedding) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the embeddings of each soft token and add noise at every position that is not padding.

    Returns:
        `inputs_embeds` (batch, length, hidden), `attention_mask` and `labels` (batch, length), padded on the right.
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
    compute_loss: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Train with AdamW, 100 warmup steps and a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps, warmup=100))
    name = type(model).__name__
    with progress(name, steps) as advance:
        for _ in range(steps):
            loss = compute_loss()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            advance(1, f"{name}, loss {loss.item():.4f}")


def _cosine(step: int, steps: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + 0.01)
