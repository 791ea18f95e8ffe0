"""Requests to a chat model at an OpenAI-compatible endpoint; replies are stored on disk as they arrive."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aligngpt.evaluation.judge.config import JudgeConfig

Message = Mapping[str, str]
Record = dict[str, Any]

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_FATAL_STATUS = (400, 401, 403, 404, 405, 422)  # every other request would be rejected as well
_NO_KEY = "none"  # the library requires a key, a local server does not


class EndpointError(OSError):
    """A request without a reply; `fatal` if every other request would fail in the same way."""

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


@dataclass(frozen=True)
class Reply:
    """A reply of the judge as it is stored: request, names the endpoint reported, token counts, finish reason."""

    record: Mapping[str, Any]
    cached: bool = False

    @property
    def text(self) -> str:
        """The text, empty if there is none."""
        return str(self.record["text"])


class ReplyCache:
    """Replies in a JSON Lines file, by the hash of their whole request. Thread-safe.

    A line is appended as soon as its reply arrives; a line truncated by a killed process is skipped. The first reply
    creates the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[str, Record] = {}
        self._lock = threading.Lock()
        content = path.read_bytes() if path.exists() else b""
        self._truncated = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                record = json.loads(line)
                if isinstance(record["text"], str):
                    self._records[record["key"]] = record
            except (ValueError, TypeError, KeyError):
                continue  # truncated: it is requested again

    def find(self, key: str) -> Record | None:
        """Return the reply to a request, or None."""
        return self._records.get(key)

    def add(self, record: Record) -> None:
        """Store a reply under its `key`."""
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                file.write(b"\n" + line if self._truncated else line)
            self._truncated = False
            self._records[record["key"]] = record


class JudgeClient(ExitStack):
    """A judge model with its stored replies; a context manager. Thread-safe."""

    def __init__(self, config: JudgeConfig, cache: ReplyCache) -> None:
        super().__init__()
        self._config, self._cache = config, cache
        self._client: Any = None
        self._portal: Any = None
        self._lock = threading.Lock()

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether requests to another machine were sent without an API key."""
        is_local = urlsplit(self._config.judge_url or "").hostname in _LOCAL_HOSTS
        if self._client is None or is_local or self._api_key():
            return ()
        return (f"requests were sent without an API key: {self._missing_key()}",)

    def ask(self, messages: Sequence[Message], temperature: float, max_tokens: int, run: int, attempt: int) -> Reply:
        """Send a request, or return its stored reply.

        Args:
            messages: The chat.
            temperature: 0 or more.
            max_tokens: Maximum reply.
            run: From 0; added to the seed.
            attempt: From 0; distinguishes a repeated question from the first one.

        Raises:
            EndpointError: If there is no reply.
            ImportError: If the client library is not installed.
        """
        config = self._config
        request: Record = {
            "model": config.judge_model,
            "messages": [dict(message) for message in messages],
            "temperature": temperature,
            "seed": config.judge_seed + run,
            config.judge_max_tokens_name: max_tokens,
        }
        identity = {"base_url": config.judge_url, "run": run, "attempt": attempt, "request": request}
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        record = self._cache.find(key)
        if record is not None:
            return Reply(record, cached=True)
        start = time.monotonic()
        record = {"key": key, **identity, **self._send(request)}
        record["seconds"] = round(time.monotonic() - start, 3)
        self._cache.add(record)
        return Reply(record)

    def _send(self, request: Record) -> Record:
        """Send a request. The library retries it; a deadline over all tries bounds replies that arrive slowly."""
        client = self._connect()
        import anyio
        import openai

        config = self._config

        async def send() -> Record:
            retries = config.judge_max_retries
            with anyio.fail_after(config.judge_timeout * (retries + 1)):
                while True:
                    chat = client.with_options(max_retries=retries).chat
                    response = await chat.completions.with_raw_response.create(**request)
                    retries -= response.retries_taken + 1
                    try:
                        return _parse_completion(response.text)
                    except ValueError as error:
                        if retries < 0:
                            raise EndpointError(str(error)) from None

        try:
            record: Record = self._portal.call(send)
        except (TimeoutError, openai.APITimeoutError):
            raise EndpointError(f"no reply within {config.judge_timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise EndpointError(f"no connection to {config.judge_url}{reason}") from None
        except openai.APIStatusError as error:
            if error.status_code == 401 and not self._api_key():
                raise EndpointError(f"the endpoint requires an API key: {self._missing_key()}", fatal=True) from None
            message = " ".join(str(error).split())[:300]
            raise EndpointError(message, fatal=error.status_code in _FATAL_STATUS) from None
        return record

    def _connect(self) -> Any:
        """Return the library's client, created for the first reply that is not stored."""
        with self._lock:
            if self._client is None:
                try:
                    import openai
                    from anyio.from_thread import start_blocking_portal
                except ImportError:
                    raise ImportError("a judge needs the package openai: pip install 'aligngpt[judge]'") from None
                client = openai.AsyncOpenAI(  # asynchronous, since only that can be stopped at a deadline
                    api_key=self._api_key() or _NO_KEY,
                    base_url=self._config.judge_url,
                    timeout=self._config.judge_timeout,
                )
                self._portal = self.enter_context(start_blocking_portal())
                self._client = self.enter_context(self._portal.wrap_async_context_manager(client))
            return self._client

    def _api_key(self) -> str:
        return os.environ.get(self._config.judge_api_key_env, "").strip()

    def _missing_key(self) -> str:
        return (
            f"the environment variable {self._config.judge_api_key_env} is not set; set it, or pass the name of the "
            f"one with the key for {self._config.judge_url} (--judge-api-key-env)"
        )


def _parse_completion(body: str) -> Record:
    """Return what is stored of a chat completion; the text of a refusal is empty, and malformed fields become None.

    Raises:
        ValueError: If it is not a chat completion.
    """
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        start = " ".join(body[:80].split())
        raise ValueError(f"the reply of the endpoint is not a chat completion: {start!r}") from None
    usage = content.get("usage") if isinstance(content.get("usage"), dict) else {}
    fields = {
        "answered_by": (str, content.get("model")),
        "system_fingerprint": (str, content.get("system_fingerprint")),
        "finish_reason": (str, choice.get("finish_reason")),
        "prompt_tokens": (int, usage.get("prompt_tokens")),
        "completion_tokens": (int, usage.get("completion_tokens")),
    }
    return {"text": text} | {name: value if type(value) is kind else None for name, (kind, value) in fields.items()}
