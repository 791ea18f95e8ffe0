"""Evaluate two models on the same benchmarks and compare them question by question.

python examples/compare_two_models.py MODEL_A MODEL_B --data playground/data/eval --tasks pope,gqa --output results
"""

import argparse
from pathlib import Path

import aligngpt

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs=2, metavar="MODEL", help="two model folders or Hub names")
parser.add_argument("--data", required=True, help="LLaVA's playground/data/eval, or mock data")
parser.add_argument("--tasks", default="all", help="benchmark names, separated by commas")
parser.add_argument("--output", required=True, type=Path)


def main() -> None:
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",")
    outputs = [arguments.output / name for name in ("a", "b")]
    for model, output in zip(arguments.models, outputs, strict=True):
        aligngpt.evaluate(model, tasks=tasks, data=arguments.data, output=output)
    for comparison in aligngpt.compare(*outputs):
        print(comparison)


if __name__ == "__main__":
    main()
