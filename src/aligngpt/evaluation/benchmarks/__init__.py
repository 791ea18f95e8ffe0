"""The benchmarks by name, in the order of the paper's tables; a new one is a file here and a line below."""

from __future__ import annotations

from aligngpt.evaluation.benchmark import Benchmark
from aligngpt.evaluation.benchmarks.gqa import GQA
from aligngpt.evaluation.benchmarks.llava_bench import LLAVA_BENCH
from aligngpt.evaluation.benchmarks.mmbench import MMBENCH, MMBENCH_CN
from aligngpt.evaluation.benchmarks.mme import MME
from aligngpt.evaluation.benchmarks.mmvet import MMVET
from aligngpt.evaluation.benchmarks.pope import POPE
from aligngpt.evaluation.benchmarks.scienceqa import SCIENCEQA
from aligngpt.evaluation.benchmarks.seed import SEED
from aligngpt.evaluation.benchmarks.synthetic import SYNTHETIC
from aligngpt.evaluation.benchmarks.textvqa import TEXTVQA
from aligngpt.evaluation.benchmarks.vizwiz import VIZWIZ
from aligngpt.evaluation.benchmarks.vqav2 import VQAV2

BENCHMARKS: dict[str, Benchmark] = {
    "vqav2": VQAV2,
    "gqa": GQA,
    "vizwiz": VIZWIZ,
    "scienceqa": SCIENCEQA,
    "textvqa": TEXTVQA,
    "pope": POPE,
    "mme": MME,
    "mmbench": MMBENCH,
    "mmbench_cn": MMBENCH_CN,
    "seed": SEED,
    "llava_bench": LLAVA_BENCH,
    "mmvet": MMVET,
    "synthetic": SYNTHETIC,
}
