"""A local web server whose answers a test chooses, to download from."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """A web server on 127.0.0.1.

    Attributes:
        url: its address, without a slash at the end.
        requests: the headers of each request, with ``path``.
        answer: what answers a request.
    """

    def __init__(self, answer: "Answer") -> None:
        self.answer, self.requests = answer, list[dict[str, str]]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append({**{k.lower(): v for k, v in self.headers.items()}, "path": self.path})
                self.close_connection = True
                with contextlib.suppress(ConnectionError):
                    server.answer(self, len(server.requests))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


Answer = Callable[[BaseHTTPRequestHandler, int], None]
"""Answers a request; the number counts requests from 1."""


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Sends a whole answer; ``Content_Length=...`` replaces the true length."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def serve_file(content: bytes, etag: str = '"one"', cut_at: int | None = None, **headers: str) -> Answer:
    """Serves one file with ranges, as S3 does.

    Args:
        content: the file.
        etag: its ETag.
        cut_at: the first answer ends after so many bytes.
        headers: further headers.
    """

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        start, status, extra = 0, 200, dict(headers)
        wanted = handler.headers.get("Range")
        if wanted and handler.headers.get("If-Range", etag) == etag:
            start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                send(handler, 416, Content_Range=f"bytes */{len(content)}")
                return
            extra["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        body = rest[: cut_at - start] if cut_at is not None and number == 1 else rest
        send(handler, status, body, **{"Content_Length": str(len(rest)), "ETag": etag, **extra})

    return answer


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server that answers as told while the body runs."""
    with Server(answer) as server:
        yield server
