"""A server on this machine that speaks as much of OpenAI's chat protocol as a judge needs, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from multimood_core.judges import DIMENSION_NAMES


@dataclass
class Answer:
    """What the server does with a request: it waits, then answers with a status and a message's text, or sends elsewhere."""

    text: str = ""
    status: int = 200
    seconds: float = 0.0
    body: bytes | None = None
    elsewhere: str = ""


@dataclass
class StubEndpoint:
    """The server's address, the requests it had, and how many it worked on at the same time."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


Respond = Callable[[int, dict[str, Any]], Answer]


@contextmanager
def serve(respond: Respond) -> Iterator[StubEndpoint]:
    """Answer the n-th request (from 0) with ``respond(n, request)`` until the block ends."""
    stub = StubEndpoint("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                number = len(stub.requests)
                stub.requests.append(request)
                stub.at_once += 1
                stub.most_at_once = max(stub.most_at_once, stub.at_once)
            answer = respond(number, request)
            time.sleep(answer.seconds)
            with stub.lock:
                stub.at_once -= 1
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("retry-after-ms", "5")
            if answer.elsewhere:
                self.send_header("Location", answer.elsewhere)
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has stopped waiting
                self.wfile.write(answer.body if answer.body is not None else _completion(answer.text))

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def _completion(text: str) -> bytes:
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "stub", "choices": [message], "usage": usage}
    return json.dumps(answer).encode()


def scores_text(*sentences: float, names: Sequence[str] = DIMENSION_NAMES) -> str:
    """A well-formed answer that gives each sentence the same score in every dimension."""
    return json.dumps({str(i): dict.fromkeys(names, score) for i, score in enumerate(sentences, start=1)})
