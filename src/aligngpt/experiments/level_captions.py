"""Caption images with a stage-1 model at every alignment level: do higher levels describe more (Figure 7)?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aligngpt.evaluation.benchmarks.synthetic import match_objects
from aligngpt.evaluation.metrics import bootstrap_interval
from aligngpt.experiments.artifacts import CaptionExample, CaptionLevel, Estimate, LevelCaptions
from aligngpt.inference.batch_generation import GenerationSettings, generate_all
from aligngpt.inference.prompts import Prompt, build_prompt
from aligngpt.modeling.checkpoints import load_model
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor, load_template
from aligngpt.synthetic.dataset import read_questions
from aligngpt.synthetic.scenes import SceneObject, describe
from aligngpt.utils.constants import IMAGE_TOKEN
from aligngpt.utils.progress import progress, status

_MAX_NEW_TOKENS = 80  # a complete description of four objects has 45
_NUM_EXAMPLES = 8


def caption_by_level(
    model: str | Path, data: str | Path, output: str | Path, *, batch_size: int = 100, limit: int = 200
) -> LevelCaptions:
    """Caption test images at each level and measure which objects the captions describe.

    Args:
        model: Folder of a stage-1 checkpoint.
        data: Folder of the synthetic dataset.
        output: Folder for `captions.json`.
        batch_size: Images per batch.
        limit: Number of test images.
    """
    with status(f"loading {model}"):
        network, processor = load_model(model)
    questions = read_questions(data)[:limit]
    prompts = [build_caption_prompt(processor, Path(data) / "images" / question["image"]) for question in questions]
    truths = [question["objects"] for question in questions]
    levels = range(1, network.config.num_alignment_levels + 1)
    captions: dict[int, list[str]] = {}
    with progress("captioning", len(levels) * len(prompts)) as advance:
        for level in levels:
            captions[level] = []
            for text in generate_captions(network, processor, prompts, alignment=level, batch_size=batch_size):
                captions[level].append(text)
                advance(1)
    examples = [
        CaptionExample(
            image=question["image"],
            truth=describe(question["objects"]),
            captions=[texts[index] for texts in captions.values()],
        )
        for index, question in enumerate(questions[:_NUM_EXAMPLES])
    ]
    by_level = [measure_level(level, texts, truths) for level, texts in captions.items()]
    result = LevelCaptions(num_levels=len(levels), by_level=by_level, examples=examples)
    Path(output).mkdir(parents=True, exist_ok=True)
    result.write(output)
    return result


def measure_level(level: int, texts: Sequence[str], truths: Sequence[Sequence[SceneObject]]) -> CaptionLevel:
    """Return precision and recall of the objects that the captions of one level describe, as color and shape."""
    counts = [match_objects(text, objects) for text, objects in zip(texts, truths, strict=True)]
    n_right, n_named, n_present = zip(*counts, strict=True)
    estimates = {
        name: Estimate(value=round(sum(n_right) / max(1, sum(numbers)), 4), ci95=bootstrap_interval(n_right, numbers))
        for name, numbers in (("precision", n_named), ("recall", n_present))
    }
    return CaptionLevel(level=level, **estimates)


def build_caption_prompt(processor: AlignGPTProcessor, image: Path) -> Prompt:
    """Return the prompt of stage 1: the image only."""
    return build_prompt(processor, IMAGE_TOKEN, (image,), template=load_template("plain"))


def generate_captions(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    prompts: Sequence[Prompt],
    *,
    alignment: Any = None,
    batch_size: int = 64,
) -> Iterator[str]:
    """Yield captions as stage 1 was trained to write them: one line each."""
    newline = processor.tokenizer.encode("\n", add_special_tokens=False)[-1]
    settings = GenerationSettings(_MAX_NEW_TOKENS, alignment, stop_token_ids=(newline,))
    for completion in generate_all(model, processor, prompts, settings, batch_size=batch_size):
        yield completion.text
