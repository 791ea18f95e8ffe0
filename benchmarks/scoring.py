"""Pairs per second from JPEG files to scores, compared with a loop of `transformers`, open_clip, and the bare model.

    python -m benchmarks.scoring --output benchmarks/results/scoring.json

All implementations score the same files with the same random weights in float32, each in its own process, one after the
other in every round, in changing order; a ratio is the median over rounds of the seconds in the same round. `aligngpt`
is `score_source` from the JSON of the pairs to the finished folder of scores, with hashes, sizes and the start of its
decoding processes; the others return bare scores. Models are loaded before, and the scores of all implementations have
to agree. open_clip takes part if it is installed (`pip install open_clip_torch`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aligngpt.curation.scoring.decoding import start_forkserver
from aligngpt.curation.scoring.local_backend import score_source
from aligngpt.curation.scoring.scorers import ClipScorer
from aligngpt.curation.scoring.store import read_scores
from aligngpt.data.sources import open_source
from aligngpt.utils.io import versions, write_json
from benchmarks import processes
from benchmarks.clip_files import SIZES, captions, save_clip, save_images, save_pairs
from benchmarks.clip_peers import (
    ModelAlone,
    OpenClip,
    OpenClipLoader,
    Pairs,
    TransformersLoop,
    max_embedding_difference,
    save_open_clip,
)

# Draft mode and the order of roundings change a cosine slightly; another image or caption changes it much more.
_MAX_DIFFERENCE = 0.01
_MAX_EMBEDDING_DIFFERENCE = 1e-5
# Fraction of the CPU that other processes may use during a measurement, and seconds to wait for that.
_MAX_OTHER_LOAD, _PATIENCE = 0.03, 60.0


@dataclass(frozen=True)
class Case:
    """Files of one kind.

    Attributes:
        size: (width, height) of the images.
        images: Number of images.
        captions_each: Pairs of each image.
        mark: Target of the ratio to the transformers loop.
    """

    size: tuple[int, int]
    images: int
    captions_each: int
    mark: float


CASES = {
    "640x480": Case((640, 480), 192, 1, 1.1),
    "4000x3000": Case((4000, 3000), 64, 1, 1.5),
    "five captions": Case((640, 480), 64, 5, 2.0),
}
SHARE_OF_MODEL = 0.95


@dataclass(frozen=True)
class Setup:
    """What every implementation is constructed from.

    Attributes:
        clip: The checkpoint folder of `transformers`.
        open_clip: The same weights for open_clip.
        listed: The pairs as JSON.
        images: Folder of the images.
        pairs: The pairs as the baselines take them.
        batch_size: Batch size of this package.
        peer_batch_size: Batch size of the baselines.
        workers: Decoding processes of this package.
    """

    clip: Path
    open_clip: Path
    listed: Path
    images: Path
    pairs: Pairs
    batch_size: int
    peer_batch_size: int
    workers: int | None


class AlignGPT:
    """This package, from the JSON file to a finished folder of scores."""

    def __init__(self, setup: Setup) -> None:
        start_forkserver()
        self._scorer = ClipScorer.from_pretrained(setup.clip, "cpu", torch.float32)
        self._scorer.describe()  # hashes the weights, which is part of loading
        self._setup = setup

    def __call__(self, pairs: Pairs) -> np.ndarray:
        output, setup = Path(tempfile.mkdtemp(prefix="scores-")), self._setup
        settings: dict[str, Any] = {
            "batch_size": setup.batch_size,
            "num_workers": setup.workers,
            "show_progress": False,
        }
        try:
            score_source(open_source(setup.listed, setup.images), [self._scorer], output, **settings)
            return read_scores(output)["clip_score"].to_numpy()
        finally:
            shutil.rmtree(output)


Side = Callable[[Pairs], np.ndarray | None]

SIDES: dict[str, Callable[[Setup], Side]] = {
    "aligngpt": AlignGPT,
    "transformers": lambda setup: TransformersLoop(setup.clip, setup.peer_batch_size),
    "transformers, PIL": lambda setup: TransformersLoop(setup.clip, setup.peer_batch_size, backend="pil"),
    "model alone": lambda setup: ModelAlone(setup.clip, setup.pairs, setup.peer_batch_size, 2 * setup.peer_batch_size),
    "open_clip": lambda setup: OpenClip(setup.open_clip, setup.peer_batch_size),
    "open_clip loader": lambda setup: OpenClipLoader(setup.open_clip, setup.peer_batch_size, 2),
}


class SideProcess:
    """An implementation in its own process, with its model loaded, so that none sees another's memory."""

    def __init__(self, name: str, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, name, setup))
        self._process.start()
        there.close()
        try:
            self._here.recv()
        except EOFError:
            raise SystemExit(f"{name} failed to start; see the traceback above") from None

    def __call__(self) -> tuple[float, np.ndarray | None]:
        """Score all pairs once; return seconds and scores."""
        self._here.send(True)
        seconds, scores = self._here.recv()
        return seconds, scores

    def close(self) -> None:
        """End the process."""
        self._here.send(False)
        self._process.join()


def serve(asked: Connection, name: str, setup: Setup) -> None:
    """Construct an implementation, report this, and run it on request."""
    side = SIDES[name](setup)
    side(setup.pairs)  # warm-up
    asked.send(None)
    while asked.recv():
        started = time.perf_counter()
        scores = side(setup.pairs)
        asked.send((time.perf_counter() - started, scores))


def measure(name: str, case: Case, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the files of a case and time every implementation on them, in rounds."""
    folder = work / name.replace(" ", "-")
    names = [name for name in save_images(folder, case.images, case.size) for _ in range(case.captions_each)]
    pairs = [(folder / image, text) for image, text in zip(names, captions(len(names)), strict=True)]
    listed = save_pairs(work / f"{folder.name}.json", [(path.name, text) for path, text in pairs])
    settings = options.batch_size, options.peer_batch_size, options.workers
    setup = Setup(work / "clip", work / "open_clip", listed, folder, pairs, *settings)
    sides = {side: SideProcess(side, setup) for side in _sides()}
    try:
        seconds, differences, others = timed(sides, options.rounds, options.retries)
    finally:
        for side in sides.values():
            side.close()
    over = {side: _median_ratio(seconds[side], seconds["aligngpt"]) for side in sides if side != "aligngpt"}
    share = over.pop("model alone")
    return {
        "name": name,
        "pairs": len(pairs),
        "images": case.images,
        "mean_file_kb": round(sum(path.stat().st_size for path in folder.iterdir()) / case.images / 1000, 1),
        "pairs_per_second": {side: round(len(pairs) / statistics.median(all_), 2) for side, all_ in seconds.items()},
        "aligngpt_over": {side: round(ratio, 3) for side, ratio in over.items()},
        "share_of_model": round(share, 3),
        "mark": case.mark,
        "reached": over["transformers"] >= case.mark and all(ratio >= 1 for ratio in over.values()),
        "largest_score_difference": differences,
        "most_of_processor_that_others_had": round(others, 3),
        "seconds_by_round": {side: [round(value, 2) for value in all_] for side, all_ in seconds.items()},
    }


def _sides() -> list[str]:
    """Return the implementations that are installed: without torchvision, `transformers` uses PIL anyway."""
    needs = {"open_clip": "open_clip", "open_clip loader": "open_clip", "transformers, PIL": "torchvision"}
    return [side for side in SIDES if side not in needs or importlib.util.find_spec(needs[side])]


def timed(
    sides: Mapping[str, Callable[[], tuple[float, np.ndarray | None]]], rounds: int, retries: int
) -> tuple[dict[str, list[float]], dict[str, float], float]:
    """Time every implementation in every round.

    Returns:
        Seconds of each implementation by round; the largest difference of its scores to those of the first; the largest
        fraction of the CPU that other processes used during a measurement.

    Raises:
        SystemExit: Scores differ by more than rounding explains.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, np.ndarray] = {}
    disturbed: list[float] = []
    for number in range(rounds):
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        for name in order if number % 2 == 0 else order[::-1]:
            spent, values, others = _undisturbed(sides[name], retries)
            seconds[name].append(spent)
            disturbed.append(others)
            print(f"round {number + 1}: {name}, {spent:.2f} s, others {others:.0%}", file=sys.stderr)
            if values is not None:
                scores[name] = values
    differences = {name: float(np.abs(values - scores[names[0]]).max()) for name, values in scores.items()}
    if max(differences.values()) > _MAX_DIFFERENCE:
        raise SystemExit(f"scores differ: {differences}")
    return seconds, {name: round(value, 6) for name, value in differences.items()}, max(disturbed)


def _undisturbed(
    side: Callable[[], tuple[float, np.ndarray | None]], retries: int
) -> tuple[float, np.ndarray | None, float]:
    """Repeat a measurement while others use the CPU; return the least disturbed one and the fraction they used."""
    best: tuple[float, np.ndarray | None, float] | None = None
    for _ in range(retries + 1):
        _wait_for_quiet(_PATIENCE if retries else 0)
        before = processes.read_foreign_cpu_seconds()
        spent, scores = side()
        others = max(0.0, processes.read_foreign_cpu_seconds() - before) / (spent * (os.cpu_count() or 1))
        if best is None or others < best[2]:
            best = spent, scores, others
        if others <= _MAX_OTHER_LOAD:
            break
    assert best is not None
    return best


def _wait_for_quiet(seconds: float) -> None:
    """Wait for a second in which others do not use the CPU, at most so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = processes.read_foreign_cpu_seconds()
        time.sleep(1)
        if processes.read_foreign_cpu_seconds() - before <= _MAX_OTHER_LOAD * (os.cpu_count() or 1):
            return


def _median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return statistics.median(left / right for left, right in zip(numerators, denominators, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="ViT-B/32")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--retries", type=int, default=3, help="repetitions of a measurement disturbed by other processes"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images embedded at once by this package")
    parser.add_argument("--peer-batch-size", type=int, default=16, help="batch size of the baselines")
    parser.add_argument("--workers", type=int, help="decoding processes of this package")
    parser.add_argument("--images", type=int, help="number of images instead of that of each case")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="scoring-"))
    try:
        clip = save_clip(work / "clip", options.model)
        embeddings = None
        if importlib.util.find_spec("open_clip"):
            save_open_clip(clip, work / "open_clip")
            embeddings = max_embedding_difference(clip, OpenClip(work / "open_clip", options.peer_batch_size))
            if embeddings > _MAX_EMBEDDING_DIFFERENCE:
                raise SystemExit(f"embeddings of open_clip differ by {embeddings}; check that its weights are the same")
        else:
            print("open_clip is not installed and is skipped: pip install open_clip_torch")
        cases = []
        for name in options.cases:
            case = CASES[name]
            if options.images is not None:
                case = Case(case.size, options.images, case.captions_each, case.mark)
            cases.append(measure(name, case, work, options))
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
