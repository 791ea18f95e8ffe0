"""Failures of a judge's endpoint, with a real server: retries are bounded, replies are stored, errors take one line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aligngpt.cli import cli
from aligngpt.evaluation.judge import client as judge_client
from aligngpt.evaluation.judge.client import EndpointError, JudgeClient, ReplyCache
from aligngpt.evaluation.judge.config import JudgeConfig
from aligngpt.evaluation.readers import load_json
from aligngpt.utils.output_dir import hold_lock
from tests.evaluation.benchmark_files import answer_lines, write_json, write_lines
from tests.evaluation.judge.judge_server import JudgeServer, Reply, completion, failure, last_row

COUNT = 12


@pytest.fixture(autouse=True)
def no_key_and_short_retry_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with twelve questions of MM-Vet and predictions."""
    questions = {
        f"v1_{i}": {"imagename": "x.png", "question": f"Q{i}", "answer": "x", "capability": ["rec"]}
        for i in range(COUNT)
    }
    write_json(tmp_path / "mm-vet" / "mm-vet.json", questions)
    answer_lines(tmp_path / "a.jsonl", {i: f"A{i}" for i in range(COUNT)}, prompt="")
    return tmp_path


def arguments(folder: Path, url: str, *more: object) -> list[str]:
    given = ("eval", "judge", "mmvet", "--data", folder, "--answers", folder / "a.jsonl")
    judge = ("--output", folder / "grades.json", "--judge-url", url, "--judge-model", "judge", "--judge-max-retries", 2)
    return [str(argument) for argument in (*given, *judge, *more)]


def judge(folder: Path, url: str, *more: object) -> Result:
    return CliRunner().invoke(cli, arguments(folder, url, *more), prog_name="aligngpt")


def error(done: Result) -> str:
    """Return the last line of a failed command."""
    line = done.stderr.splitlines()[-1]
    assert line.startswith("aligngpt: error: ") and "Traceback" not in done.output
    return line.removeprefix("aligngpt: error: ")


def test_table_and_json(folder: Path) -> None:
    with JudgeServer(lambda request, index: completion("0.5")) as server:
        done = judge(folder, server.url, "--input-cost-per-mtok", 2, "--output-cost-per-mtok", 8)
        again = json.loads(
            judge(folder, server.url, "--input-cost-per-mtok", 2, "--output-cost-per-mtok", 8, "--json").stdout
        )
    assert done.exit_code == 0, done.output
    for text in (
        "MM-Vet: 12 predictions judged by judge-0613",
        "all replies",
        "1,200",
        f"Reviews: {folder}/grades.json",
    ):
        assert text in done.stdout.replace("\n", "")
    assert (again["usage"]["cost"], again["usage_this_call"]["cost"]) == (pytest.approx(0.002592), 0)
    assert len(server.requests) == COUNT and set(server.keys) == {"Bearer none"}


def test_rerun_needs_no_server_key_or_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer(lambda request, index: completion("0.5")) as server:
        assert judge(folder, server.url).exit_code == 0
        first = (folder / "grades.json").read_bytes()
        assert judge(folder, server.url, "--judge-seed", 1, "--output", folder / "other.json").exit_code == 0
    assert len(server.requests) == 2 * COUNT  # another seed is another request, and replies are stored per file
    (folder / "grades.json").unlink()
    monkeypatch.setattr(judge_client, "_LOCAL_HOSTS", ())
    monkeypatch.setitem(sys.modules, "openai", None)
    assert judge(folder, server.url).exit_code == 0
    assert (folder / "grades.json").read_bytes() == first


@pytest.mark.parametrize("failed", [failure(429), failure(500), failure(503), (0, "")])
def test_transient_failures_are_retried(folder: Path, failed: Reply) -> None:
    seen: dict[str, int] = {}

    def reply(request: dict[str, Any], index: int) -> Reply:
        question = last_row(request)[0]
        seen[question] = seen.get(question, 0) + 1
        return failed if seen[question] < (3 if failed[0] else 2) else completion("1.0")

    with JudgeServer(reply) as server:
        done = judge(folder, server.url)
    assert done.exit_code == 0, done.output
    assert set(seen.values()) == {3 if failed[0] else 2}
    assert load_json(folder / "grades-judge.json")["usage_this_call"]["n_replies"] == COUNT


def test_permanent_failure_is_bounded_and_replies_are_stored(folder: Path) -> None:
    def reply(request: dict[str, Any], index: int) -> Reply:
        return completion("1.0") if last_row(request)[0] in ("Q0", "Q3") else failure(500)

    with JudgeServer(reply) as server:
        done = judge(folder, server.url, "--max-concurrency", 1)
        # Q1, Q2 fail, Q3 succeeds, Q4 to Q8 fail: after five in a row no more are sent (the next may be in flight).
        assert 2 + 7 * 3 <= len(server.requests) <= 2 + 9 * 3
        server.reply = lambda request, index: completion("0.5")
        before = len(server.requests)
        assert not (folder / "grades.json").exists()
        assert judge(folder, server.url).exit_code == 0
    assert "the judge: 10 of 12 replies are missing, for questions v1_1, v1_2, v1_4, v1_5, v1_6 and 5 more" in error(
        done
    )
    assert "and 5 more: Error code: 500" in error(done)
    assert len(server.requests) == before + 10
    grades = {name: one["score"] for name, one in load_json(folder / "grades.json").items()}
    assert grades == {f"v1_{i}": [1.0 if i in (0, 3) else 0.5] for i in range(COUNT)}


def test_rejected_key_stops_immediately(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with JudgeServer(lambda request, index: failure(401)) as server:
        done = judge(folder, server.url, "--max-concurrency", 1)
    assert len(server.requests) <= 2
    assert "12 of 12 replies are missing" in error(done) and "and 7 more: Error code: 401" in error(done)


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [',
        "<html>busy</html>",
        '{"choices": []}',
        "[]",
        '{"error": "busy"}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": [1]}}]}',
    ],
)
def test_broken_reply_is_requested_again(folder: Path, body: str) -> None:
    with JudgeServer(lambda request, index: (200, body) if index < 2 else completion("1.0")) as server:
        assert judge(folder, server.url, "--max-concurrency", 1).exit_code == 0
        assert len(server.requests) == COUNT + 2
        server.reply = lambda request, index: (200, body)
        done = judge(folder, server.url, "--judge-seed", 1)
    assert "the reply of the endpoint is not a chat completion" in error(done)


def test_no_server_and_slow_server(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        done = judge(folder, url, "--judge-max-retries", 0)
    assert f"no connection to {url}" in error(done)

    def reply(request: dict[str, Any], index: int) -> Reply:
        time.sleep(0.5)
        return completion("1.0")

    with JudgeServer(reply) as server:
        done = judge(folder, server.url, "--judge-max-retries", 0, "--judge-timeout", 0.1)
    assert "no reply within 0.1 seconds" in error(done)


def test_slowly_arriving_reply(folder: Path) -> None:
    """Every byte arrives in time, the whole reply does not: the deadline covers header and body."""
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n", b"\r\n" + b" " * 900

    def drip(listener: socket.socket, first: bytes, slow: bytes) -> None:
        with listener.accept()[0] as connection, contextlib.suppress(OSError):
            connection.recv(9999)
            connection.sendall(first)
            for byte in slow:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)

    for first, slow in ((b"", head), (head, body)):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=drip, args=(listener, first, slow), daemon=True).start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            start = time.monotonic()
            config = JudgeConfig(judge_model="judge", judge_url=url, judge_max_retries=0, judge_timeout=0.2)
            with JudgeClient(config, ReplyCache(folder / "r.jsonl")) as client, pytest.raises(EndpointError) as caught:
                client.ask([{"role": "user", "content": "x"}], 0.0, 5, 0, 0)
        assert "no reply within 0.2 seconds" in str(caught.value) and time.monotonic() - start < 1.5


def test_requests_for_one_reply_are_bounded(folder: Path) -> None:
    """Broken replies and failures share one number of retries."""
    turns = [failure(500), (200, "[]"), failure(429), (200, "[]"), failure(503), (200, "[]")]
    with JudgeServer(lambda request, index: turns[index % 6]) as server:
        config = JudgeConfig(judge_model="judge", judge_url=server.url, judge_max_retries=3)
        with JudgeClient(config, ReplyCache(folder / "r.jsonl")) as client, pytest.raises(EndpointError):
            client.ask([{"role": "user", "content": "x"}], 0.0, 5, 0, 0)
    assert len(server.requests) == 4


def test_remote_server_without_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_client, "_LOCAL_HOSTS", ())
    with JudgeServer(lambda request, index: completion("1.0")) as server:
        done = judge(folder, server.url)
    assert done.exit_code == 0, done.output
    assert "sent without an API key: the environment variable OPENAI_API_KEY is not set" in " ".join(
        done.stderr.split()
    )
    assert set(server.keys) == {"Bearer none"}
    assert "key" not in judge(folder, server.url).stderr  # no request was sent


def test_key_is_required_and_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer(lambda request, index: failure(401)) as server:
        done = judge(folder, server.url, "--max-concurrency", 1)
    assert len(server.requests) <= 2
    message = "the endpoint requires an API key: the environment variable OPENAI_API_KEY is not set; set it, or pass"
    assert message in error(done)
    monkeypatch.setenv("JUDGE_KEY", "secret\n")
    with JudgeServer(lambda request, index: completion("1.0")) as server:
        assert judge(folder, server.url, "--judge-api-key-env", "JUDGE_KEY").exit_code == 0
    assert set(server.keys) == {"Bearer secret"}
    assert all("secret" not in path.read_text() for path in folder.glob("*.json*"))


def test_library_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    done = judge(folder, "http://127.0.0.1:1/v1")
    assert "pip install 'aligngpt[judge]'" in error(done)


def test_concurrent_calls_do_not_pay_twice(folder: Path) -> None:
    with JudgeServer(lambda request, index: completion("1.0")) as server:
        with hold_lock(folder, ".lock-grades"):
            done = judge(folder, server.url)
            assert judge(folder, server.url, "--output", folder / "other.json").exit_code == 0
        assert error(done).startswith(f"{folder} is locked by another process") and len(server.requests) == COUNT
        assert judge(folder, server.url).exit_code == 0
    assert not list(folder.glob(".lock*"))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("gqa", (), "gqa has no judge; choose from llava_bench, mmvet"),
        ("llava_bench", ("--num-runs", 2), "reviews of llava_bench hold one run"),
        ("mmvet", ("--input-cost-per-mtok", 2), "both input_cost_per_mtok and output_cost_per_mtok"),
        ("mmvet", ("--num-runs", 0), "greater than or equal to 1"),
    ],
)
def test_wrong_usage(folder: Path, name: str, more: tuple[object, ...], message: str) -> None:
    words = arguments(folder, "http://127.0.0.1:1/v1", *more)
    words[2] = name
    done = CliRunner().invoke(cli, words, prog_name="aligngpt")
    assert done.exit_code == 2 and message in done.output
    for option, text in (("--judge-url", "both judge_url and judge_model"), ("", "the judge is missing")):
        left = ["--judge-url", "http://x"] if option else []
        done = CliRunner().invoke(cli, [*arguments(folder, "http://x")[:9], *left])
        assert done.exit_code == 2 and text in done.output


# Interruption -------------------------------------------------------------------------------------------------------


def test_killed_run_resumes(folder: Path) -> None:
    """A killed run loses at most the requests in flight, and its rerun ends as an uninterrupted one."""

    def reply(request: dict[str, Any], index: int) -> Reply:
        time.sleep(0.05)
        return completion(f"0.{int(last_row(request)[0][1:]) % 10}")

    stored = folder / "grades-replies.jsonl"
    with JudgeServer(reply) as server:
        words = [sys.executable, "-m", "aligngpt", *arguments(folder, server.url, "--max-concurrency", 1)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not stored.exists() or stored.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = stored.read_bytes().count(b"\n")
        assert 3 <= done < COUNT and not (folder / "grades.json").exists()
        with open(stored, "ab") as file:
            file.write(b'{"key": "cut sho')  # a truncated line
        asked = len(server.requests)
        assert judge(folder, server.url).exit_code == 0
        assert len(server.requests) - asked == COUNT - done
    grades = {name: one["score"] for name, one in load_json(folder / "grades.json").items()}
    assert grades == {f"v1_{i}": [i % 10 / 10] for i in range(COUNT)}
    assert len(ReplyCache(stored)._records) == COUNT


def test_damaged_lines_are_requested_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_lines(path, [{"key": "a", "text": "1"}, {"text": "no key"}, {"key": "b"}])
    path.write_bytes(path.read_bytes() + b'7\n{"key": "b", "te')
    replies = ReplyCache(path)
    assert replies.find("a") == {"key": "a", "text": "1"} and replies.find("b") is None
    replies.add({"key": "b", "text": "2"})
    assert ReplyCache(path).find("b") == {"key": "b", "text": "2"} and ReplyCache(path).find("a") is not None


def test_identity_of_a_request(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "x"}]
    with JudgeServer(lambda request, index: completion(str(index))) as server:

        def ask(*more: Any, **given: Any) -> str:
            config = JudgeConfig(**{"judge_model": "judge", "judge_url": server.url} | given)
            with JudgeClient(config, ReplyCache(tmp_path / "r.jsonl")) as client:
                return client.ask(chat, *(more or (0.0, 5, 0, 0))).text

        first = [ask(), ask(), ask(judge_seed=1), ask(judge_model="other")]
        assert first == ["0", "0", "1", "2"] and ask(judge_max_tokens_name="max_completion_tokens") == "3"
        assert [ask(0.5, 5, 0, 0), ask(0.0, 6, 0, 0), ask(0.0, 5, 1, 0), ask(0.0, 5, 0, 1)] == ["4", "5", "6", "7"]
        limits = {"judge_timeout": 3, "max_concurrency": 1, "judge_max_retries": 0}
        assert ask(**limits, input_cost_per_mtok=1, output_cost_per_mtok=1) == "0"
    assert server.requests[3]["max_completion_tokens"] == 5 and "max_tokens" not in server.requests[3]
    with pytest.raises(EndpointError):
        ask(0.9, 5, 0, 0, judge_max_retries=0)
