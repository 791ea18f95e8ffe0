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
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds
_LONGEST_ASKED = 60.0  # seconds of pause that an endpoint is granted
_BUSY = (408, 409, 429)  # repeated, as every 5xx is
_FATAL = (400, 401, 403, 404, 405, 422)  # another request would be refused as well
_NO_KEY = "none"  # the library wants a key, a server of one's own does not


class EndpointError(OSError):
    """A request that stays without a reply.

    Args:
        message: What the endpoint or the network said, in one line.
        fatal: Whether every other request would meet the same.
        again: Whether the same request may have more luck.
        pause: Seconds the endpoint asks to be left alone; None if it does not say.
    """

    def __init__(self, message: str, fatal: bool = False, again: bool = False, pause: float | None = None) -> None:
        super().__init__(message)
        self.fatal, self.again, self.pause = fatal, again, pause


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge is asked, and how.

    Args:
        model: Its name at the endpoint.
        base_url: The endpoint, such as `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`.
        api_key_variable: The environment variable that holds the key; an endpoint of one's own may need none.
        seed: Sent along; a further run of the same question is asked with the next one.
        temperature: None for what the benchmark's own evaluator uses.
        runs: How often each answer is judged, where reviews hold several runs (MM-Vet); others take one.
        prices: Of a million tokens read and a million written, in any currency; None if the cost is of no interest.
        max_tokens: Longest reply; None for the benchmark's own. A model that thinks before it writes needs more.
        max_tokens_name: What the endpoint calls that limit.
        max_retries: How often a failed request is repeated.
        timeout: Seconds within which one reply has to be there, whole.
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
                if isinstance(record["text"], str):
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
    """

    def __init__(self, settings: JudgeSettings, replies: Replies) -> None:
        super().__init__()
        self._settings, self._replies = settings, replies
        self._client: Any = None
        self._portal: Any = None
        self._lock = threading.Lock()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of how it was asked."""
        here = urlsplit(self._settings.base_url).hostname in _HERE
        return () if self._client is None or here or self._key() else (f"asked without a key: {self._keyless()}",)

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
            ImportError: If the client library is not installed.
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
        """Send a request until a whole reply comes, or no more tries are left."""
        for attempt in range(self._settings.max_retries + 1):
            try:
                return _read_body(self._send(request))
            except EndpointError as error:
                if not error.again or attempt == self._settings.max_retries:
                    raise
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) if error.pause is None else error.pause
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _send(self, request: Record) -> str:
        """Send a request once; the deadline holds for all of it, however slowly the reply drips in."""
        client = self._connected()
        import anyio
        import openai

        settings = self._settings

        async def body() -> str:
            with anyio.fail_after(settings.timeout):
                return str((await client.chat.completions.with_raw_response.create(**request)).text)

        try:
            return str(self._portal.call(body))
        except TimeoutError:
            raise EndpointError(f"no reply within {settings.timeout:g} seconds", again=True) from None
        except openai.APIConnectionError as error:
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise EndpointError(f"no connection to {settings.base_url}{reason}", again=True) from None
        except openai.APIStatusError as error:
            status = error.status_code
            if status == 401 and not self._key():
                raise EndpointError(f"a key is needed: {self._keyless()}", fatal=True) from None
            raise EndpointError(
                " ".join(str(error).split())[:300],
                fatal=status in _FATAL,
                again=status in _BUSY or status >= 500,
                pause=_asked_pause(error.response.headers),
            ) from None

    def _connected(self) -> Any:
        """The library's client, made when the first reply is not on disk: without that no library is needed."""
        with self._lock:
            if self._client is None:
                try:
                    import openai
                    from anyio.from_thread import start_blocking_portal
                except ImportError:
                    raise ImportError(
                        "a judge is asked through the package openai: pip install 'aligngpt[judge]'"
                    ) from None
                # The asynchronous client, as only that can be stopped at a deadline; repeating is done here alone.
                client = openai.AsyncOpenAI(
                    api_key=self._key() or _NO_KEY, base_url=self._settings.base_url, max_retries=0, timeout=None
                )
                self._portal = self.enter_context(start_blocking_portal())
                self._client = self.enter_context(self._portal.wrap_async_context_manager(client))
            return self._client

    def _key(self) -> str:
        return os.environ.get(self._settings.api_key_variable, "").strip()

    def _keyless(self) -> str:
        return (
            f"the environment variable {self._settings.api_key_variable} is not set; set it, or name the one that "
            f"holds the key for {self._settings.base_url}"
        )


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the endpoint says them, None if it does not."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds <= _LONGEST_ASKED else None
    return None


def _read_body(body: str) -> Record:
    """What is kept of a chat completion; a reply without text, such as a refusal, has an empty one.

    Names and figures that are none are left out: they decide nothing.

    Raises:
        EndpointError: If it is no chat completion.
    """
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        start = " ".join(body[:80].split())
        raise EndpointError(f"the endpoint's reply is no chat completion: {start!r}", again=True) from None
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return {
        "text": text,
        "answered_by": _name(answer.get("model")),
        "system_fingerprint": _name(answer.get("system_fingerprint")),
        "finish_reason": _name(choice.get("finish_reason")),
        "prompt_tokens": _figure(usage.get("prompt_tokens")),
        "completion_tokens": _figure(usage.get("completion_tokens")),
    }


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _figure(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
