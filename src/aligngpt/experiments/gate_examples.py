"""Examples of what the gate computes: image-text similarities and weights of a few synthetic test questions."""

from __future__ import annotations

from pathlib import Path

from aligngpt.evaluation.benchmarks.synthetic import SYNTHETIC
from aligngpt.experiments.artifacts import GateExample, GateExamples
from aligngpt.inference.batch_generation import GenerationSettings, generate_all
from aligngpt.inference.prompts import build_prompt
from aligngpt.modeling.checkpoints import load_model
from aligngpt.synthetic.dataset import read_questions
from aligngpt.synthetic.scenes import QUESTION_KINDS
from aligngpt.utils.progress import status

_PER_KIND = 2


def collect_gate_examples(model: str | Path, data: str | Path) -> GateExamples:
    """Ask a model two test questions of each kind, and return what its gate computes for them (Eq. 2).

    Args:
        model: Model folder with a gate.
        data: Folder of the synthetic dataset.
    """
    with status(f"loading {model}"):
        network, processor = load_model(model)
    records = read_questions(data)
    questions = [
        record
        for kind in QUESTION_KINDS
        for record in [record for record in records if record["category"] == kind][:_PER_KIND]
    ]
    prompts = [build_prompt(processor, item["text"], (Path(data) / "images" / item["image"],)) for item in questions]
    settings = GenerationSettings(SYNTHETIC.max_new_tokens, return_gate_weights=True)
    side = int(network.config.image_seq_length**0.5)
    examples = [
        GateExample(
            image=question["image"],
            question=question["text"],
            answer=question["label"],
            prediction=completion.text,
            grid=(side, side),
            image_text_similarity=[round(value, 4) for value in completion.image_text_similarity or []],
            gate_weights=[round(weight, 5) for weight in completion.gate_weights or []],
        )
        for question, completion in zip(questions, generate_all(network, processor, prompts, settings), strict=True)
    ]
    return GateExamples(examples=examples)
