"""A real HTTP server on the loopback address that misbehaves on purpose, and a session that takes it for any host.

The product fetches over HTTPS only, and nothing in it can be set to change that. Here a transport adapter, mounted for
``https://`` in a session that the test hands in, carries each request to the loopback server instead.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def some_content(size: int, seed: int = 1) -> bytes:
    """Return bytes that begin like an HDF5 file."""
    return HDF5_SIGNATURE + random.Random(seed).randbytes(size - len(HDF5_SIGNATURE))


Behaviour = Callable[["Request"], None]


class _QuietServer(ThreadingHTTPServer):
    """Prints nothing when a client goes away, as these tests' clients do."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Server:
    """Serves one content; ``behaviours`` are used up request by request, then it behaves.

    ``released`` ends every wait of a behaviour; ``requests`` holds the path and headers of each request, in order.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.behaviours: list[Behaviour] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._lock = threading.Lock()
        self.released = threading.Event()
        server = self

        class Handler(Request):
            served = server

        self.http = _QuietServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def next_behaviour(self) -> Behaviour:
        with self._lock:
            return self.behaviours.pop(0) if self.behaviours else well

    def ranges(self) -> list[str | None]:
        """Return the range that each request asked for."""
        return [headers.get("Range") for _, headers in self.requests]

    def session(self) -> requests.Session:
        """Return the product's own session, carried to this server."""
        return session_to(self.port)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


class Request(BaseHTTPRequestHandler):
    """One request; behaviours answer it."""

    protocol_version = "HTTP/1.1"
    served: Server

    def do_GET(self) -> None:
        self.served.requests.append((self.path, dict(self.headers.items())))
        try:
            self.served.next_behaviour()(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    @property
    def start(self) -> int:
        """Where the client wants the content to begin."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return 0 if found is None else int(found.group(1))

    def head(self, status: int, **headers: str | int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def content_head(self, start: int, **headers: str | int) -> None:
        """Say what follows: the content from a byte on."""
        size = len(self.served.content)
        if start >= size > 0:
            self.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
        elif start:
            range = f"bytes {start}-{size - 1}/{size}"
            self.head(206, **{"Content_Range": range, "Content_Length": size - start, **headers})
        else:
            self.head(200, **{"Content_Length": size, **headers})

    def begin(self, count: int) -> None:
        """Promise everything and send so many bytes."""
        self.content_head(self.start)
        self.wfile.write(self.served.content[self.start : self.start + count])

    def drop(self) -> None:
        """End the connection after what was sent, which still arrives."""
        self.wfile.flush()
        self.close_connection = True

    def reset(self) -> None:
        """Break the connection; what was sent and not yet read is lost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def well(request: Request) -> None:
    """Answer as one should."""
    start = request.start
    request.content_head(start)
    request.wfile.write(request.served.content[start:])


def breaks_after(count: int) -> Behaviour:
    """Promise everything and break off after so many bytes."""

    def behave(request: Request) -> None:
        request.begin(count)
        request.drop()

    return behave


def stalls_after(count: int) -> Behaviour:
    """Send so many bytes and then nothing, until the server is closed."""

    def behave(request: Request) -> None:
        request.begin(count)
        request.wfile.flush()
        request.served.released.wait(60)
        request.close_connection = True

    return behave


def pauses_after(count: int) -> Behaviour:
    """Send so many bytes, and the rest when ``released`` is set."""

    def behave(request: Request) -> None:
        start = request.start
        request.content_head(start)
        request.wfile.write(request.served.content[start : start + count])
        request.wfile.flush()
        request.served.released.wait(60)
        request.wfile.write(request.served.content[start + count :])

    return behave


def slowly(piece: int, pause_s: float) -> Behaviour:
    """Send pieces with pauses."""

    def behave(request: Request) -> None:
        start = request.start
        request.content_head(start)
        for at in range(start, len(request.served.content), piece):
            request.wfile.write(request.served.content[at : at + piece])
            if request.served.released.wait(pause_s):
                return

    return behave


def ignores_range(request: Request) -> None:
    """Send everything, whatever was asked for."""
    request.content_head(0)
    request.wfile.write(request.served.content)


def without_length(request: Request) -> None:
    """Send everything in chunks, without saying how much it will be."""
    request.head(200, Transfer_Encoding="chunked")
    for at in range(0, len(request.served.content), 5000):
        piece = request.served.content[at : at + 5000]
        request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    request.wfile.write(b"0\r\n\r\n")


def ends_early(request: Request) -> None:
    """Send half without having said how much it will be, and close as if that were all."""
    request.head(200, Connection="close")
    request.wfile.write(request.served.content[: len(request.served.content) // 2])
    request.close_connection = True


def endless(request: Request) -> None:
    """Send the content again and again."""
    request.head(200, Connection="close")
    while not request.served.released.is_set():
        request.wfile.write(request.served.content)


def answers(status: int, body: bytes = b"", **headers: str | int) -> Behaviour:
    """Answer with a status, headers and a body."""

    def behave(request: Request) -> None:
        request.head(status, **{"Content_Length": len(body), **headers})
        request.wfile.write(body)

    return behave


def says(**headers: str | int) -> Behaviour:
    """Send everything with other headers."""

    def behave(request: Request) -> None:
        start = request.start
        request.content_head(start, **headers)
        request.wfile.write(request.served.content[start:])

    return behave


def hangs_up(request: Request) -> None:
    """Break the connection without an answer."""
    request.reset()


def resets_after(count: int) -> Behaviour:
    """Promise everything, send so many bytes and break the connection."""

    def behave(request: Request) -> None:
        request.begin(count)
        request.reset()

    return behave


def late(seconds: float) -> Behaviour:
    """Answer after a while."""

    def behave(request: Request) -> None:
        time.sleep(seconds)
        well(request)

    return behave


class _ToLoopback(HTTPAdapter):
    """Carries every request to a port of the loopback address, by plain HTTP."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        wanted = request.url or ""
        carried = request.copy()
        carried.url = f"http://127.0.0.1:{self._port}{urlsplit(wanted).path}"
        options["proxies"] = {}
        response = super().send(carried, *arguments, **options)
        response.url = wanted
        return response


def session_to(port: int) -> requests.Session:
    """Return the product's own session, carried to a port of the loopback address."""
    from TransferSegLib.models.http_source import new_session

    session = new_session()
    session.mount("https://", _ToLoopback(port))
    return session
