"""The prompts that a run stores are those that LLaVA's own runs stored, on the official question files."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligngpt.evaluation.benchmarks import BENCHMARKS
from aligngpt.evaluation.readers import read_predictions

OFFICIAL = Path(__file__).resolve().parents[2].parent / "shared" / "benchmarks"
FILES = {
    "mme": ("mme/llava_mme.jsonl.gz", "mme/answers_llava-v1.5-13b.jsonl.gz"),
    "pope": ("pope/llava_pope_test.jsonl.gz", "pope/answers_llava-v1.5-13b.jsonl.gz"),
    "vizwiz": ("vizwiz/llava_test_part.jsonl.gz", "vizwiz/answers_llava-v1.5-13b_test_part.jsonl.gz"),
    "llava_bench": ("llava_bench_wild/questions.jsonl", "llava_bench_wild/answers_llava-v1.5-13b.jsonl"),
    "mmvet": ("mm_vet/llava-mm-vet.jsonl", "mm_vet/answers_llava-v1.5-13b.jsonl"),
}


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="no ../shared/benchmarks beside the repository")
@pytest.mark.parametrize("name", FILES)
def test_the_prompts_of_llavas_answers(name: str) -> None:
    questions, answers = (OFFICIAL / file for file in FILES[name])
    asked = [(one.id, one.stored_prompt or one.prompt) for one in BENCHMARKS[name].read_questions(questions)]
    assert asked == [(row.id, row.prompt) for row in read_predictions(answers).rows]
