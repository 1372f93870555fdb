"""A server on loopback that answers as it is told, one fault at a time."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.data.stand_ins import ARCHIVE


class Source:
    """A URL whose n-th request gets the n-th of `answers`, and every later one the last."""

    def __init__(self, url: str, answers: "tuple[Answer, ...]") -> None:
        self.url, self.answers = url, answers
        self.asked: list[dict[str, str]] = []  # headers
        self.served = 0  # bytes of all bodies


class Mirror(ThreadingHTTPServer):
    """One server for all tests: every source has a path of its own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sources: dict[str, Source] = {}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def serve(self, *answers: "Answer") -> Source:
        """Return a new URL that gives these answers."""
        path = f"/{len(self.sources)}/cifar-10-python.tar.gz"
        self.sources[path] = Source(f"http://127.0.0.1:{self.server_port}{path}", answers)
        return self.sources[path]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_GET(self) -> None:
        self.source = self.server.sources[self.path]
        self.source.asked.append(dict(self.headers.items()))
        answers = self.source.answers
        answers[min(len(self.source.asked), len(answers)) - 1](self)

    def reply(self, status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        """Send `body`, or its first `cut` bytes before the connection ends."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body)), "Connection": "close"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        sent = body[:cut]
        self.source.served += len(sent)
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Silent."""


Answer = Callable[[Handler], None]


def reply(status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> Answer:
    """The same answer whatever is asked."""
    return lambda handler: handler.reply(status, body, cut, **headers)


def part(start: int, end: int, cut: int | None = None, body: bytes = ARCHIVE, **headers: str) -> Answer:
    """Those bytes of `body`, whatever is asked."""
    extent = f"bytes {start}-{end - 1}/{len(body)}"
    return reply(206, body[start:end], cut, Content_Range=extent, **headers)


def ranged(cut: int | None = None, body: bytes = ARCHIVE, **headers: str) -> Answer:
    """`body` from the byte that is asked for; `cut` bytes a connection."""

    def answer(handler: Handler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            handler.reply(416, Content_Range=f"bytes */{len(body)}")
        elif start:
            part(start, len(body), cut, body, **headers)(handler)
        else:
            handler.reply(200, body, cut, **headers)

    return answer


def silence(handler: Handler) -> None:
    """Not even a status line, until the client hangs up."""
    handler.rfile.read(1)


def stall(cut: int) -> Answer:
    """`cut` bytes of the archive and then nothing, over an open connection."""

    def answer(handler: Handler) -> None:
        ranged(cut)(handler)
        silence(handler)

    return answer
