"""The Ray backend writes what the local one writes, whichever of them begins, and whichever process is killed.

One Ray cluster of this machine serves all tests; without Ray they are skipped, but for those of the order.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aligngpt.cli import cli
from aligngpt.curation.scoring import batches as score_batches
from aligngpt.curation.scoring import ray_backend as ray_engine
from aligngpt.curation.scoring.batches import decode_batches, plan_batches, score_embedded
from aligngpt.curation.scoring.batches import score_batches as score_all
from aligngpt.curation.scoring.decoding import Decoder
from aligngpt.curation.scoring.local_backend import score_source
from aligngpt.curation.scoring.ray_backend import (
    _Decode,
    _Embed,
    _in_order,
    _one_line_errors,
    _pack,
    _Pools,
    _unpack,
)
from aligngpt.curation.scoring.scorers import load_scorers
from aligngpt.data.images import DecodedImage
from aligngpt.data.sources import Source, open_source
from aligngpt.utils.io import read_json
from tests.curation.counting import CountingScorer, mean_of
from tests.image_files import make_image
from tests.source_files import llava, write_json, write_tar

ROOT = Path(__file__).parents[3]
SHARDS, SAMPLES = 4, 12
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray, the extra `ray`, is not installed")


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tars of twelve samples; in each a damaged image, one that comes again, and captions that come again."""
    folder = tmp_path_factory.mktemp("tars")
    path = tmp_path_factory.mktemp("x") / "x.png"
    for shard in range(SHARDS):
        members: dict[str, bytes] = {}
        for sample in range(SAMPLES):
            make_image(100 * shard + sample % 10).save(path)
            content = path.read_bytes() if sample != 3 else b"no image"
            name = f"{shard}-{sample:02d}"
            members |= {f"{name}.png": content, f"{name}.txt": f"caption {shard}-{sample % 8}".encode()}
        write_tar(folder / f"{shard}.tar", members)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


def manifest(folder: Path) -> dict[str, Any]:
    return read_json(folder / "manifest.json") | {"seconds": None}


# The order, without Ray ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4096, 3])
def test_blocks_may_arrive_in_any_order(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(score_batches, "CACHE_SIZE", size)
    rng = random.Random(0)
    records = []
    for number in range(80):
        shown = rng.choice([0, 1, 2, 3, 4, 5, "gone", "bomb"])
        records.append(
            llava(number, image=f"{shown}.png") | {"conversations": llava(rng.randrange(9))["conversations"]}
        )
    monkeypatch.setattr("aligngpt.data.json_format.SHARD_SIZE", 40)
    shards = open_source(write_json(tmp_path, records), images).shards()
    scorers = [CountingScorer(), CountingScorer("other")]
    decoder = Decoder([scorer.preparation for scorer in scorers])
    whole = list(score_all(decode_batches(plan_batches(shards, images, 2), decoder, 0, 0, False), scorers))
    assert len(shards) == 2 and len(whole) > 10

    decode, embed = _Decode(decoder, images, 2), _Embed(lambda: scorers)
    rows = [embed(row) for shard in shards for row in decode(_pack(shard=shard))]
    for _ in range(20):
        rng.shuffle(rows)
        blocks = ((_unpack(row, "batch"), _unpack(row, "embeddings")) for row in rows)
        result = sorted(score_embedded(_in_order(blocks), ["counting", "other"]), key=lambda batch: batch.shard)
        assert result == whole


def test_a_block_carries_the_pixels_of_one_batch(images: Path, tmp_path: Path) -> None:
    records = [llava(number, image=f"{number % 6}.png") for number in range(29)]
    (shard,) = open_source(write_json(tmp_path, records), images).shards()
    decode = _Decode(Decoder([lambda image: os.urandom(100_000)]), images, 3)
    blocks = list(decode(_pack(shard=shard)))
    assert [len(_unpack(block, "request").prepared) for block in blocks] == [3, 3, 0]
    assert [block.nbytes // 100_000 for block in blocks] == [3, 3, 0]
    assert all(block["batch"].nbytes < 10_000 for block in blocks)


class Failing(CountingScorer):
    """Cannot read what it needs."""

    def embed_images(self, prepared: Any) -> Any:
        raise OSError("the disk\nis gone")


def test_an_error_of_an_actor_travels_as_it_is(tars: Path) -> None:
    (shard, *_) = open_source(tars).shards()
    gone = replace(shard, rows=partial(_no_network, "x"))
    decode = _Decode(Decoder([mean_of]), None, 4)
    (row,) = decode(_pack(shard=gone))
    (passed,) = [_Embed(lambda: [CountingScorer()])(row)]
    (failed,) = [_Embed(lambda: [Failing()])(each) for each in islice(decode(_pack(shard=shard)), 1)]
    for result, message in ((passed, "the network is down"), (failed, "the disk\nis gone")):
        error = _unpack(result, "batch")
        assert isinstance(error, OSError) and str(error) == message and "Traceback" in error.__notes__[0]
        assert result.schema.equals(passed.schema)


def _no_network(index: str, fields: str) -> Iterator[Any]:
    raise TimeoutError("the network is down")


# With Ray -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of two CPUs with room for 200 MB, whose processes find this package and these tests; its address."""
    ray = pytest.importorskip("ray")
    indices = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = ray_engine._QUIET | {"PYTHONPATH": os.pathsep.join(indices), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        context = ray.init(
            "local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False
        )
        yield context.address_info["gcs_address"]
        ray.shutdown()


def run(source: Source, load: Any, output: Path, **settings: Any) -> Any:
    return ray_engine.score_source_with_ray(
        source, load, output, **{"batch_size": 4, "actors": 1, "decoders": 1, "show_progress": False} | settings
    )


def run_here(source: Source, scorers: Any, output: Path, **settings: Any) -> Any:
    return score_source(source, scorers, output, batch_size=4, num_workers=0, show_progress=False, **settings)


@needs_ray
def test_both_backends_write_the_same(
    cluster: str, clip_folder: Path, tars: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = open_source(f"{tars}/{{0..{SHARDS}}}.tar")  # the last is missing
    load = partial(load_scorers, [clip_folder], "truncate")
    summary = run(source, load, tmp_path / "ray")
    assert capfd.readouterr() == ("", "")
    expected = run_here(source, load(), tmp_path / "local")
    assert (summary.scored, summary.failed) == (SHARDS * (SAMPLES - 1), SHARDS + 1)
    assert (summary.errors, summary.shards, summary.resumed_shards) == (expected.errors, SHARDS + 1, 0)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local") and len(contents(tmp_path / "ray")) == SHARDS + 1
    assert manifest(tmp_path / "ray") == manifest(tmp_path / "local")
    assert len(list((tmp_path / "ray").iterdir())) == SHARDS + 3


def die_once(marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class DyingPreparation:
    """Kills its process when it comes to the seventh image for the first time."""

    def __init__(self, marker: Path) -> None:
        self._marker, self._seen = marker, 0

    def __call__(self, image: DecodedImage) -> float:
        self._seen += 1
        if self._seen == 7:
            die_once(self._marker)
        return mean_of(image)


class DyingScorer(CountingScorer):
    """Kills its process at the third batch for the first time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._marker = folder / "model"
        self.preparation = DyingPreparation(folder / "decoder")

    def embed_images(self, prepared: Any) -> Any:
        if len(self.images) == 2:
            die_once(self._marker)
        return super().embed_images(prepared)


def dying(folder: Path) -> list[DyingScorer]:
    return [DyingScorer(folder)]


@needs_ray
def test_the_death_of_an_actor_of_either_kind_changes_nothing(
    cluster: str, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_BYTES_PER_BLOCK", 1)  # a block for every batch
    work = tmp_path / "work"
    work.mkdir()
    run(open_source(tars), partial(dying, work), tmp_path / "out")
    assert sorted(path.name for path in work.iterdir()) == ["decoder", "model"]
    run_here(open_source(tars), [CountingScorer()], tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def failing() -> list[CountingScorer]:
    raise ValueError("x holds no tokenizer: copy its files there too")


@needs_ray
def test_errors_at_the_start_are_one_line(cluster: str, tars: Path, tmp_path: Path) -> None:
    source = open_source(tars)
    with pytest.raises(ValueError, match=r"^x holds no tokenizer: copy its files there too$"):
        run(source, failing, tmp_path / "none")
    with pytest.raises(ValueError, match=r"has 2 CPUs and 0 GPUs, too few for 1 actors with scorers and 2 decoders"):
        run(source, failing, tmp_path / "none", decoders=2)
    with pytest.raises(ValueError, match="actors must be at least 1 with the backend ray, got 0"):
        run(source, failing, tmp_path / "none", actors=0)
    assert not (tmp_path / "none").exists()


@needs_ray
def test_a_missing_cluster_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match=rf"^no Ray cluster can be used at 127\.0\.0\.1:{port} \(.* refused\); start one"):
        ray_engine._connect(f"127.0.0.1:{port}", 2)


@needs_ray
@pytest.mark.parametrize(
    ("machines", "requested", "pools"),
    [
        ({"CPU": 2.0}, (None, None), _Pools(1, 1, 0)),
        ({"CPU": 16.0}, (None, None), _Pools(12, 4, 0)),
        ({"CPU": 16.0}, (None, 10), _Pools(6, 10, 0)),
        ({"CPU": 16.0}, (3, None), _Pools(3, 13, 0)),
        ({"CPU": 16.0, "GPU": 4.0}, (None, None), _Pools(4, 12, 1)),
        ({"CPU": 16.0, "GPU": 4.0}, (2, 5), _Pools(2, 5, 1)),
    ],
)
def test_a_cluster_is_divided_into_pools(
    monkeypatch: pytest.MonkeyPatch,
    machines: dict[str, float],
    requested: tuple[int | None, int | None],
    pools: _Pools,
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: machines)
    assert _Pools.sized(*requested) == pools
    with pytest.raises(ValueError, match="or start more machines"):
        _Pools.sized(16, 1)
    if pools.gpus:
        with pytest.raises(ValueError, match="16 CPUs and 4 GPUs, too few for 5 actors"):
            _Pools.sized(5, 1)


@needs_ray
def test_a_process_that_is_killed_repeatedly_is_one_line() -> None:
    from ray.exceptions import ActorUnavailableError

    message = r"killed 4 times at the same task, .*run the same command again.*socket closed"
    with pytest.raises(OSError, match=message) as caught, _one_line_errors():
        raise ActorUnavailableError("socket\nclosed", None)
    assert "\n" not in str(caught.value)


class Noting(CountingScorer):
    """Notes the captions it embeds in a file, before it does."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def embed_captions(self, captions: Any) -> Any:
        with open(self._log, "a") as file:
            file.writelines(f"{caption}\n" for caption in captions)
        time.sleep(0.02)
        return super().embed_captions(captions)


def noting(log: Path) -> list[Noting]:
    return [Noting(log)]


def shards_of(log: Path) -> set[str]:
    return {line.split()[1].split("-")[0] for line in log.read_text().splitlines()} if log.exists() else set()


# Connects to the cluster of these tests, as a driver of its own.
PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from aligngpt.curation.scoring.ray_backend import score_source_with_ray
from aligngpt.data.sources import open_source
from tests.curation.scoring.test_ray_backend import noting

settings = {"batch_size": 1, "actors": 1, "decoders": 1, "address": sys.argv[1], "show_progress": False}
score_source_with_ray(open_source(sys.argv[2]), partial(noting, Path(sys.argv[4])), sys.argv[3], **settings)
"""


@needs_ray
def test_each_backend_resumes_the_other(cluster: str, tars: Path, tmp_path: Path) -> None:
    source, out, killed, log, last = open_source(tars), *(tmp_path / name for name in ("out", "killed", "log", "last"))
    run_here(source, [CountingScorer()], tmp_path / "whole")
    run_here(source, [CountingScorer()], out, shard=(2, SHARDS))
    command = [sys.executable, "-c", PROGRAM, cluster, *map(str, (tars, out, log))]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(contents(out)) < 2 and driver.poll() is None:
        time.sleep(0.005)
    driver.kill()
    _, stderr = driver.communicate()
    assert stderr == "" and "1" not in shards_of(log)
    finished = {name[9] for name in contents(out)}
    assert {"1"} < finished < {"0", "1", "2", "3"}
    shutil.copytree(out, killed)

    summary = run(source, partial(noting, last), out)
    assert summary.resumed_shards == len(finished)
    run_here(source, noting(tmp_path / "here"), killed)
    for log in (last, tmp_path / "here"):
        assert shards_of(log) == {"0", "1", "2", "3"} - finished
    for folder in (out, killed):
        assert contents(folder) == contents(tmp_path / "whole") and manifest(folder) == manifest(tmp_path / "whole")
        assert not list(folder.glob(".*"))
    assert run(source, partial(noting, log), out).resumed_shards == SHARDS


# The command --------------------------------------------------------------------------------------------------------


def score(*words: object) -> Any:
    arguments = ["score", "--data", "x.json", "--scorer", "synthetic-clip", "--output", "out", *map(str, words)]
    return CliRunner().invoke(cli, arguments, prog_name="aligngpt")


def test_contradictory_options_are_refused() -> None:
    for words in (("--actors", 2), ("--address", "auto")):
        done = score(*words)
        assert done.exit_code == 2 and "--actors and --address require --backend ray" in done.stderr
    done = score("--backend", "ray", "--num-workers", 0)
    assert done.exit_code == 2 and "--num-workers must be at least 1" in done.stderr


def test_actors_get_absolute_paths(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: dict[str, Any] = {}

    def stop(source: Source, load: Any, output: Path, **settings: Any) -> None:
        requested.update(settings, source=source, load=load)
        raise ValueError("enough")

    monkeypatch.setattr(ray_engine, "score_source_with_ray", stop)
    monkeypatch.chdir(tars)
    words = ["score", "--data", "{0..3}.tar", "--images", ".", "--scorer", "synthetic-clip", "--output", "out"]
    words += ["--backend", "ray", "--actors", "2", "--num-workers", "3", "--address", "auto", "--shard", "2/4"]
    done = CliRunner().invoke(cli, words, prog_name="aligngpt")
    assert done.stderr == "aligngpt: error: enough\n"
    assert requested["source"].files == tuple(f"{tars}/{number}.tar" for number in range(4))
    assert requested["source"].images == tars and all(folder.is_absolute() for folder in requested["load"].args[0])
    assert (requested["actors"], requested["decoders"], requested["address"], requested["shard"]) == (
        2,
        3,
        "auto",
        (2, 4),
    )


def test_without_ray_the_error_names_the_extra(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tars)
    done = CliRunner().invoke(
        cli, ["score", "--data", "0.tar", "--scorer", "synthetic-clip", "--output", "out", "--backend", "ray"]
    )
    assert done.exit_code == 1 and not (tars / "out").exists()
    assert done.stderr == ("aligngpt: error: the backend ray needs Ray; install it with: pip install 'aligngpt[ray]'\n")
