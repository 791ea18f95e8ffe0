"""Time and peak memory of `aligngpt level`, compared with a plain sort of the same scores by numpy.

    python -m benchmarks.levels --pairs 100000 1000000 10000000 --output benchmarks/results/levels.json

The folders have every column that `aligngpt score` writes, 10,000 rows per file. Each variant runs in its own process
on the same folder: `level` is the complete command, which reads the scores several times, writes the level of every
pair and hashes the scores; `fit` is its two passes that find the boundaries; `sort` reads all scores into memory, sorts
them with `numpy.sort` and takes the boundaries by rank. The boundaries have to be identical.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.curation.artifacts import DataFields, ScoreCounts, ScoreInputs, ScoreManifest, ScorerInfo
from aligngpt.utils.io import versions, write_json

ROWS = 10_000
MAX_SECONDS, MAX_MB = 60, 2000

# Each variant prints as JSON: seconds without the start of Python, boundaries, peak resident memory.
PROLOGUE = """
import json, re, sys, time
from pathlib import Path
from aligngpt.curation.levels import LevelBoundaries, stream_scores
from aligngpt.curation.quantiles import ScoreRanking
import numpy as np
folder, levels = Path(sys.argv[1]), int(sys.argv[2])
started = time.monotonic()
"""
VARIANTS = {
    "fit": "boundaries = LevelBoundaries.fit(ScoreRanking(stream_scores(folder)), levels).boundaries",
    "sort": """
scores = np.concatenate(list(stream_scores(folder)()))
scores = scores[np.isfinite(scores)]
read = time.monotonic()
scores = np.sort(scores)
sorting = time.monotonic() - read
boundaries = [float(scores[min(-(-k * scores.size // levels), scores.size - 1)]) for k in range(1, levels)]
""",
}
EPILOGUE = """
seconds = time.monotonic() - started
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
sorting = globals().get("sorting")
print(json.dumps({"seconds": seconds, "sorting": sorting, "boundaries": list(boundaries), "peak": peak}))
"""


def make_scores(folder: Path, pairs: int) -> None:
    """Write a finished folder of random scores: normal around 0.25, one in a thousand missing."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    parts = -(-pairs // ROWS)
    failed = 0
    for part in range(parts):
        count = min(ROWS, pairs - part * ROWS)
        missing = generator.random(count) < 0.001
        failed += int(missing.sum())
        scores = generator.normal(0.25, 0.04, count).astype(np.float32)
        names = [f"{number:012d}" for number in range(part * ROWS, part * ROWS + count)]
        hashes = generator.integers(0, 2**64, (3, count), dtype=np.uint64)
        columns = {
            "id": names,
            "image": [f"images/{name}.jpg" for name in names],
            "clip_score": pa.array(scores, mask=missing),
            "text_truncated": generator.random(count) < 0.01,
            "error": pa.array(["no such file" if is_missing else None for is_missing in missing], pa.string()),
            "caption_chars": pa.array(generator.integers(10, 300, count), pa.int32()),
            **dict(zip(("caption_hash", "image_hash", "image_phash"), map(pa.array, hashes), strict=True)),
            "width": pa.array(np.full(count, 640), pa.int32()),
            "height": pa.array(np.full(count, 480), pa.int32()),
        }
        pq.write_table(pa.table(columns), folder / f"part-{part:05d}.parquet")
    scorer = ScorerInfo(name="random", architecture="none", weights_hash="none", dtype="float32")
    inputs = ScoreInputs(
        pairs_hash="none",
        fields=DataFields(),
        images_hash=None,
        scorers=[scorer.model_dump(exclude={"name"})],
        columns=["clip_score"],
        long_captions="truncate",
        shards=parts,
    )
    ScoreManifest(
        inputs=inputs,
        scorers=[scorer],
        shards=parts,
        counts=ScoreCounts(scored=pairs - failed, failed=failed, truncated=0, errors={"no such file": failed}),
        agreement=[],
        seconds=0.0,
        versions=versions(),
    ).write(folder)


def run_variant(name: str, folder: Path, levels: int) -> dict[str, Any]:
    """Run one of `VARIANTS` in its own process."""
    code = PROLOGUE + VARIANTS[name] + EPILOGUE
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(levels)], capture_output=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def command(folder: Path, output: Path, levels: int) -> dict[str, float]:
    """Run `aligngpt level`; return seconds, including the start of Python, and peak resident memory (bytes)."""
    arguments = ["level", "--scores", str(folder), "--output", str(output), "--num-levels", str(levels)]
    started, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "aligngpt", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _high_water(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"aligngpt {' '.join(arguments)} failed with {process.returncode}")
    return {"seconds": time.monotonic() - started, "peak": peak}


def _high_water(pid: int) -> int:
    """Return the peak resident bytes so far, as counted by the kernel."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:  # the process has ended
        return 0
    return int(match[1]) * 1024 if match else 0


def measure(pairs: int, levels: int) -> dict[str, Any]:
    """Write a folder of scores and run every variant on it."""
    work = Path(tempfile.mkdtemp(prefix="levels-"))
    try:
        make_scores(work / "scores", pairs)
        size = sum(path.stat().st_size for path in (work / "scores").iterdir())
        whole = command(work / "scores", work / "levels", levels)
        fit, sort = run_variant("fit", work / "scores", levels), run_variant("sort", work / "scores", levels)
        written = json.loads((work / "levels" / "levels.json").read_text())["boundaries"]
    finally:
        shutil.rmtree(work)
    if not written == fit["boundaries"] == sort["boundaries"]:
        raise SystemExit(f"boundaries differ: {written}, {fit['boundaries']}, {sort['boundaries']}")
    return {
        "pairs": pairs,
        "scores_mb": round(size / 1e6, 1),
        "level_seconds": round(whole["seconds"], 2),
        "level_peak_mb": round(whole["peak"] / 1e6, 1),
        "fit_seconds": round(fit["seconds"], 2),
        "fit_peak_mb": round(fit["peak"] / 1e6, 1),
        "read_and_sort_seconds": round(sort["seconds"], 2),
        "numpy_sort_seconds": round(sort["sorting"], 4),
        "read_and_sort_peak_mb": round(sort["peak"] / 1e6, 1),
        "level_over_read_and_sort": round(whole["seconds"] / sort["seconds"], 2),
        "level_over_numpy_sort": round(whole["seconds"] / sort["sorting"], 1),
        "fit_over_read_and_sort": round(fit["seconds"] / sort["seconds"], 2),
        "within_bounds": whole["seconds"] <= MAX_SECONDS and whole["peak"] <= MAX_MB * 1e6,
    }


def main() -> None:
    """Measure each size, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--num-levels", type=int, default=8)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = {
        "levels": options.num_levels,
        "bounds": {"seconds": MAX_SECONDS, "mb": MAX_MB},
        "cores": os.cpu_count(),
        "sizes": [measure(pairs, options.num_levels) for pairs in options.pairs],
        "versions": versions() | {"numpy": np.__version__, "pyarrow": pa.__version__},
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
