"""One request for a file, or for its rest, over HTTPS: redirects, refusals and broken connections as plain messages.

Nothing here writes a file; ``TransferSegLib.models.fetch`` does, and tries again. The network is read in a thread of
its own, so that a request to stop need not wait for a server that does not answer.
"""

from __future__ import annotations

import queue
import re
import socket
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from TransferSegLib.errors import ModelError
from TransferSegLib.progress import Task
from TransferSegLib.version import VERSION

#: Seconds to wait for a connection, and for the next bytes of one.
_TIMEOUTS_S = (15.0, 30.0)
#: At least so many bytes a second, counted over so many seconds of waiting: a byte now and then never times out.
_SLOWEST_BYTES_A_SECOND = 1024
_SLOW_WINDOW_S = 60.0
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
#: Answers after which the same request may succeed soon.
_PASSING = (408, 500, 502, 503, 504)
#: Few, because what arrived of a piece is lost when the connection breaks.
_BYTES_AT_ONCE = 2**13
_CANCEL_LOOKED_AT_S = 0.1
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
#: The server had been reached when this happened.
_BROKEN_OFF = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
#: What the network can raise. OSError: also requests' own errors, and a missing CA bundle.
_NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError, ValueError)
_SIGN_IN = "Is it the sign-in page of this network? Open a web page in a browser, sign in, and try again."


class TransientError(ModelError):
    """A failure that may pass: trying again is worth it. ``connected`` tells whether the server had been reached."""

    def __init__(self, message: str, connected: bool = True) -> None:
        """Keep the message for a person, and whether the server had been reached."""
        super().__init__(message)
        self.connected = connected


class RangeRefusedError(ModelError):
    """The server does not continue the bytes that are there: they are the whole file, or belong to another one."""


@dataclass(frozen=True)
class Head:
    """What a server says before the content: where the bytes begin, and the size of the whole file (None: unknown)."""

    start: int
    total: int | None


class _NoCredentials(requests.auth.AuthBase):
    """Keeps requests from looking for a password in the user's .netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    """A session that leaves redirects alone; left to itself it would read their whole content into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def new_session() -> requests.Session:
    """Return a session that sends neither passwords nor cookies; proxies and CA bundles as requests honours them."""
    session = _Session()
    session.auth = _NoCredentials()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # identity: sizes and ranges count the bytes of the file itself.
    session.headers.update({"User-Agent": f"TransferSeg/{VERSION}", "Accept": "*/*", "Accept-Encoding": "identity"})
    return session


def read_from(
    session: requests.Session, address: str, start: int, task: Task
) -> Generator[tuple[Head, bytes], None, None]:
    """Yield the head with no bytes, then with each piece of the file from ``Head.start`` on: byte ``start``, or 0.

    Raises TransientError for what may pass, RangeRefusedError where the server does not continue at ``start``, another
    ModelError for what will not pass, Cancelled.
    """
    return _read_beside(_answer(session, address, start), host(address), task)


def host(address: str) -> str:
    """Return the server's name in an address, for messages."""
    return urlsplit(address).hostname or address


def web_page_instead(at: str) -> ModelError:
    """Return the error for a web page where the file should be; ``at`` names the server."""
    return ModelError(f"{at} answered with a web page instead of the file. {_SIGN_IN}")


def _answer(session: requests.Session, address: str, start: int) -> Generator[tuple[Head, bytes], None, None]:
    """Make the request and yield what ``read_from`` promises."""
    with _opened(session, address, {"Range": f"bytes={start}-"} if start else {}) as response:
        head = _head(response, host(response.url or address), start)
        yield head, b""
        try:
            for piece in response.iter_content(_BYTES_AT_ONCE):
                yield head, piece
        except _NETWORK_ERRORS as error:
            raise TransientError(f"The connection to {host(address)} broke off.") from error


def _opened(session: requests.Session, address: str, headers: dict[str, str]) -> requests.Response:
    """Return the answer at the end of all redirects, each of which must be HTTPS."""
    at = address
    for _ in range(_MOST_REDIRECTS + 1):
        if urlsplit(at).scheme != "https":
            raise ModelError(
                f"{host(address)} redirects to {at}, which is not HTTPS: nothing is fetched from there. {_SIGN_IN}"
            )
        try:
            response = session.get(at, headers=headers, stream=True, timeout=_TIMEOUTS_S, allow_redirects=False)
        except _NETWORK_ERRORS as error:
            _explain(error, at)
        if response.status_code not in _REDIRECTS or "Location" not in response.headers:
            return response
        response.close()
        try:
            at = urljoin(at, response.headers["Location"])
            urlsplit(at)
        except ValueError as error:
            raise ModelError(f"{host(address)} redirects to an address that is not valid. Try again later.") from error
    raise ModelError(f"{host(address)} redirects too many times. Try again later.")


def _head(response: requests.Response, at: str, start: int) -> Head:
    """Return what the answer says of its content; raises ModelError for any answer that is not the file."""
    if start and response.status_code == 416:
        raise RangeRefusedError(f"{at} has nothing after byte {start:,}.")
    if response.status_code not in (200, 206):
        _refuse(response, at)
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise web_page_instead(at)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise ModelError(f"{at} sends the file packed as '{encoding}', which was not asked for. Try another network.")
    length = _whole_number(response.headers.get("Content-Length"))
    if response.status_code == 200:
        return Head(0, length)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None or found.group(1) is None or int(found.group(1)) != start:
        raise RangeRefusedError(f"{at} sends other bytes than those asked for. Try again later.")
    total = _whole_number(found.group(2))
    return Head(start, start + length if total is None and length is not None else total)


def _refuse(response: requests.Response, at: str) -> NoReturn:
    """Raise the error for an answer that is not the file."""
    status = response.status_code
    said = f"{at} answered {status} {response.reason or ''}".rstrip()
    if status in _PASSING:
        raise TransientError(f"{said}: the server has trouble. Try again later.")
    if status == 429 or (status == 403 and "Retry-After" in response.headers):
        seconds = _whole_number(response.headers.get("Retry-After"))
        when = "later" if seconds is None else f"in {max(1, round(seconds / 60))} min"
        raise ModelError(f"{said}: too many requests came from this network. Try again {when}.")
    if status in (404, 410):
        raise ModelError(f"{said}: the file is no longer there. Is there a newer TransferSeg?")
    if status == 407:
        raise ModelError(f"{said}: the proxy wants a password. Put it into the variable HTTPS_PROXY.")
    if status in (401, 403, 451):
        raise ModelError(f"{said}: it does not hand the file out to this computer, or a proxy does not let it through.")
    raise ModelError(f"{said}, which is no usable answer. Try again later.")


def _explain(error: Exception, address: str) -> NoReturn:
    """Raise the error for a request that got no answer."""
    at, causes = host(address), list(_causes(error))
    reason = next((str(cause) for cause in reversed(causes) if str(cause)), type(error).__name__)
    if isinstance(error, requests.exceptions.ProxyError):
        message = f"The proxy for {at} cannot be used ({reason}). Check the variable HTTPS_PROXY."
    elif isinstance(error, requests.exceptions.SSLError):
        raise ModelError(
            f"{at} cannot prove who it is ({reason}). If a proxy of your institution opens connections, set "
            "REQUESTS_CA_BUNDLE to the file with its certificate."
        ) from error
    elif any(isinstance(cause, socket.gaierror) for cause in causes):
        message = f"{at} cannot be found. Is this computer connected to the internet?"
    elif isinstance(error, requests.exceptions.Timeout):
        message = f"{at} does not answer. Try again later."
    elif isinstance(error, requests.exceptions.ConnectionError):
        message = f"There is no connection to {at} ({reason}). Is this computer connected to the internet?"
    else:
        raise ModelError(f"{address} cannot be asked for ({reason}).") from error
    raise TransientError(message, connected=any(isinstance(cause, _BROKEN_OFF) for cause in causes)) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _whole_number(text: str | None) -> int | None:
    """Return a number a server sent, None for anything else."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _read_beside(
    pieces: Generator[tuple[Head, bytes], None, None], at: str, task: Task
) -> Generator[tuple[Head, bytes], None, None]:
    """Yield the same while a thread reads; a request to stop is obeyed at once and the thread left to its timeout.

    Raises ModelError when too little comes in the time that is spent waiting; ``at`` names the server.
    """
    arrivals: queue.Queue[tuple[Head, bytes] | BaseException | None] = queue.Queue(maxsize=16)
    is_over = threading.Event()

    def put(item: tuple[Head, bytes] | BaseException | None) -> None:
        while not is_over.is_set():
            try:
                return arrivals.put(item, timeout=_CANCEL_LOOKED_AT_S)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for piece in pieces:
                put(piece)
                if is_over.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again by the reader
            put(error)
        finally:
            pieces.close()

    threading.Thread(target=read, name="fetch", daemon=True).start()
    waited_s, arrived = 0.0, 0
    try:
        while True:
            task.check()
            if waited_s >= _SLOW_WINDOW_S:
                if arrived < _SLOWEST_BYTES_A_SECOND * waited_s:
                    raise ModelError(
                        f"{at} sends less than {_SLOWEST_BYTES_A_SECOND:,} bytes a second. Try again later, or on "
                        "another network."
                    )
                waited_s, arrived = 0.0, 0
            began = time.monotonic()
            try:
                item = arrivals.get(timeout=_CANCEL_LOOKED_AT_S)
            except queue.Empty:
                continue
            finally:
                waited_s += time.monotonic() - began
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            arrived += len(item[1])
            yield item
    finally:
        is_over.set()
