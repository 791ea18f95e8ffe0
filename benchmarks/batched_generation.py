"""Measure questions per second, one at a time and in batches of 16, with a model of the demo's size.

    python -m benchmarks.batched_generation --output benchmarks/results/batched_generation.json

The model has the sizes of the synthetic backbones and almost no training, so that its text is noise; both sides
generate a fixed number of tokens. The target, 6 times as many questions per second, is for 45 tokens, the longest
description of the synthetic dataset; for shorter answers the prompt, whose cost is the same on both sides, weighs more.
The measured time includes decoding the images. Both sides use `aligngpt.inference.batch_generation`, in alternating
rounds, and must generate the same text.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aligngpt import AlignGPTForConditionalGeneration, AlignGPTProcessor
from aligngpt.inference.batch_generation import GenerationSettings, generate_all
from aligngpt.inference.prompts import Prompt, build_prompt
from aligngpt.synthetic.backbones import train_clip, train_language_model, train_tokenizer
from aligngpt.synthetic.configs import BackboneTrainingConfig
from aligngpt.synthetic.dataset import generate_dataset, read_questions
from aligngpt.utils.io import versions, write_json

BATCH_SIZE = 16
LENGTHS = (8, 16, 45)  # tokens per answer; the target is for the last
TARGET = 6.0


def make_model(folder: Path) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    """Return the demo's model before training: backbones of the demo's sizes, trained for one step each."""
    config = BackboneTrainingConfig(clip_steps=1, clip_batch=2, llm_steps=1, llm_batch=2)
    tokenizer = train_tokenizer(random.Random(config.seed))
    train_clip(tokenizer, config, folder / "clip")
    train_language_model(tokenizer, config, folder / "llm")
    torch.manual_seed(0)
    model, processor = AlignGPTForConditionalGeneration.from_backbones(folder / "llm", folder / "clip", template="bare")
    return model, processor


def make_prompts(folder: Path, processor: AlignGPTProcessor, questions: int) -> list[Prompt]:
    """Return prompts of the synthetic test questions."""
    generate_dataset(folder / "data", pairs=1, conversations=1, questions=questions)
    return [
        build_prompt(processor, one["text"], (folder / "data" / "images" / one["image"],))
        for one in read_questions(folder / "data")
    ]


def measure(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    batch_size: int,
    tokens: int,
) -> tuple[float, list[str]]:
    """Return questions per second, and the answers."""
    model.generation_config.min_new_tokens = tokens
    started = time.perf_counter()
    settings = GenerationSettings(tokens, return_gate_weights=True)
    texts = [one.text for one in generate_all(model, processor, prompts, settings, batch_size=batch_size)]
    return len(prompts) / (time.perf_counter() - started), texts


def compare(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    rounds: int,
    tokens: int,
) -> dict[str, Any]:
    """Return the median speed of both sides over alternating rounds, after a warm-up round."""
    single, batched = [], []
    for number in range(rounds + 1):
        single_speed, single_texts = measure(model, processor, prompts, 1, tokens)
        batched_speed, batched_texts = measure(model, processor, prompts, BATCH_SIZE, tokens)
        if single_texts != batched_texts:
            raise SystemExit("answers in batches differ from answers one at a time")
        if number:
            single.append(single_speed)
            batched.append(batched_speed)
    return {
        "new_tokens": tokens,
        "one_by_one": round(statistics.median(single), 2),
        "batched": round(statistics.median(batched), 2),
        "ratio": round(statistics.median(batched) / statistics.median(single), 2),
        "ratios": [round(many / one, 2) for one, many in zip(single, batched, strict=True)],
        "same_answers": True,
    }


def main() -> None:
    """Create model and questions, measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = Path(tempfile.mkdtemp(prefix="batched-generation-"))
    try:
        model, processor = make_model(work)
        prompts = make_prompts(work, processor, options.questions)
        lengths = [compare(model, processor, prompts, options.rounds, tokens) for tokens in LENGTHS]
    finally:
        shutil.rmtree(work)
    result = {
        "ratio": lengths[-1]["ratio"],
        "target": TARGET,
        "batch_size": BATCH_SIZE,
        "questions": options.questions,
        "rounds": options.rounds,
        "threads": options.threads,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "lengths": lengths,
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
