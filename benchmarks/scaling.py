"""Time and peak memory of `aligngpt score` over the number of pairs, and unit costs.

    python -m benchmarks.scaling --output benchmarks/results/scaling.json

The tiny scorer scores small JPEG files. Each size runs the complete command in its own process several times, and the
fastest run counts. Memory is the peak of the command and its decoding processes together, as proportional set size,
which counts shared pages once. The exponent is that of time over pairs, for the complete command and without its
constant start, for which a small size is run too; the same for CPU time, which other load on the machine affects less.

The unit costs are CPU seconds of one process per image, text or record, and bytes. Those of embedding are for the model
`--model` on one thread. `page` is the complete command `aligngpt report data`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import curve_fit  # type: ignore[import-untyped]

from aligngpt.curation.scoring.store import count_rows
from aligngpt.utils.io import versions, write_json
from benchmarks import processes
from benchmarks.clip_files import SIZES, captions, save_clip, save_images, save_pairs
from benchmarks.levels import make_scores

MAX_EXPONENT, MAX_GROWTH = 1.02, 1.10
DISTINCT = 1000
SMALL, LARGE = (640, 480), (4000, 3000)


def make_input(folder: Path, pairs: int) -> tuple[Path, Path]:
    """Write pairs with as many image files, links to 1,000 different ones; return the JSON file and the folder."""
    originals = folder / "originals"
    if not originals.exists():
        save_images(originals, DISTINCT, (96, 72))
    images = folder / f"images-{pairs}"
    names = []
    for number in range(pairs):
        names.append(f"{number // 10_000:04d}/{number:09d}.jpg")
        path = images / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{number % DISTINCT:06d}.jpg", path)
    return save_pairs(folder / f"{pairs}.json", list(zip(names, captions(pairs), strict=True))), images


# The command over the number of pairs ---------------------------------------------------------------------------------


def score(pairs: Path, images: Path, clip: Path, output: Path) -> dict[str, float]:
    """Run `aligngpt score`; see `command`."""
    return command("score", "--data", pairs, "--images", images, "--scorer", clip, "--output", output)


def command(*arguments: object) -> dict[str, float]:
    """Run `aligngpt`; return seconds, and CPU seconds and peak memory (bytes) of its processes together."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "aligngpt", *map(str, arguments)], stdout=subprocess.DEVNULL)
    peak, spent, ended = 0, 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak, spent
        while not ended.wait(0.3):
            family = processes.list_process_tree(process.pid)
            peak = max(peak, sum(map(processes.read_proportional_set, family)))
            spent = max(spent, sum(map(processes.read_cpu_seconds, family)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    seconds = time.monotonic() - started
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"aligngpt {arguments[0]} failed with {process.returncode}")
    return {"seconds": seconds, "cpu_seconds": spent, "peak": peak}


def over_sizes(sizes: Sequence[int], start_pairs: int, rounds: int, clip: Path, work: Path) -> dict[str, Any]:
    """Run every size, and the small size for the start, in rounds."""
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in (start_pairs, *sizes)}
    row_bytes = 0.0
    inputs = {size: make_input(work, size) for size in runs}
    for number in range(rounds):
        for size, results in runs.items():
            output = work / f"scores-{size}-{number}"
            results.append(score(*inputs[size], clip, output))
            print(f"round {number + 1}: {size} pairs, {results[-1]}", file=sys.stderr)
            row_bytes = sum(path.stat().st_size for path in output.glob("*.parquet")) / size
            shutil.rmtree(output)
    peaks = {size: statistics.median(run["peak"] for run in runs[size]) for size in runs}
    growth = max(peaks[size] for size in sizes) / peaks[sizes[0]]
    fits = {}
    for clock in ("seconds", "cpu_seconds"):
        best = {size: min(run[clock] for run in results) for size, results in runs.items()}
        fits[clock] = _fit(best)
    return {
        "rounds": rounds,
        "sizes": [
            {
                "pairs": size,
                **{clock: [round(run[clock], 2) for run in runs[size]] for clock in fits},
                "peak_mb": round(peaks[size] / 1e6, 1),
            }
            for size in runs
        ],
        "over_seconds": fits["seconds"],
        "over_cpu_seconds": fits["cpu_seconds"],
        "memory_growth": round(growth, 3),
        "bytes_a_row": round(row_bytes, 1),
        "bounds": {"exponent": MAX_EXPONENT, "memory_growth": MAX_GROWTH},
        "within_bounds": {
            "exponent": fits["seconds"]["exponent_less_start"] <= MAX_EXPONENT,
            "memory": growth <= MAX_GROWTH,
        },
    }


def _fit(best: Mapping[int, float]) -> dict[str, float]:
    """Fit the fastest times by a power of the pairs, and by a constant start plus a power, with relative errors.

    Args:
        best: Seconds by number of pairs, at least four.
    """
    pairs, seconds = np.array(list(best), float), np.array(list(best.values()))
    least, most = seconds[0], seconds[-1]
    guess = (least, (most - least) / pairs[-1], 1.0)
    fitted, _ = curve_fit(_start_and_power, pairs, seconds, p0=guess, sigma=seconds)
    return {
        "start": round(float(fitted[0]), 2),
        "exponent": round(float(np.polyfit(np.log(pairs[1:]), np.log(seconds[1:]), 1)[0]), 4),
        "exponent_less_start": round(float(fitted[2]), 4),
        "milliseconds_a_pair_at_the_end": round(1e3 * float((most - seconds[-2]) / (pairs[-1] - pairs[-2])), 4),
    }


def _start_and_power(pairs: np.ndarray, start: float, each: float, exponent: float) -> np.ndarray:
    return start + each * pairs**exponent


# What a unit costs --------------------------------------------------------------------------------------------------


def unit_costs(size: str, images: int, rows: int, work: Path) -> dict[str, Any]:
    """Return CPU seconds of decoding, embedding and indexing a JSON file.

    Args:
        size: The model to embed with, one of `SIZES`.
        images: Images and captions to measure on; an eighth as many of 12 megapixels.
        rows: Records of the JSON file.
        work: Folder for files.
    """
    import torch

    from aligngpt.curation.scoring.decoding import Decoder, Encoded
    from aligngpt.curation.scoring.scorers import ClipScorer
    from aligngpt.data.sources import open_source

    torch.set_num_threads(1)
    scorer = ClipScorer.from_pretrained(save_clip(work / "unit-clip", size), "cpu", torch.float32)
    decoder = Decoder([scorer.preparation])
    costs: dict[str, Any] = {"model": size}
    prepared: list[Any] = []
    for (width, height), count in ((SMALL, images), (LARGE, max(1, images // 8))):
        name = f"{width}x{height}"
        names = save_images(work / name, count, (width, height))
        tasks = [Encoded(one, folder=str(work / name)) for one in names]
        costs[f"decode_{name}_cpu_seconds"] = _each(partial(decoder.__getitem__, tasks), count)
        prepared = prepared or [image.prepared[0] for image in decoder[tasks]]
    texts = captions(images, seed=5)
    costs["embed_image_cpu_seconds"] = _each(lambda: scorer.embed_images(prepared), images)
    costs["embed_text_cpu_seconds"] = _each(lambda: scorer.embed_captions(texts), images)
    pairs = save_pairs(work / "rows.json", [(f"{index:09d}.jpg", text) for index, text in enumerate(captions(rows))])
    costs["json_bytes_a_record"] = round(pairs.stat().st_size / rows, 1)
    costs["json_index_cpu_seconds"] = _each(lambda: open_source(pairs, work).shards(), rows, 1)
    return costs


def page_cost(rows: int, work: Path) -> dict[str, Any]:
    """Return the cost of `aligngpt report data` for random scores without images, and of counting a part."""
    make_scores(work / "random", rows)
    parts = sorted((work / "random").glob("part-*.parquet"))
    counting = _each(partial(_count, parts), len(parts), 1)
    page = work / "page.html"
    spent = command("report", "data", "--scores", work / "random", "--output", page)
    return {
        "rows": rows,
        "cpu_seconds": round(spent["cpu_seconds"], 2),
        "peak_mb": round(spent["peak"] / 1e6, 1),
        "count_part_cpu_seconds": counting,
        "file_kb": round(page.stat().st_size / 1000, 1),
    }


def _count(parts: Sequence[Path]) -> None:
    """Count parts as the last step of `aligngpt score` does."""
    count_rows(parts)


def _each(work: Callable[[], object], count: int, rounds: int = 3) -> float:
    """Return CPU seconds of this process per item, the median of several rounds after a warm-up."""
    spent = []
    for _ in range(rounds + 1):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return round(statistics.median(spent[1:]) / count, 7)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--start-pairs", type=int, default=130, help="small, but enough for decoding processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=SIZES, default="ViT-B/32")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--page-rows", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="scaling-"))
    try:
        clip = save_clip(work / "tiny", "tiny")
        result = {
            "cores": os.cpu_count(),
            "load_average_at_start": round(load, 2),
            "score": over_sizes(options.pairs, options.start_pairs, options.rounds, clip, work),
            "unit_costs": unit_costs(options.model, options.images, options.rows, work),
            "page": page_cost(options.page_rows, work),
            "versions": versions(),
        }
    finally:
        shutil.rmtree(work)
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
