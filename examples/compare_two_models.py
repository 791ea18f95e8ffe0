"""Evaluate two models on the same benchmarks and compare them question by question.

python examples/compare_two_models.py MODEL BASELINE --data playground/data/eval --tasks pope,gqa --output results

The results of each model are in a folder of its name below --output.
"""

import argparse
from pathlib import Path

import aligngpt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="two model folders or hub names")
    parser.add_argument("--data", required=True, help="LLaVA's playground/data/eval, or mock data")
    parser.add_argument("--tasks", default="all", help="benchmark names, separated by commas")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    outputs = [arguments.output / Path(model).name for model in arguments.models]
    if outputs[0] == outputs[1]:
        parser.error(f"both models have the name {outputs[0].name}; rename a folder")
    for model, output in zip(arguments.models, outputs, strict=True):
        aligngpt.evaluate(model, tasks=arguments.tasks, data=arguments.data, output=output)
    for comparison in aligngpt.compare(*outputs):
        print(comparison)


if __name__ == "__main__":
    main()
