"""Questions answered in a second, one by one and in batches of 16, by a model of the demo's size.

    python -m benchmarks.batched_generation --output benchmarks/results/batched_generation.json

The model has the sizes of the drawn world's recipe and hardly any training: what it writes is noise, so both sides
write a fixed number of tokens. The mark, 6 times as many questions in a second, is for 45 tokens, the demo's fullest
description; with shorter answers the prompt, which is the same work for both, counts for more. Images are decoded and
prepared in the measured time. Both sides go through `aligngpt.inference.batch_generation`, in rounds that take turns,
and must write the same answers.


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
from aligngpt.synthetic import backbones as bases
from aligngpt.synthetic import dataset as data
from aligngpt.synthetic.configs import BackboneTrainingConfig
from aligngpt.utils.io import versions, write_json

BATCH_SIZE = 16
LENGTHS = (8, 16, 45)  # of the answers, in tokens; the last is that of the mark
MARK = 6.0


def make_model(folder: Path) -> tuple[AlignGPTForConditionalGeneration, AlignGPTProcessor]:
    """The demo's model as it is before any training: both base models of the recipe's sizes, of one step each."""
    recipe = BackboneTrainingConfig(clip_steps=1, clip_batch=2, llm_steps=1, llm_batch=2)
    tokenizer = bases.train_tokenizer(random.Random(recipe.seed))
    bases.train_clip(tokenizer, recipe, folder / "clip")
    bases.train_language_model(tokenizer, recipe, folder / "llm")
    torch.manual_seed(0)
    model, processor = AlignGPTForConditionalGeneration.from_backbones(folder / "llm", folder / "clip", template="bare")
    return model, processor


def make_prompts(folder: Path, processor: AlignGPTProcessor, questions: int) -> list[Prompt]:
    """Questions of the drawn world with their images."""
    data.generate_dataset(folder / "data", pairs=1, conversations=1, questions=questions)
    return [
        build_prompt(processor, one["text"], (folder / "data" / "images" / one["image"],))
        for one in data.read_questions(folder / "data")
    ]


def timed(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    batch_size: int,
    tokens: int,
) -> tuple[float, list[str]]:
    """Questions in a second, and the answers."""
    model.generation_config.min_new_tokens = tokens
    started = time.perf_counter()
    settings = GenerationSettings(tokens, return_gate_weights=True)
    given = generate_all(model, processor, prompts, settings, batch_size=batch_size)
    texts = [one.text for one in given]
    return len(prompts) / (time.perf_counter() - started), texts


def compare(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    rounds: int,
    tokens: int,
) -> dict[str, Any]:
    """Median speeds of both sides over rounds that take turns, after one that does not count."""
    single, batched = [], []
    for number in range(rounds + 1):
        one_by_one, alone = timed(model, processor, prompts, 1, tokens)
        in_batches, together = timed(model, processor, prompts, BATCH_SIZE, tokens)
        if alone != together:
            raise SystemExit("the answers in batches are not those one by one")
        if number:
            single.append(one_by_one)
            batched.append(in_batches)
    return {
        "new_tokens": tokens,
        "one_by_one": round(statistics.median(single), 2),
        "batched": round(statistics.median(batched), 2),
        "ratio": round(statistics.median(batched) / statistics.median(single), 2),
        "ratios": [round(many / one, 2) for one, many in zip(single, batched, strict=True)],
        "same_answers": True,
    }


def main() -> None:
    """Make model and questions, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
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
        "mark": MARK,
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
