"""MMBench-CN: MMBench with Chinese questions and a Chinese way of asking for the letter."""

from __future__ import annotations

from aligngpt.evaluation.benchmarks import mmbench

_SUFFIX = "\n请直接回答选项字母。"

MMBENCH_CN = mmbench.benchmark("mmbench_cn", "MMB-CN", "mmbench_dev_cn_20231003", _SUFFIX)
