"""A local chat endpoint for tests of the judge: a real server whose replies a function returns."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str]


def completion(text: str | None, **more: Any) -> Reply:
    """Return a chat completion."""
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-0613",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
    }
    return 200, json.dumps(body | more)


def failure(status: int) -> Reply:
    """Return an error of an endpoint."""
    return status, json.dumps({"error": {"message": "not now", "type": "server_error"}})


class JudgeServer:
    """A server on a free port of 127.0.0.1; a context manager.

    Args:
        reply: Request and number of earlier requests to status and body; status 0 closes the connection.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    index = len(outer.requests)
                    outer.requests.append(request)
                    outer.keys.append(self.headers["Authorization"])
                status, body = outer.reply(request, index)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body.encode())))
                self.send_header("retry-after-ms", "1")  # keeps tests fast
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> JudgeServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def last_row(request: dict[str, Any]) -> list[str]:
    """Return question, ground truth and prediction that MM-Vet's judge is asked to score."""
    return request["messages"][-1]["content"].split("\n")[-1].split(" | ")[:3]
