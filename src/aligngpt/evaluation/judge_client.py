"""Asking a chat model over an OpenAI-compatible endpoint: repeated with back-off, and kept on disk once answered."""

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
from typing import Any, Literal
from urllib.parse import urlsplit

Message = Mapping[str, str]
Record = dict[str, Any]

_HERE = ("localhost", "127.0.0.1", "::1")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds, as the client library takes them
_FATAL = (400, 401, 403, 404, 405, 422)  # another try would be refused as well


class EndpointError(OSError):
    """A request that stays without a reply.

    Args:
        message: What the endpoint or the network said, in one line.
        fatal: Whether every other request would meet the same.
    """

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge is asked, and how.

    Args:
        model: Its name at the endpoint.
        base_url: The endpoint, such as `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`.
        api_key_variable: The environment variable that holds the key; an endpoint on this machine needs none.
        seed: Sent along; a further run of the same question is asked with the next one.
        temperature: None for what the benchmark's own evaluator uses.
        runs: How often each answer is judged, where reviews hold several runs (MM-Vet); others take one.
        prices: Of a million tokens read and a million written, in any currency; None if the cost is of no interest.
        max_tokens: Longest reply; None for the benchmark's own. A model that thinks before it writes needs more.
        max_tokens_name: What the endpoint calls that limit.
        max_retries: How often a failed request is repeated.
        timeout: Seconds to wait for one reply.
        concurrency: Requests under way at once.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_variable: str = "OPENAI_API_KEY"
    seed: int = 0
    temperature: float | None = None
    runs: int = 1
    prices: tuple[float, float] | None = None
    max_tokens: int | None = None
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_retries: int = 5
    timeout: float = 120.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("the judge has no name: say which model of the endpoint is to be asked")
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ValueError(f"the judge's address must begin with http:// or https://, got {self.base_url!r}")
        if self.runs < 1 or self.concurrency < 1 or self.max_retries < 0 or self.timeout <= 0:
            raise ValueError(
                "runs and concurrency must be at least 1, max_retries at least 0 and timeout above 0, got "
                f"{self.runs}, {self.concurrency}, {self.max_retries} and {self.timeout}"
            )
        if self.prices is not None and min(self.prices) < 0:
            raise ValueError(f"prices cannot be negative, got {self.prices[0]} and {self.prices[1]}")


@dataclass(frozen=True)
class Reply:
    """What the judge wrote.

    Args:
        text: Empty where it wrote nothing.
        record: As it is kept: the request, the names the server gave, token counts, why the reply ended.
        cached: Whether it was there already.
    """

    text: str
    record: Mapping[str, Any]
    cached: bool = False


class Replies:
    """Replies on disk, one a line, found again by the hash of their whole request.

    A line is appended at once, so whoever is killed loses at most the replies under way. A line cut short by that is
    passed over. Safe for threads.

    Args:
        path: The JSON Lines file; made when the first reply is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Record] = {}
        self._lock = threading.Lock()
        content = path.read_bytes() if path.exists() else b""
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                record = json.loads(line)
                self._known[record["key"]] = record
            except (ValueError, TypeError, KeyError):
                continue  # cut short: it is asked again

    def find(self, key: str) -> Record | None:
        """The reply of a request, or None."""
        return self._known.get(key)

    def add(self, record: Record) -> None:
        """Keep a reply under its `key`."""
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                file.write(b"\n" + line if self._torn else line)
            self._torn = False
            self._known[record["key"]] = record


class JudgeClient(ExitStack):
    """The endpoint, with its replies kept on disk; a context manager. Safe for threads.

    Args:
        settings: Which judge.
        replies: Where what it wrote is kept.

    Raises:
        ImportError: If the client library is not installed.
        ValueError: If there is no key and the endpoint is not on this machine.
    """

    def __init__(self, settings: JudgeSettings, replies: Replies) -> None:
        super().__init__()
        self._settings, self._replies = settings, replies
        self._client: Any = None
        self._lock = threading.Lock()

    def ask(self, messages: Sequence[Message], temperature: float, max_tokens: int, run: int, attempt: int) -> Reply:
        """Ask, or return what was replied before.

        Args:
            messages: The chat.
            temperature: 0 or more.
            max_tokens: Longest reply.
            run: From 0; adds to the seed.
            attempt: From 0; tells a question asked again from the first one.

        Raises:
            EndpointError: If no reply could be had.
        """
        settings = self._settings
        request: Record = {
            "model": settings.model,
            "messages": [dict(one) for one in messages],
            "temperature": temperature,
            "seed": settings.seed + run,
            settings.max_tokens_name: max_tokens,
        }
        whole = {"base_url": settings.base_url, "run": run, "attempt": attempt, "request": request}
        key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        record = self._replies.find(key)
        if record is not None:
            return Reply(record["text"], record, cached=True)
        start = time.monotonic()
        record = {"key": key, **whole, **self._reply(request)}
        record["seconds"] = round(time.monotonic() - start, 3)
        self._replies.add(record)
        return Reply(record["text"], record)

    def _reply(self, request: Record) -> Record:
        """Send a request until a whole reply comes; the library repeats what fails, this what comes back broken."""
        for attempt in range(self._settings.max_retries + 1):
            body = self._send(request)
            try:
                return _read_body(body)
            except (ValueError, TypeError, KeyError, IndexError):
                problem = " ".join(body[:80].split())
            if attempt < self._settings.max_retries:
                time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
        raise EndpointError(f"the endpoint's reply is no chat completion: {problem!r}")

    def _send(self, request: Record) -> str:
        import openai

        try:
            return self._connected().chat.completions.with_raw_response.create(**request).text
        except openai.APITimeoutError:
            raise EndpointError(f"no reply within {self._settings.timeout:g} seconds") from None
        except openai.APIConnectionError as error:
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise EndpointError(f"no connection to {self._settings.base_url}{reason}") from None
        except openai.APIStatusError as error:
            raise EndpointError(" ".join(str(error).split())[:300], error.status_code in _FATAL) from None

    def _connected(self) -> Any:
        """The library's client, made when the first reply is not on disk: without that no key is needed."""
        with self._lock:
            if self._client is None:
                settings = self._settings
                import openai

                self._client = self.enter_context(
                    openai.OpenAI(
                        api_key=_api_key(settings),
                        base_url=settings.base_url,
                        max_retries=settings.max_retries,
                        timeout=settings.timeout,
                    )
                )
            return self._client


def check_access(settings: JudgeSettings) -> None:
    """Find out before anything is asked whether the library is installed and a key is there.

    Raises:
        ImportError: If the client library is not installed.
        ValueError: If there is no key and the endpoint is not on this machine.
    """
    try:
        import openai  # noqa: F401
    except ImportError:
        raise ImportError("a judge is asked through the package openai: pip install 'aligngpt[judge]'") from None
    _api_key(settings)


def _api_key(settings: JudgeSettings) -> str:
    key = os.environ.get(settings.api_key_variable, "")
    if not key and urlsplit(settings.base_url).hostname in _HERE:
        return "none"  # the library wants one, a server on this machine does not
    if not key:
        raise ValueError(
            f"no key for {settings.base_url}: the environment variable {settings.api_key_variable} is not set; set it, "
            "or name the one that holds the key"
        )
    return key


def _read_body(body: str) -> Record:
    """What is kept of a chat completion; a reply without text, such as a refusal, has an empty one."""
    answer = json.loads(body)
    choice = answer["choices"][0]
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise ValueError("content is no text")
    usage = answer.get("usage") or {}
    return {
        "text": text,
        "answered_by": answer.get("model"),
        "system_fingerprint": answer.get("system_fingerprint"),
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
    }
