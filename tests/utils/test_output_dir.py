"""Output folders: identity, resume, done, locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aligngpt.utils.io import read_json, write_json
from aligngpt.utils.output_dir import OutputDir, describe_differences, exclusive_lock, shared_lock

IDENTITY = {"config": {"learning_rate": 0.001, "seed": 0}, "data": "pairs.json"}


def make(folder: Path, **changes: object) -> OutputDir:
    identity = {**IDENTITY, "config": {**IDENTITY["config"], **changes}}  # type: ignore[dict-item]
    return OutputDir(folder / "run", identity, result_file="result.json")


def test_a_run_starts_resumes_and_is_done(tmp_path: Path) -> None:
    output = make(tmp_path)
    assert not output.done and not output.path.exists()
    output.start(versions={"python": "3"})
    output.start(versions={"python": "4"})
    assert read_json(output.run_file) == {**IDENTITY, "versions": {"python": "3"}} and not output.done
    write_json(output.path / "result.json", {})
    assert make(tmp_path).done


def test_another_run_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    make(tmp_path).start()
    with pytest.raises(
        ValueError, match=r"config.learning_rate is 0.001 there, 0.1 requested; choose another --output"
    ):
        make(tmp_path, learning_rate=0.1).start()
    with pytest.raises(ValueError, match=r"config.seed is 0 there, 1 requested"):
        _ = make(tmp_path, seed=1).done


def test_differences_shorten_hashes_and_summarize_inputs() -> None:
    left, right = "0a" * 32, "1b" * 32
    assert describe_differences({"data_hash": left}, {"data_hash": right}) == (
        'data_hash is "0a0a0a0a" there, "1b1b1b1b" requested'
    )
    assert "12345678901234567 there" in describe_differences({"modified": 12345678901234567}, {"modified": 0})
    files = {name: left for name in "abcd"}
    existing = {"seed": 0, "inputs": {"language_model": files, "limit": 2}}
    expected = {"seed": 1, "inputs": {"language_model": dict.fromkeys(files, right), "limit": 3}}
    assert describe_differences(existing, expected) == (
        "seed is 0 there, 1 requested; language_model differs; inputs.limit is 2 there, 3 requested"
    )


def test_a_run_with_nothing_complete_can_be_reset(tmp_path: Path) -> None:
    make(tmp_path).start()
    make(tmp_path, seed=1).start(reset=True)
    assert read_json(make(tmp_path).run_file)["config"]["seed"] == 1


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"exists and has no run_config.json"):
        make(tmp_path).start()
    (tmp_path / "run" / "notes.txt").rename(tmp_path / "run" / ".lock")  # of a killed process
    make(tmp_path).start()


HOLD = """
import sys, time
from aligngpt.utils.output_dir import exclusive_lock, shared_lock
folder, member = sys.argv[1:]
with (shared_lock(folder, member) if member else exclusive_lock(folder)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["", "1-of-2"])
def holder(request: pytest.FixtureRequest, tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield request.param
        process.kill()


def test_locks_exclude_each_other_but_not_shards(holder: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="is locked by another process"), exclusive_lock(folder):
        pass
    with pytest.raises(ValueError, match="is locked by another process"), shared_lock(folder, "1-of-2"):
        pass
    if holder:
        with shared_lock(folder, "2-of-2"):
            pass


def test_a_lock_leaves_nothing_behind_and_survives_a_killed_holder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    with exclusive_lock(tmp_path / "run"), pytest.raises(ValueError, match="locked"), exclusive_lock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
