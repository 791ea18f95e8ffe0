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
from aligngpt.modeling.hub import resolve_model
from aligngpt.modeling.model import AlignGPTForConditionalGeneration
from aligngpt.modeling.processing import AlignGPTProcessor, load_template
from aligngpt.synthetic.artifacts import QUESTIONS_FILE
from aligngpt.synthetic.dataset import read_questions
from aligngpt.synthetic.scenes import SceneObject, describe
from aligngpt.utils.constants import IMAGE_TOKEN
from aligngpt.utils.io import fingerprint_file
from aligngpt.utils.output_dir import OutputDir
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

    Raises:
        ValueError: The folder has captions of other inputs, or another process writes to it.
    """
    checkpoint = resolve_model(model)
    files = [path for path in sorted(checkpoint.iterdir()) if path.suffix in (".bin", ".json", ".safetensors")]
    inputs = {
        "model": {path.name: fingerprint_file(path) for path in files},
        "data": fingerprint_file(Path(data) / QUESTIONS_FILE),
        "limit": limit,
    }
    folder = OutputDir(output, {"inputs": inputs}, run_file=LevelCaptions.FILE, result_file=LevelCaptions.FILE)
    if folder.done:
        return LevelCaptions.read(folder.path)
    with folder.lock():
        with status(f"loading {model}"):
            network, processor = load_model(checkpoint)
        questions = read_questions(data)[:limit]
        captions = _generate_by_level(network, processor, questions, Path(data) / "images", batch_size)
        truths = [question["objects"] for question in questions]
        result = LevelCaptions(
            inputs=inputs,
            num_levels=len(captions),
            by_level=[measure_level(level, texts, truths) for level, texts in captions.items()],
            examples=[
                CaptionExample(image=question["image"], truth=describe(question["objects"]), captions=[*texts])
                for question, *texts in list(zip(questions, *captions.values(), strict=True))[:_NUM_EXAMPLES]
            ],
        )
        result.write(folder.path)
    return result


def _generate_by_level(
    model: AlignGPTForConditionalGeneration,
    processor: AlignGPTProcessor,
    questions: Sequence[dict[str, Any]],
    images: Path,
    batch_size: int,
) -> dict[int, list[str]]:
    prompts = [build_caption_prompt(processor, images / question["image"]) for question in questions]
    captions: dict[int, list[str]] = {level: [] for level in range(1, model.config.num_alignment_levels + 1)}
    with progress("captioning", len(captions) * len(prompts)) as advance:
        for level, texts in captions.items():
            for text in generate_captions(model, processor, prompts, alignment=level, batch_size=batch_size):
                texts.append(text)
                advance(1)
    return captions


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
