"""Score image-text pairs: the function of `aligngpt score`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aligngpt.curation.choices import Backend, LongCaptions
from aligngpt.curation.scoring.run import (
    RunSettings,
    ScoreSummary,
    check_images,
    check_names,
    read_finished,
    snapshot_run,
)
from aligngpt.data.sources import open_source
from aligngpt.modeling.hub import resolve_model
from aligngpt.utils.errors import ArgumentError
from aligngpt.utils.models import name_model
from aligngpt.utils.output_dir import log_complete
from aligngpt.utils.progress import status


def score_pairs(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    scorers: Sequence[str | os.PathLike[str]],
    images: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    num_workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    long_captions: LongCaptions = "truncate",
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    backend: Backend = "local",
    actors: int | None = None,
    address: str | None = None,
    show_progress: bool = True,
) -> ScoreSummary:
    """Score every image-text pair by the cosine similarity of its embeddings: s = cos(E_image, E_text).

    A record that cannot be used, or whose score is not finite, becomes a row with an `error` and no score. The same
    call resumes an interrupted run after the last finished shard, and skips a finished one before reading any input.

    Args:
        data: Image-text pairs in any format of `open_source`.
        output: Folder for the scores, see `curation.scoring.store`.
        scorers: CLIP-like models: folders, bundled names or hub names; the scores of the first are `clip_score`.
        images: Folder that image paths are relative to, if the pairs have paths.
        batch_size: Images embedded at once, 1 to 1,048,576.
        num_workers: Processes that decode images; default one per CPU, or none for up to 128 records.
        shard: (i, n), i from 1 to n: score every n-th shard of the input from the i-th on, while other runs, on this
            machine or another, score the rest into the same folder; the last to end finishes the folder.
        long_captions: `"truncate"` captions beyond the context of a scorer, or embed them in chunks (`"chunk-mean"`).
        image_column, caption_column, id_column: Fields of a record; default the usual names.
        backend: `"local"` for this machine, `"ray"` for the machines of a Ray cluster.
        actors: With Ray: processes with the scorers; default one per GPU, or three of four CPUs.
        address: With Ray: address of the cluster; default a cluster of this machine.
        show_progress: Whether to show progress on standard error.

    Raises:
        NothingScored: No record can be used; `output` is empty then.
        ArgumentError: Images are given by paths and `images` is missing, or has none of the first images.
        ValueError: An argument is out of range, two scorers have one name, `output` belongs to another run, or
            another process works on the same shard.
        OSError: Reading or writing fails, or a worker process is killed.
        ImportError: Ray is requested and not installed.
    """
    common: dict[str, Any] = {"batch_size": batch_size, "shard": shard, "long_captions": long_captions}
    common |= {"show_progress": show_progress, "started": time.monotonic()}
    folders = [resolve_model(os.fspath(scorer)).absolute() for scorer in scorers]
    names = [name_model(folder) for folder in folders]
    check_names(names)
    RunSettings(**common)
    if backend == "local" and (actors or address):
        raise ArgumentError("--actors and --address require --backend ray")
    if backend == "ray" and num_workers == 0:
        raise ArgumentError("--backend ray decodes in its own processes; --num-workers must be at least 1")
    if backend == "ray":  # whose processes have other working directories
        data = data if "://" in str(data) else os.path.abspath(data)
        images = None if images is None else Path(images).absolute()
    columns = {"image_column": image_column, "caption_column": caption_column, "id_column": id_column}
    source = open_source(data, images, **columns)
    snapshot = snapshot_run(source, folders, {**columns, "images": str(images), "long_captions": long_captions})
    finished = read_finished(Path(output), source.images, snapshot)
    if finished is not None:
        log_complete(output)
        return finished
    common["snapshot"] = snapshot
    check_images(source)
    from aligngpt.curation.scoring.scorers import load_scorers

    load = partial(load_scorers, folders, long_captions)
    if backend == "ray":
        from aligngpt.curation.scoring.ray_backend import score_source_with_ray

        pools: dict[str, Any] = {"actors": actors, "decoders": num_workers, "address": address}
        return score_source_with_ray(source, load, output, **pools, **common)
    from aligngpt.curation.scoring.decoding import start_forkserver
    from aligngpt.curation.scoring.local_backend import score_source

    if num_workers != 0:
        start_forkserver()
    with status(f"loading {', '.join(names)}", show_progress):
        loaded = load()
    return score_source(source, loaded, output, num_workers=num_workers, **common)
