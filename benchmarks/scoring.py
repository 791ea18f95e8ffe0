"""Pairs a second from JPEG files to scores, beside a loop of `transformers`, open_clip, and the bare model.

    python -m benchmarks.scoring --output benchmarks/results/scoring.json

All sides score the same files with the same random weights in float32, one after the other in every round, in changing
order; a ratio is the median over rounds of two sides' seconds in the same round. `aligngpt` is `score_source` from the
pairs' JSON to the finished folder of scores, with hashes, sizes and the start of its processes; the others return bare
scores. Models are loaded beforehand on all sides, and the scores of all sides have to agree. open_clip takes part where
it is installed (`pip install open_clip_torch`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aligngpt.artifacts import versions, write_json
from aligngpt.data.decoding import start_early
from aligngpt.data.engine import score_source
from aligngpt.data.scorers import ClipScorer
from aligngpt.data.scores import read_scores
from aligngpt.data.sources import open_source
from benchmarks.clip_files import SIZES, captions, save_clip, save_pairs, save_pictures
from benchmarks.clip_peers import (
    ModelAlone,
    OpenClip,
    OpenClipLoader,
    Pairs,
    TransformersLoop,
    embeddings_differ_by,
    save_open_clip,
)

# Draft mode and the order of roundings move a cosine a little; another picture or caption would move it a lot more.
_MOST_DIFFERENCE = 0.01
_MOST_EMBEDDING_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Case:
    """Files of one kind.

    Attributes:
        size: (width, height) of the pictures.
        pictures: How many.
        captions_each: Pairs of each picture.
        mark: The ratio over the transformers loop that is wanted.
    """

    size: tuple[int, int]
    pictures: int
    captions_each: int
    mark: float


CASES = {
    "640x480": Case((640, 480), 256, 1, 1.1),
    "4000x3000": Case((4000, 3000), 96, 1, 1.5),
    "five captions": Case((640, 480), 80, 5, 2.0),
}
SHARE_OF_MODEL = 0.95


class Engine:
    """This package, from the JSON file to a finished folder of scores."""

    def __init__(self, scorer: ClipScorer, pairs: Path, images: Path, batch_size: int, workers: int | None) -> None:
        self._scorer, self._pairs, self._images = scorer, pairs, images
        self._settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": False}

    def __call__(self, pairs: Pairs) -> np.ndarray:
        output = Path(tempfile.mkdtemp(prefix="scores-"))
        try:
            score_source(open_source(self._pairs, self._images), [self._scorer], output, **self._settings)
            return read_scores(output)["clip_score"].to_numpy()
        finally:
            shutil.rmtree(output)


def measure(name: str, case: Case, clip: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write a case's files and time every side on them, round after round."""
    folder = work / name.replace(" ", "-")
    names = [one for one in save_pictures(folder, case.pictures, case.size) for _ in range(case.captions_each)]
    pairs = [(folder / image, text) for image, text in zip(names, captions(len(names)), strict=True)]
    listed = save_pairs(work / f"{folder.name}.json", [(path.name, text) for path, text in pairs])
    scorer = ClipScorer.from_pretrained(clip, "cpu", torch.float32)
    scorer.describe()  # hashes the weights, which is part of loading
    sides: dict[str, Callable[[Pairs], np.ndarray | None]] = {
        "aligngpt": Engine(scorer, listed, folder, options.batch_size, options.workers),
        "transformers": TransformersLoop(clip, options.peer_batch_size),
        "model alone": ModelAlone(clip, pairs, options.peer_batch_size, 2 * options.peer_batch_size),
    }
    if importlib.util.find_spec("open_clip"):
        sides["open_clip"] = OpenClip(work / "open_clip", options.peer_batch_size)
        sides["open_clip loader"] = OpenClipLoader(work / "open_clip", options.peer_batch_size, 2)
    seconds, differences = timed(sides, pairs, options.rounds)
    over = {side: _median_ratio(seconds[side], seconds["aligngpt"]) for side in sides if side != "aligngpt"}
    share = over.pop("model alone")
    return {
        "name": name,
        "pairs": len(pairs),
        "pictures": case.pictures,
        "mean_file_kb": round(sum(path.stat().st_size for path in folder.iterdir()) / case.pictures / 1000, 1),
        "pairs_per_second": {side: round(len(pairs) / statistics.median(all_), 2) for side, all_ in seconds.items()},
        "aligngpt_over": {side: round(ratio, 3) for side, ratio in over.items()},
        "share_of_model": round(share, 3),
        "mark": case.mark,
        "reached": over["transformers"] >= case.mark and all(ratio >= 1 for ratio in over.values()),
        "largest_score_difference": differences,
        "seconds_by_round": {side: [round(one, 2) for one in all_] for side, all_ in seconds.items()},
    }


def timed(
    sides: Mapping[str, Callable[[Pairs], np.ndarray | None]], pairs: Pairs, rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each side by round, and how far its scores are from those of the first side at most.

    Raises:
        SystemExit: If they are farther than the order of roundings explains.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, np.ndarray] = {}
    for name in names:
        found = sides[name](pairs[: len(pairs) // 8 + 1])  # warm: first use of kernels, files in the page cache
        del found
    for number in range(rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        for name in order if number % 2 == 0 else order[::-1]:
            started = time.perf_counter()
            found = sides[name](pairs)
            seconds[name].append(time.perf_counter() - started)
            if found is not None:
                scores[name] = found
    differences = {name: float(np.abs(one - scores[names[0]]).max()) for name, one in scores.items()}
    if max(differences.values()) > _MOST_DIFFERENCE:
        raise SystemExit(f"scores differ: {differences}")
    return seconds, {name: round(value, 6) for name, value in differences.items()}


def _median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="ViT-B/32")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="pictures the engine embeds at once")
    parser.add_argument("--peer-batch-size", type=int, default=16, help="pairs at once of the other sides")
    parser.add_argument("--workers", type=int, help="processes of the engine that decode")
    parser.add_argument("--pictures", type=int, help="in place of each case's own number")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="scoring-"))
    try:
        start_early()
        clip = save_clip(work / "clip", options.model)
        embeddings = None
        if importlib.util.find_spec("open_clip"):
            save_open_clip(clip, work / "open_clip")
            embeddings = embeddings_differ_by(clip, OpenClip(work / "open_clip", options.peer_batch_size))
            if embeddings > _MOST_EMBEDDING_DIFFERENCE:
                raise SystemExit(f"open_clip's embeddings differ by {embeddings}: are its weights the same?")
        else:
            print("open_clip is not installed, so it is left out: pip install open_clip_torch")
        cases = []
        for name in options.cases:
            case = CASES[name]
            if options.pictures is not None:
                case = Case(case.size, options.pictures, case.captions_each, case.mark)
            cases.append(measure(name, case, clip, work, options))
    finally:
        shutil.rmtree(work)
    peers = {name: version(name) for name in ("open_clip_torch", "torchvision") if _installed(name)}
    result = {
        "model": options.model,
        "dtype": "float32",
        "rounds": options.rounds,
        "batch_size": options.batch_size,
        "peer_batch_size": options.peer_batch_size,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_at_start": round(load, 2),
        "largest_embedding_difference_to_open_clip": embeddings,
        "cases": cases,
        "versions": versions() | peers,
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


def _installed(name: str) -> bool:
    return importlib.util.find_spec({"open_clip_torch": "open_clip"}.get(name, name)) is not None


if __name__ == "__main__":
    main()
