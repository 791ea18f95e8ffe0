"""The benchmarks by name, in the order of the paper's tables; a new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Sequence

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
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.text import suggest

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


def get_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Raises:
        ValueError: There is none; the message has the nearest name or all names.
    """
    if name not in BENCHMARKS:
        hint = suggest(name, BENCHMARKS) or f"; choose from {', '.join(BENCHMARKS)}"
        raise ArgumentError(f"{name!r} is not a benchmark{hint}")
    return BENCHMARKS[name]


def select_benchmarks(tasks: str | Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks of names, as a list or separated by commas, in that order; of `"all"`, every benchmark.

    Raises:
        ValueError: As `get_benchmark`.
    """
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    return [get_benchmark(name) for name in (BENCHMARKS if names == ["all"] else dict.fromkeys(names))]
