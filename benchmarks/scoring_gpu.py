"""Pairs a second on a GPU with a ViT-L/14-336 of random weights, and the share of the bare model's rate it reaches.

    python -m benchmarks.scoring_gpu --output benchmarks/results/scoring_gpu.json

`aligngpt` is `score_source` from JPEG files to the finished folder of scores, in the scorer's own precision (bfloat16
on a CUDA GPU); the other side is the same model on image and token tensors that lie on the device. Both run in every
round, one after the other. Without a GPU it runs on what there is, and says so.
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
from aligngpt.curation.scoring.scorers import ClipScorer, default_device
from aligngpt.data.sources import open_source
from aligngpt.utils.io import versions, write_json
from benchmarks.clip_files import SIZES, captions, save_clip, save_images, save_pairs


def device_name(device: str) -> str:
    """What the model runs on, as its maker calls it."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {device}"


def model_alone(clip: Path, device: str, dtype: torch.dtype, pairs: int, at_once: int) -> Callable[[], None]:
    """The model's work for so many pairs: one image tensor and one token tensor, over and over."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(clip, dtype=dtype).to(device).eval()
    side = model.config.vision_config.image_size
    tokens = CLIPTokenizer.from_pretrained(clip)(captions(min(at_once, pairs)), padding=True, return_tensors="pt").to(
        device
    )
    pixels = torch.randn(min(at_once, pairs), 3, side, side, device=device, dtype=dtype)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, pairs, at_once):
                count = min(at_once, pairs - start)
                model.get_image_features(pixel_values=pixels[:count])
                model.get_text_features(**{name: tensor[:count] for name, tensor in tokens.items()})
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write the files, and time both sides."""
    device = default_device()
    clip = save_clip(work / "clip", options.model)
    scorer = ClipScorer.from_pretrained(clip)
    described = scorer.describe()
    images = work / "images"
    names = save_images(images, options.pairs, (640, 480))
    pairs = save_pairs(work / "pairs.json", list(zip(names, captions(options.pairs), strict=True)))

    def engine() -> None:
        source, output = open_source(pairs, images), work / "scores"
        settings = {"batch_size": options.batch_size, "num_workers": options.workers, "show_progress": False}
        score_source(source, [scorer], output, **settings)
        shutil.rmtree(output)

    alone = model_alone(clip, device, getattr(torch, described["dtype"]), options.pairs, options.batch_size)
    sides = {"aligngpt": engine, "model alone": alone}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    shares = [alone / own for own, alone in zip(*seconds.values(), strict=True)]
    return {
        "device": device_name(device),
        "model": options.model,
        "dtype": described["dtype"],
        "pairs": options.pairs,
        "pairs_per_second": {name: round(options.pairs / statistics.median(all_), 2) for name, all_ in seconds.items()},
        "share_of_model": round(statistics.median(shares), 3),
        "seconds_by_round": {name: [round(one, 2) for one in all_] for name, all_ in seconds.items()},
        "batch_size": options.batch_size,
        "workers": options.workers,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="ViT-L/14-336")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, help="processes that decode; one for each CPU unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if default_device() == "cpu":
        print("there is no GPU: the figures below are those of the processor")
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
