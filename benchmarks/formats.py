"""Scores and speed of the same synthetic pairs as JSON with image files, as Parquet and as WebDataset.

    python -m benchmarks.formats --pairs 20000 --output benchmarks/results/formats.json

Each format is scored by the command `aligngpt score --scorer synthetic-clip` in its own process. The scores, ids,
hashes and sizes of all rows have to be identical; only `image`, the location of the image, differs. The script fails if
they are not.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aligngpt.curation.scoring.store import read_scores
from aligngpt.synthetic.dataset import generate_dataset
from aligngpt.utils.io import versions, write_json

SHARD = 10_000  # rows of a row group and samples of a tar, as many as a shard of JSON has


def records(data: Path) -> Iterator[tuple[str, bytes, str]]:
    """Yield id, encoded image and caption of every pair."""
    for record in json.loads((data / "pretrain.json").read_text(encoding="utf-8")):
        image = (data / "images" / record["image"]).read_bytes()
        yield record["id"], image, record["conversations"][1]["value"]


def write_parquet(data: Path, path: Path) -> None:
    """Write one file with row groups of 10,000 rows, and images as `datasets` stores them."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("id", pa.string()), ("image", image), ("caption", pa.string())])
    rows = [
        {"id": name, "image": {"bytes": content, "path": None}, "caption": caption}
        for name, content, caption in records(data)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=SHARD)


def write_tars(data: Path, folder: Path) -> None:
    """Write tars of 10,000 samples, each an image and a text of one name."""
    folder.mkdir()
    rows = list(records(data))
    for number, start in enumerate(range(0, len(rows), SHARD)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for name, content, caption in rows[start : start + SHARD]:
                for suffix, body in (("png", content), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))


def score(pairs: Path, output: Path, more: Sequence[object] = ()) -> float:
    """Run the command; return seconds, including the start of Python."""
    command = [sys.executable, "-m", "aligngpt", "score", "--data", pairs, "--scorer", "synthetic-clip", *more]
    started = time.monotonic()
    subprocess.run([*map(str, command), "--output", str(output)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    """Write all formats, score them and compare.

    Raises:
        SystemExit: Two formats have different scores.
    """
    data = folder / "scenes"
    generate_dataset(data, pairs=pairs, conversations=2, questions=14)
    write_parquet(data, folder / "pairs.parquet")
    write_tars(data, folder / "tars")
    seconds = {
        "json": score(data / "pretrain.json", folder / "json", ("--images", data / "images")),
        "parquet": score(folder / "pairs.parquet", folder / "parquet"),
        "webdataset": score(folder / "tars", folder / "webdataset"),
    }
    tables = {name: read_scores(folder / name).drop_columns("image").combine_chunks() for name in seconds}
    unequal = [name for name, table in tables.items() if not table.equals(tables["json"])]
    if unequal:
        raise SystemExit(f"scores differ from those of JSON: {', '.join(unequal)}")
    return {
        "pairs": pairs,
        "rows": tables["json"].num_rows,
        "scored": tables["json"].num_rows - tables["json"]["clip_score"].null_count,
        "equal": sorted(tables),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "over_json": {name: round(value / seconds["json"], 3) for name, value in seconds.items()},
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.pairs, Path(folder))
    print(json.dumps(result, indent=2))
    if options.output:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
