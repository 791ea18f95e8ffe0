"""Seconds and memory from the command `aligngpt pretrain` to its first step, and seconds of a finished run's answer.

    python -m benchmarks.startup --output benchmarks/results/startup.json

The data are 558,000 pairs, as in stage 1 of the paper, over a thousand shared images; the backbones are tiny, so that
the time is that of reading, validating and indexing the data. The seconds include importing the packages; CPU seconds
are reported as well, because other work on the machine does not change them. Memory is the peak that the command and
its DataLoader workers use together, as proportional set size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.utils.io import versions, write_json
from benchmarks import processes
from tests import tiny

TARGETS = {"seconds_to_first_step": 60.0, "peak_mb": 2048.0, "seconds_when_done": 3.0}
IMAGES, LEVELS = 1000, 8
FIRST_STEP = "first step"
WORDS = (
    "a",
    "the",
    "red",
    "small",
    "large",
    "cat",
    "dog",
    "house",
    "tree",
    "sky",
    "on",
    "under",
    "near",
    "with",
    "two",
)


def write_inputs(folder: Path, pairs: int) -> list[str]:
    """Write pairs, images, levels and backbones; return the arguments of `aligngpt pretrain`."""
    generator = random.Random(0)
    (folder / "images").mkdir()
    for number in range(IMAGES):
        tiny.make_image(number).save(folder / "images" / f"{number:05d}.png")
    with open(folder / "pairs.json", "w", encoding="utf-8") as file:
        for number in range(pairs):
            caption = " ".join(generator.choices(WORDS, k=generator.randint(5, 20)))
            turns = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": caption}]
            record = {"id": f"{number:09d}", "image": f"{number % IMAGES:05d}.png", "conversations": turns}
            file.write(("," if number else "[") + json.dumps(record) + "\n")
        file.write("]\n")
    levels = pa.array([number % LEVELS + 1 for number in range(pairs)], pa.int8())
    columns = {"id": [f"{number:09d}" for number in range(pairs)], "alignment_level": levels}
    (folder / "levels").mkdir()
    pq.write_table(pa.table(columns), folder / "levels" / "levels.parquet")
    paths = {
        "--data": folder / "pairs.json",
        "--images": folder / "images",
        "--levels": folder / "levels",
        "--language-model": tiny.save_language_model(folder / "llm"),
        "--vision-tower": tiny.save_vision_tower(folder / "tower"),
        "--output": folder / "stage1",
    }
    settings = ["--preset", "synthetic", "--max-steps", "1", "--dataloader-num-workers", "2"]
    return [*(str(part) for option in paths.items() for part in option), *settings]


def measure_first_step(arguments: list[str]) -> dict[str, float]:
    """Run the stage; return wall-clock and CPU seconds to its first step, and the peak memory in MB."""
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.startup", "--run", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            peak = max(peak, sum(map(processes.read_proportional_set, processes.list_process_tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stderr is not None
    seconds = cpu_seconds = float("inf")
    for line in process.stderr:
        sys.stderr.write(line)
        if line.strip() == FIRST_STEP:
            seconds = time.monotonic() - started
            cpu_seconds = sum(map(processes.read_cpu_seconds, processes.list_process_tree(process.pid)))
    code = process.wait()
    ended.set()
    watcher.join()
    if code:
        raise SystemExit(f"aligngpt pretrain exited with code {code}")
    return {
        "seconds_to_first_step": round(seconds, 1),
        "cpu_seconds_to_first_step": round(cpu_seconds, 1),
        "peak_mb": round(peak / 2**20),
    }


def measure_done(arguments: list[str]) -> float:
    """Return the seconds that the finished stage takes to answer."""
    started = time.monotonic()
    command = [sys.executable, "-m", "aligngpt", "pretrain", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def run_stage(arguments: list[str]) -> None:
    """Run `aligngpt pretrain` and print a line when its first step begins."""
    from aligngpt.cli import cli
    from aligngpt.training.trainer import AlignGPTTrainer

    original = AlignGPTTrainer.training_step

    def training_step(self: AlignGPTTrainer, *args: Any, **kwargs: Any) -> Any:
        print(FIRST_STEP, file=sys.stderr, flush=True)
        return original(self, *args, **kwargs)

    AlignGPTTrainer.training_step = training_step
    cli(["pretrain", *arguments])


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == ["--run"]:
        run_stage(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/startup.json"))
    parser.add_argument("--pairs", type=int, default=558_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = write_inputs(Path(folder), options.pairs)
        load = os.getloadavg()[0]
        result = measure_first_step(arguments)
        result["seconds_when_done"] = round(measure_done(arguments), 2)
    missed = {name: result[name] for name, target in TARGETS.items() if result[name] > target}
    write_json(
        options.output,
        {
            "pairs": options.pairs,
            **result,
            "targets": TARGETS,
            "cpus": os.cpu_count(),
            "load_average": round(load, 1),
            "versions": versions(),
        },
    )
    print(json.dumps(result))
    if missed:
        raise SystemExit(f"targets missed: {missed}")


if __name__ == "__main__":
    main()
