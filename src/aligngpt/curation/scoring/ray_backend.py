"""Scores an input on the machines of a Ray cluster, with the same results as on one.

    decoders    actors that read a shard and decode its images: a block for each batch of `score_batches.planned`
    models      actors that hold the scorers: vectors of what the batch has to embed
    driver      the process that was started: compares the vectors, in order, and writes the parts of `engine.ScoreRun`

Blocks arrive in any order, also those of one shard. A model needs nothing but its block, so a shard's batches may go to
different machines; the images and texts that come again in a later batch are known to the driver alone.

Ray is imported when it is used; it comes with the extra `ray`.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from aligngpt.curation.scoring.batches import (
    Batch,
    ImageEntry,
    LRUCache,
    Request,
    ScoredBatch,
    Text,
    Vectors,
    decoded_batches,
    embedded,
    planned,
    requested,
    scored,
)
from aligngpt.curation.scoring.decoding import Decoder
from aligngpt.curation.scoring.local_backend import ScoreRun, available_cpus, check_arguments, progress_bar, share_of
from aligngpt.curation.scoring.scorers import ClipScorer, LongCaptions, Scorer
from aligngpt.curation.scoring.store import ScoreSummary
from aligngpt.data.sources import Source, SourceShard
from aligngpt.utils.text import one_line

# A block is handed on once it holds this much, so that it carries one batch unless batches are small.
_BYTES_PER_BLOCK = 1 << 20
_LOCAL_OBJECT_STORE = 1 << 30
_CPUS_PER_DECODER = 4
_RETRIES = 3
_SECONDS_TO_CONNECT = 10
# A model works on one block while another one travels to it; a decoder takes a shard when it has none.
_BLOCKS_PER_MODEL, _SHARDS_PER_DECODER = 2, 1

# Set unless the user's environment says otherwise. Messages of Ray's own processes come past Python's logging.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

Load = Callable[[], Sequence[Scorer]]
T = TypeVar("T", ImageEntry, Text)
_Block = tuple[Batch, Vectors]


def load_clip_scorers(folders: Sequence[Path], long_captions: LongCaptions) -> list[ClipScorer]:
    """Load scorers where they are to work; see `score_source_with_ray`."""
    return [ClipScorer.from_pretrained(folder, long_captions=long_captions) for folder in folders]


def score_source_with_ray(
    source: Source,
    load: Load,
    output: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    actors: int | None = None,
    decoders: int | None = None,
    address: str | None = None,
    shard: tuple[int, int] = (1, 1),
    long_captions: LongCaptions = "truncate",
    progress: bool = True,
) -> ScoreSummary:
    """Score every pair of an input as `engine.score_source` does, on all machines of a Ray cluster.

    The folder is the same as that engine's, so either goes on where the other was cut off. What actors read, input,
    images and weights, must be found at the same place on every machine; the output is written by this process alone.

    Args:
        source: The input.
        load: Makes the scorers; called on the machines that are to run them, so it must be possible to pickle it.
        output: The folder to write or to continue.
        batch_size: Images embedded at once.
        actors: Processes with the scorers, each with one GPU where there are any; unless given one per GPU, or without
            GPUs three of four CPUs. Each also takes a CPU.
        decoders: Processes that read and decode, one CPU each; unless given the other CPUs.
        address: Of a cluster, as `ray.init` takes it. Unless given, that of the variable RAY_ADDRESS, or a cluster of
            this machine alone that ends with this call. Where this process already uses a cluster, that one is used.
        shard: As in `engine.score_source`.
        long_captions: What the scorers do with captions beyond their limit, for the manifest.
        progress: Whether to show a progress bar on stderr, if that is a terminal.

    Raises:
        ImportError: If Ray is not installed.
        NothingScored, ValueError: As in `engine.score_source`, or if the cluster has too few CPUs or GPUs.
        OSError: If reading or writing fails, no cluster can be reached, or a process is killed again and again.
    """
    for name, number in (("actors", actors), ("decoders", decoders)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    started = time.monotonic()
    with _cluster(address, (actors or 1) + (decoders or 1)), _one_line_errors():
        pools = _Pools.sized(actors, decoders)
        described, preparations = pools.describe(load)
        check_arguments([one["name"] for one in described], batch_size, shard)
        shards = source.shards()
        with share_of(output, shard):
            run = ScoreRun(Path(output), source, shards, described, long_captions)
            todo = run.unfinished(shard)
            if todo:
                decode = (Decoder(preparations), source.images, batch_size)
                blocks = pools.stream(todo, decode, load)
                with progress_bar(todo, progress) as advance:
                    run.write(_in_order(blocks, [one["name"] for one in described]), advance)
            return run.finish(len(shards) - len(todo), started)


# The driver ---------------------------------------------------------------------------------------------------------


def _in_order(blocks: Iterable[_Block], names: Sequence[str]) -> Iterator[ScoredBatch]:
    """Score batches that come in any order; those of a shard leave in theirs."""
    shards: dict[int, _Arriving] = {}
    for batch, vectors in blocks:
        arriving = shards.setdefault(batch.shard, _Arriving())
        for each in arriving.ready(batch, vectors):
            yield scored(*each, names)
            if each[0].last:
                del shards[batch.shard]


class _Arriving:
    """A shard whose batches come from other processes, where each of them is copied with all that it refers to.

    The images and texts remembered here are the same as in the process that planned the batches, which used the same
    ones in the same order.
    """

    def __init__(self) -> None:
        self._early: dict[int, _Block] = {}
        self._next = 0
        self._images: LRUCache[ImageEntry] = LRUCache()
        self._texts: LRUCache[Text] = LRUCache()

    def ready(self, batch: Batch, vectors: Vectors) -> Iterator[_Block]:
        """The batches that are next in the shard's order, now that this one is here."""
        self._early[batch.number] = batch, vectors
        while self._next in self._early:
            batch, vectors = self._early.pop(self._next)
            self._next += 1
            self._join(batch)
            yield batch, vectors

    def _join(self, batch: Batch) -> None:
        """Replace copies of what an earlier batch had."""
        texts: dict[int, Text] = {}
        for row in batch.rows:
            if row.text is not None and row.image_entry is not None:
                row.text = texts[row.text.number] = _known(self._texts, row.text)
                row.image_entry = _known(self._images, row.image_entry)
        batch.texts = [texts[text.number] for text in batch.texts]


def _known(recent: LRUCache[T], one: T) -> T:
    return recent.use(one.number, lambda _: one)[0]


# The actors ---------------------------------------------------------------------------------------------------------


class _Decode:
    """Reads and decodes shards; a row of its output is a batch, and what of it is to be embedded."""

    def __init__(self, decoder: Decoder, images: Path | None, batch_size: int) -> None:
        self._decoder, self._images, self._batch_size = decoder, images, batch_size

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        try:
            shard: SourceShard = _unpacked(rows, "shard")
            for batch in decoded_batches(planned([shard], self._images, self._batch_size), self._decoder, 0, 0, False):
                request = requested(batch)  # which takes the pixels out of the batch
                yield _packed(batch=batch, request=request)
        except Exception as error:
            yield _packed(batch=_noted(error), request=None)


class _Embed:
    """Holds the scorers; a row of its output is a batch and its vectors."""

    def __init__(self, load: Load) -> None:
        self._scorers = load()

    def __call__(self, rows: pa.Table) -> pa.Table:
        request: Request | None = _unpacked(rows, "request")
        try:
            vectors = None if request is None else embedded(request, self._scorers).arrived()
        except Exception as error:
            return _packed(batch=_noted(error), vectors=None)
        return rows.select(["batch"]).append_column("vectors", _packed(vectors=vectors)["vectors"])


def _noted(error: Exception) -> Exception:
    """An error that travels to the driver as a row, because Ray adds advice to the text of those that are raised."""
    error.add_note(traceback.format_exc())
    return error


def _describe(load: Load) -> tuple[list[dict[str, str]], list[Any]]:
    """What the manifest says of the scorers, and what decoders need of them."""
    scorers = load()
    return [scorer.describe() for scorer in scorers], [scorer.preparation for scorer in scorers]


def _packed(**values: Any) -> pa.Table:
    """A row of pickled values."""
    return pa.table({name: pa.array([pickle.dumps(value, 5)], pa.large_binary()) for name, value in values.items()})


def _unpacked(rows: pa.Table, name: str, place: int = 0) -> Any:
    return pickle.loads(rows[name][place].as_buffer())


# The cluster --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pools:
    """How many actors of each kind there are, and how many GPUs each of those with the scorers has."""

    models: int
    decoders: int
    gpus: int

    @classmethod
    def sized(cls, models: int | None, decoders: int | None) -> _Pools:
        """Share out what the cluster has.

        Raises:
            ValueError: If that is less than was asked for.
        """
        import ray

        found = ray.cluster_resources()
        cpus, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
        if models is None:
            models = gpus or max(1, cpus - (decoders or max(1, cpus // _CPUS_PER_DECODER)))
        decoders = decoders or max(1, cpus - models)
        if models + decoders > cpus or (gpus and models > gpus):
            raise ValueError(
                f"the Ray cluster has {cpus} CPUs and {gpus} GPUs, too few for {models} actors with the scorers and "
                f"{decoders} decoders (a CPU each, and a GPU for every actor): ask for fewer or start more machines"
            )
        return cls(models, decoders, 1 if gpus else 0)

    def describe(self, load: Load) -> tuple[list[dict[str, str]], list[Any]]:
        """Ask one of the machines that are to run the scorers: precision, for one, depends on its GPU."""
        import ray

        task = ray.remote(num_cpus=1, num_gpus=self.gpus)(_describe)
        return ray.get(task.remote(load))

    def stream(self, shards: Sequence[SourceShard], decode: tuple[Any, ...], load: Load) -> Iterator[_Block]:
        """Each batch of the shards with its vectors, in no order."""
        from ray.data import ActorPoolStrategy, DataContext, Dataset, from_arrow

        settings: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "max_task_retries": _RETRIES}
        decoders = min(self.decoders, len(shards))
        decoding = ActorPoolStrategy(size=decoders, max_tasks_in_flight_per_actor=_SHARDS_PER_DECODER)
        embedding = ActorPoolStrategy(size=self.models, max_tasks_in_flight_per_actor=_BLOCKS_PER_MODEL)
        with DataContext.current(_quiet_context()):
            data: Dataset = from_arrow([_packed(shard=shard) for shard in shards])
            data = data.map_batches(_Decode, fn_constructor_args=decode, compute=decoding, num_cpus=1, **settings)
            data = data.map_batches(
                _Embed, fn_constructor_args=(load,), compute=embedding, num_cpus=1, num_gpus=self.gpus, **settings
            )
            for rows in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                for place in range(len(rows)):
                    batch = _unpacked(rows, "batch", place)
                    if isinstance(batch, Exception):
                        raise batch
                    yield batch, _unpacked(rows, "vectors", place)


def _quiet_context() -> Any:
    """Ray Data's settings: small blocks, and nothing printed."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.target_max_block_size = _BYTES_PER_BLOCK
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


@contextmanager
def _cluster(address: str | None, cpus: int) -> Iterator[None]:
    """Use the cluster at an address, or start one here and end it; see `score_source_with_ray`.

    Args:
        address: As it was given.
        cpus: What a cluster started here has at the least, whatever this machine has: processes can share a CPU.

    Raises:
        ImportError: If Ray is not installed.
        OSError: If there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("--engine ray needs Ray, which is not installed: pip install 'aligngpt[ray]'") from None
    with _quiet():
        mine = not ray.is_initialized()
        if mine:
            _connect(address or os.environ.get("RAY_ADDRESS") or "local", cpus)
        try:
            yield
        finally:
            if mine:
                ray.shutdown()


def _connect(address: str, cpus: int) -> None:
    import ray

    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        settings["num_cpus"] = max(available_cpus(), cpus, 2)
        settings |= {"object_store_memory": _LOCAL_OBJECT_STORE, "include_dashboard": False}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
        with _silent():
            ray.init(address, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        told = f"no Ray cluster can be used at {address} ({one_line(error)})"
        raise OSError(f"{told}: start one there with `ray start --head`, or leave --address out") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Lose what this process writes to its standard error past Python; starting, Ray tells of its logging there."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from reporting on its use, over the network or here; its own files of logs are left as they are."""
    import ray.data  # noqa: F401  sets up its logging, which is changed below

    asked = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ |= asked
    handlers = [one for one in logging.getLogger("ray.data").handlers if isinstance(one, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            for module in (r"ray\.", __name__.replace(".", r"\.")):  # of its own, and of how it is called from here
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for name in asked:
            os.environ.pop(name, None)
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Raise what an actor raised as if it had been raised here; the death of an actor is an `OSError`."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise OSError(
            f"a process of the Ray cluster was killed {_RETRIES + 1} times at the same work, perhaps for want of "
            f"memory: run the same again, it goes on behind the last finished shard ({one_line(error)})"
        ) from error
