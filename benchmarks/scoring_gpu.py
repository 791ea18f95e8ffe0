"""Pairs per second on a GPU with a ViT-L/14-336 of random weights, and the fraction of the bare model's throughput.

    python -m benchmarks.scoring_gpu --output benchmarks/results/scoring_gpu.json

`aligngpt` is `score_source` from JPEG files to the finished folder of scores, in the scorer's own precision (bfloat16
on a CUDA GPU); the baseline is the same model on image and token tensors on the device. Both run in every round, one
after the other. Without a GPU it runs on the CPU, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from aligngpt.curation.scoring.decoding import start_forkserver
from aligngpt.curation.scoring.local_backend import score_source
from aligngpt.curation.scoring.scorers import ClipScorer, choose_device
from aligngpt.data.sources import open_source
from aligngpt.utils.io import versions, write_json
from benchmarks.clip_files import SIZES, captions, save_clip, save_images, save_pairs


def device_name(device: str) -> str:
    """Return the name of the device."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {device}"


def model_alone(clip: Path, device: str, dtype: torch.dtype, pairs: int, batch_size: int) -> Callable[[], None]:
    """Return a function that runs the model on as many pairs, with the same image and token tensors in each batch."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(clip, dtype=dtype).to(device).eval()
    side = model.config.vision_config.image_size
    tokens = CLIPTokenizer.from_pretrained(clip)(
        captions(min(batch_size, pairs)), padding=True, return_tensors="pt"
    ).to(device)
    pixels = torch.randn(min(batch_size, pairs), 3, side, side, device=device, dtype=dtype)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, pairs, batch_size):
                count = min(batch_size, pairs - start)
                model.get_image_features(pixel_values=pixels[:count])
                model.get_text_features(**{name: tensor[:count] for name, tensor in tokens.items()})
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write the files, and time both variants."""
    device = choose_device()
    clip = save_clip(work / "clip", options.model)
    scorer = ClipScorer.from_pretrained(clip)
    described = scorer.describe()
    images = work / "images"
    names = save_images(images, options.pairs, (640, 480))
    pairs = save_pairs(work / "pairs.json", list(zip(names, captions(options.pairs), strict=True)))

    def score() -> None:
        source, output = open_source(pairs, images), work / "scores"
        settings = {"batch_size": options.batch_size, "num_workers": options.workers, "show_progress": False}
        score_source(source, [scorer], output, **settings)
        shutil.rmtree(output)

    alone = model_alone(clip, device, getattr(torch, described["dtype"]), options.pairs, options.batch_size)
    sides = {"aligngpt": score, "model alone": alone}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    fractions = [model / own for own, model in zip(*seconds.values(), strict=True)]
    return {
        "device": device_name(device),
        "model": options.model,
        "dtype": described["dtype"],
        "pairs": options.pairs,
        "pairs_per_second": {name: round(options.pairs / statistics.median(all_), 2) for name, all_ in seconds.items()},
        "share_of_model": round(statistics.median(fractions), 3),
        "seconds_by_round": {name: [round(value, 2) for value in all_] for name, all_ in seconds.items()},
        "batch_size": options.batch_size,
        "workers": options.workers,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="ViT-L/14-336")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, help="decoding processes; default one per CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if choose_device() == "cpu":
        print("no GPU: the results below are those of the CPU")
    start_forkserver()
    work = Path(tempfile.mkdtemp(prefix="scoring-gpu-"))
    try:
        result = measure(options, work) | {"cores": os.cpu_count(), "versions": versions()}
    finally:
        shutil.rmtree(work)
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
