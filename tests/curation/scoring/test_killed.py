"""A run killed with SIGKILL at any moment resumes to the same bytes, and scores no finished shard twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aligngpt.curation.scoring.local_backend import score_source
from aligngpt.curation.scoring.scorers import ClipScorer
from aligngpt.curation.scoring.store import read_scores
from aligngpt.data.sources import open_source
from tests.image_files import make_image
from tests.source_files import write_tar

SHARDS, SAMPLES, KILLS = 10, 12, 4
CAPTIONS = SHARDS * SAMPLES

# Scores slowly, and logs each caption before embedding it.
PROGRAM = """
import sys, time, torch
from aligngpt.curation.scoring.local_backend import score_source
from aligngpt.curation.scoring.scorers import ClipScorer
from aligngpt.data.sources import open_source

class Noting(ClipScorer):
    def embed_captions(self, captions):
        with open(sys.argv[4], "a") as log:
            log.writelines(f"{caption}\\n" for caption in captions)
        time.sleep(0.02)
        return super().embed_captions(captions)

if __name__ == "__main__":
    torch.set_num_threads(1)
    scorer = Noting.from_pretrained(sys.argv[1], "cpu")
    score_source(open_source(sys.argv[2]), [scorer], sys.argv[3], batch_size=4, num_workers=2, show_progress=False)
"""


def noted(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def finished(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*.parquet")}


def captions_of(parts: dict[str, bytes]) -> set[str]:
    return {f"caption {int(name[5:10])}-{sample}" for name in parts for sample in range(SAMPLES)}


def alive(group: int) -> bool:
    """Whether any process of a group is left that is not a zombie."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left processes in /proc")
def test_killed_at_random_moments_it_ends_with_the_same_bytes(clip_folder: Path, tmp_path: Path) -> None:
    shards, out, log = tmp_path / "shards", tmp_path / "out", tmp_path / "log"
    for shard in range(SHARDS):
        members: dict[str, bytes] = {}
        for sample in range(SAMPLES):
            path = tmp_path / "x.png"
            make_image(SAMPLES * shard + sample).save(path)
            name = f"{shard}-{sample}"
            members |= {f"{name}.png": path.read_bytes(), f"{name}.txt": f"caption {name}".encode()}
        write_tar(shards / f"{shard:02d}.tar", members)
    score_source(
        open_source(shards), [ClipScorer.from_pretrained(clip_folder, "cpu")], tmp_path / "whole", batch_size=4
    )
    whole = finished(tmp_path / "whole")
    assert len(whole) == SHARDS

    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    command = [sys.executable, "-c", PROGRAM, *map(str, (clip_folder, shards, out, log))]
    before: dict[str, bytes] = {}
    groups = []
    for kill in range(KILLS + 1):
        start = len(noted(log))
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        groups.append(process.pid)
        if kill < KILLS:
            enough = start + rng.randrange(1, CAPTIONS // KILLS + 10)
            while len(noted(log)) < enough and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.05)
            os.kill(process.pid, signal.SIGKILL)
        _, stderr = process.communicate()
        requested = noted(log)[start:]
        assert not captions_of(before) & set(requested), "a finished shard was scored again"
        after = finished(out)
        assert before.items() <= after.items() and after.items() <= whole.items()
        before = after
    assert process.returncode == 0, stderr
    assert before == whole and read_scores(out).equals(read_scores(tmp_path / "whole"))
    assert not list(out.glob(".*")), "remains of killed runs are removed"
    deadline = time.monotonic() + 20
    while any(map(alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, groups)), "decoding processes outlive the run that was killed"
