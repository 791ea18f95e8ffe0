"""Results of the paper on the twelve benchmarks (arXiv 2405.14129, Tables 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

from aligngpt.evaluation.artifacts import FULL_SCORES, TITLES

PAPER_JUDGE = "GPT-4"  # of LLaVA-Bench and MM-Vet
TEST_SPLITS = {"vqav2": "test-dev", "vizwiz": "test-dev"}  # splits without public labels that the paper reports


@dataclass(frozen=True)
class PaperModel:
    """A row of the tables."""

    name: str
    language_model: str
    resolution: int  # image size in pixels
    scores: dict[str, float]  # by benchmark; absent if the paper has none


def _read_row(name: str, language_model: str, resolution: int, scores: str) -> PaperModel:
    """Return a row from its twelve scores in the order of `TITLES`; `-` is a missing one."""
    columns = zip(TITLES, scores.split(), strict=True)
    return PaperModel(name, language_model, resolution, {key: float(score) for key, score in columns if score != "-"})


ALIGNGPT_7B = _read_row(
    "AlignGPT-7B", "Vicuna-v1.5-7B", 336, "79.1 62.9 54.2 68.5 58.4 86.0 1527.4 67.3 59.9 66.5 68.4 30.8"
)
ALIGNGPT_13B = _read_row(
    "AlignGPT-13B", "Vicuna-v1.5-13B", 336, "80.0 63.6 56.4 70.3 60.2 86.2 1572.0 69.5 63.7 67.8 75.2 35.6"
)
LLAVA_7B = _read_row(
    "LLaVA-1.5-7B", "Vicuna-v1.5-7B", 336, "78.5 62.0 50.0 66.8 58.2 85.9 1510.7 64.3 58.3 66.2 63.4 30.5"
)
LLAVA_13B = _read_row(
    "LLaVA-1.5-13B", "Vicuna-v1.5-13B", 336, "80.0 63.3 53.6 71.6 61.3 85.9 1531.3 67.7 63.6 68.2 70.7 35.4"
)
_OTHERS = (
    _read_row("MiniGPT-v2", "LLaMA2-7B", 448, "74.6 60.3 32.9 60.9 28.0 85.1 1332.1 43.1 29.1 52.3 - -"),
    _read_row("Qwen-VL-Chat", "Qwen-7B", 448, "78.2 57.5 38.9 68.2 61.5 - 1487.5 60.6 56.7 58.2 - -"),
    _read_row("InstructBLIP-7B", "Vicuna-7B", 224, "- 49.2 34.5 60.5 50.1 - - 36.0 23.7 53.4 60.9 26.2"),
)
REFERENCE_MODELS = (ALIGNGPT_7B, ALIGNGPT_13B, LLAVA_7B, LLAVA_13B)  # compared with one by one
PAPER_MODELS = (*REFERENCE_MODELS, *_OTHERS)


def scale_to_percent(benchmark: str, points: float) -> float:
    """Return points of a benchmark in percent of its best possible score."""
    return 100 * points / FULL_SCORES.get(benchmark, 100.0)
