"""Score pairs on the machines of a Ray cluster, with the same results as on one machine.

    decoders    actors that read a shard and decode its images: one block for each batch of `plan_batches`
    models      actors that hold the scorers: embeddings of what a batch requests
    driver      the process that was started: compares the embeddings, in order, and writes the parts of `ScoreRun`

Blocks arrive in any order, also those of one shard. A model needs nothing but its block, so batches of a shard may go
to different machines; only the driver remembers the images and texts that occur again in a later batch.

Ray is imported when it is used; it comes with the extra `ray`.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from aligngpt.curation.scoring.batches import (
    Block,
    EmbeddingRequest,
    ScoredBatch,
    build_requests,
    decode_batches,
    embed_batch,
    plan_batches,
    score_embedded,
    to_arrays,
)
from aligngpt.curation.scoring.decoding import Decoder
from aligngpt.curation.scoring.run import RunSettings, ScoreRun, ScoreSummary
from aligngpt.curation.scoring.scorers import Scorer
from aligngpt.data.sources import Source, SourceShard
from aligngpt.utils.processes import available_cpus
from aligngpt.utils.progress import status
from aligngpt.utils.text import one_line

# A block is sent once it holds this much, so that it carries one batch unless batches are small.
_BYTES_PER_BLOCK = 1 << 20
_LOCAL_OBJECT_STORE = 1 << 30
_CPUS_PER_DECODER = 4
_RETRIES = 3
_SECONDS_TO_CONNECT = 10
# A model works on one block while the next one is sent to it; a decoder takes a shard when it has none.
_BLOCKS_PER_MODEL, _SHARDS_PER_DECODER = 2, 1

# Set unless the environment has them. Messages of Ray's own processes bypass Python's logging.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

Load = Callable[[], Sequence[Scorer]]


def score_source_with_ray(
    source: Source,
    load: Load,
    output: str | os.PathLike[str],
    *,
    actors: int | None = None,
    decoders: int | None = None,
    address: str | None = None,
    **settings: Any,
) -> ScoreSummary:
    """Score every pair of an input as `score_source` does, on all machines of a Ray cluster.

    The folder is the same as that of the local backend, so either resumes what the other began. What actors read
    (pairs, images and weights) must have the same path on every machine; only this process writes the output.

    Args:
        source: The input.
        load: Returns the scorers; called on the machines that run them, so it has to be picklable.
        output: Folder to write or to resume.
        actors: Processes with the scorers, each with one CPU, and one GPU if there are any; default one per GPU, or
            without GPUs three of four CPUs.
        decoders: Processes that read and decode, one CPU each; default the other CPUs.
        address: Address of a cluster for `ray.init`; default the variable RAY_ADDRESS, or a cluster of this machine
            that ends with this call. If this process is connected to a cluster, that one is used.
        settings: Fields of `RunSettings`.

    Raises:
        ImportError: Ray is not installed.
        NothingScored, ValueError: As `score_pairs`, or the cluster has too few CPUs or GPUs.
        OSError: Reading or writing fails, no cluster can be reached, or a process is killed repeatedly.
    """
    run_settings = RunSettings(**settings)
    for name, number in (("actors", actors), ("num_workers", decoders)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1 with the backend ray, got {number}")
    with _cluster(address, (actors or 1) + (decoders or 1)), _one_line_errors():
        pools = _Pools.sized(actors, decoders)
        with status("loading the scorers", run_settings.show_progress):
            described, preparations = pools.describe(load)
        names = [scorer["name"] for scorer in described]

        def score(shards: Sequence[SourceShard]) -> Iterable[ScoredBatch]:
            decode = (Decoder(preparations), source.images, run_settings.batch_size)
            return score_embedded(_in_order(pools.stream(shards, decode, load)), names)

        return ScoreRun(Path(output), source, described, run_settings).score(score)


# The driver ---------------------------------------------------------------------------------------------------------


def _in_order(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield blocks that come in any order, those of one shard in order."""
    early: dict[tuple[int, int], Block] = {}
    following: dict[int, int] = {}
    for batch, embeddings in blocks:
        shard = batch.shard
        early[shard, batch.number] = batch, embeddings
        while (shard, following.setdefault(shard, 0)) in early:
            yield early.pop((shard, following[shard]))
            following[shard] += 1


# The actors ---------------------------------------------------------------------------------------------------------


class _Decode:
    """Reads and decodes shards; a row of its output is a batch and its request."""

    def __init__(self, decoder: Decoder, images: Path | None, batch_size: int) -> None:
        self._decoder, self._images, self._batch_size = decoder, images, batch_size

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        try:
            shard: SourceShard = _unpack(rows, "shard")
            planned = plan_batches([shard], self._images, self._batch_size)
            for batch, request in build_requests(decode_batches(planned, self._decoder, 0, 0, False)):
                yield _pack(batch=batch, request=request)
        except Exception as error:
            yield _pack(batch=_add_traceback(error), request=None)


class _Embed:
    """Holds the scorers; a row of its output is a batch and its embeddings."""

    def __init__(self, load: Load) -> None:
        self._scorers = load()

    def __call__(self, rows: pa.Table) -> pa.Table:
        request: EmbeddingRequest | None = _unpack(rows, "request")
        try:
            embeddings = None if request is None else to_arrays(embed_batch(request, self._scorers))
        except Exception as error:
            return _pack(batch=_add_traceback(error), embeddings=None)
        return rows.select(["batch"]).append_column("embeddings", _pack(embeddings=embeddings)["embeddings"])


def _add_traceback(error: Exception) -> Exception:
    """Prepare an error to be sent to the driver as a row, because Ray adds advice to the text of raised ones."""
    error.add_note(traceback.format_exc())
    return error


def _pack(**values: Any) -> pa.Table:
    """Return a row of pickled values."""
    return pa.table({name: pa.array([pickle.dumps(value, 5)], pa.large_binary()) for name, value in values.items()})


def _unpack(rows: pa.Table, name: str, index: int = 0) -> Any:
    return pickle.loads(rows[name][index].as_buffer())


# The cluster --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pools:
    """The number of actors of each kind, and the number of GPUs of each model."""

    models: int
    decoders: int
    gpus: int

    @classmethod
    def sized(cls, models: int | None, decoders: int | None) -> _Pools:
        """Divide the resources of the cluster.

        Raises:
            ValueError: There are fewer than requested.
        """
        import ray

        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if models is None:
            models = gpus or max(1, cpus - (decoders or max(1, cpus // _CPUS_PER_DECODER)))
        decoders = decoders or max(1, cpus - models)
        if models + decoders > cpus or (gpus and models > gpus):
            raise ValueError(
                f"the Ray cluster has {cpus} CPUs and {gpus} GPUs, too few for {models} actors with scorers and "
                f"{decoders} decoders (one CPU each, and one GPU for every actor); use fewer --actors or "
                "--num-workers, or start more machines"
            )
        return cls(models, decoders, 1 if gpus else 0)

    def describe(self, load: Load) -> tuple[list[dict[str, str]], list[Any]]:
        """Describe the scorers, and return their preparations, where they run: the precision depends on the GPU."""
        import ray

        def describe() -> tuple[list[dict[str, str]], list[Any]]:
            scorers = load()
            return [scorer.describe() for scorer in scorers], [scorer.preparation for scorer in scorers]

        return ray.get(ray.remote(num_cpus=1, num_gpus=self.gpus)(describe).remote())

    def stream(self, shards: Sequence[SourceShard], decode: tuple[Any, ...], load: Load) -> Iterator[Block]:
        """Yield each batch of the shards with its embeddings, in any order."""
        from ray.data import ActorPoolStrategy, DataContext, Dataset, from_arrow

        settings: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "max_task_retries": _RETRIES}
        decoders = min(self.decoders, len(shards))
        decoding = ActorPoolStrategy(size=decoders, max_tasks_in_flight_per_actor=_SHARDS_PER_DECODER)
        embedding = ActorPoolStrategy(size=self.models, max_tasks_in_flight_per_actor=_BLOCKS_PER_MODEL)
        context = DataContext.get_current().copy()
        context.target_max_block_size = _BYTES_PER_BLOCK
        context.enable_progress_bars = context.print_on_execution_start = False
        with DataContext.current(context):
            data: Dataset = from_arrow([_pack(shard=shard) for shard in shards])
            data = data.map_batches(_Decode, fn_constructor_args=decode, compute=decoding, num_cpus=1, **settings)
            data = data.map_batches(
                _Embed, fn_constructor_args=(load,), compute=embedding, num_cpus=1, num_gpus=self.gpus, **settings
            )
            for rows in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                for index in range(len(rows)):
                    batch = _unpack(rows, "batch", index)
                    if isinstance(batch, Exception):
                        raise batch
                    yield batch, _unpack(rows, "embeddings", index)


@contextmanager
def _cluster(address: str | None, cpus: int) -> Iterator[None]:
    """Use the cluster at an address, or start one on this machine and end it; see `score_source_with_ray`.

    Args:
        address: Argument of the caller.
        cpus: Minimum for a cluster started here, even if this machine has fewer: processes can share a CPU.

    Raises:
        ImportError: Ray is not installed.
        OSError: There is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("the backend ray needs Ray; install it with: pip install 'aligngpt[ray]'") from None
    with _quiet(), ExitStack() as stack:
        if not ray.is_initialized():
            _connect(address or os.environ.get("RAY_ADDRESS") or "local", cpus)
            stack.callback(ray.shutdown)
        yield


def _connect(address: str, cpus: int) -> None:
    import ray

    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        settings["num_cpus"] = max(available_cpus(), cpus, 2)
        settings |= {"object_store_memory": _LOCAL_OBJECT_STORE, "include_dashboard": False}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    stderr = os.dup(2)  # Ray reports its start there, outside Python
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
        ray.init(address, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(
            f"no Ray cluster can be used at {address} ({one_line(error)}); start one there with `ray start --head`, or "
            "omit --address"
        ) from error
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@contextmanager
def _quiet() -> Iterator[None]:
    """Prevent Ray from reporting its use, over the network or on the terminal; its log files are not affected."""
    import ray.data  # noqa: F401  configures its logging, which is changed below

    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ |= added
    handlers = logging.getLogger("ray.data").handlers
    levels = {handler: handler.level for handler in handlers if isinstance(handler, logging.StreamHandler)}
    for handler in levels:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            for module in (r"ray\.", __name__.replace(".", r"\.")):  # of Ray, and of how this module calls it
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        for handler, level in levels.items():
            handler.setLevel(level)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Raise the error of an actor as an error of this process; the death of an actor is an `OSError`."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise OSError(
            f"a process of the Ray cluster was killed {_RETRIES + 1} times at the same task, possibly out of memory: "
            f"run the same command again to resume after the last finished shard ({one_line(error)})"
        ) from error
