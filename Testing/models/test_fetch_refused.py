"""Fetching that fails: refusals, broken networks, certificates, and cancelling, in one clear line."""

from __future__ import annotations

import ssl
import subprocess
import threading
from pathlib import Path

import misbehaving_server as server_module
import pytest
from fetching import CONTENT, QUICK, download, failure, fetched, left
from misbehaving_server import Server, answers

from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.models import http_source
from TransferSegLib.models.fetch import Part, fetch_file
from TransferSegLib.models.http_source import new_session
from TransferSegLib.progress import CancelToken, Task


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (404, {}, "answered 404 Not Found: the file is no longer there"),
        (410, {}, "no longer there"),
        (401, {}, "does not hand the file out"),
        (403, {}, "a proxy does not let it through"),
        (403, {"Retry-After": "240"}, "too many requests came from this network. Try again in 4 min."),
        (429, {}, "Try again later."),
        (407, {}, "the proxy wants a password"),
        (418, {}, "no usable answer"),
        (304, {}, "no usable answer"),
        (302, {}, "no usable answer"),
        (416, {}, "no usable answer"),
    ],
)
def test_refusals_are_final(server: Server, part: Part, status: int, headers: dict[str, str], words: str) -> None:
    server.behaviours = [answers(status, b"", **headers)]
    message = failure(server, part)
    assert words in message and "models.example" in message
    assert len(server.requests) == 1 and left(part) == {}


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_trouble_of_the_server_passes_or_not(server: Server, part: Part, status: int) -> None:
    server.behaviours = [answers(status)] * 4
    assert "has trouble" in failure(server, part)
    assert len(server.requests) == 4 and left(part) == {}
    server.behaviours = [answers(status)] * 3
    assert fetched(server, part) == CONTENT


def test_connection_that_breaks_without_an_answer_is_tried_again(server: Server, part: Part) -> None:
    server.behaviours = [server_module.hangs_up]
    assert fetched(server, part) == CONTENT
    assert len(server.requests) == 2


def test_breaks_that_gain_nothing_come_to_an_end(server: Server, part: Part) -> None:
    """A server that ignores ranges and breaks at the same place would otherwise be asked for ever."""

    def behave(request: server_module.Request) -> None:
        request.content_head(0)
        request.wfile.write(CONTENT[:100_000])
        request.drop()

    server.behaviours = [behave] * 20
    assert "broke off" in failure(server, part)
    assert len(server.requests) <= 9


def test_redirects_stay_https(server: Server, part: Part) -> None:
    server.behaviours = [answers(302, Location="https://media.example/a.h5"), answers(307, Location="../b.h5")]
    assert fetched(server, part) == CONTENT
    assert [path for path, _ in server.requests] == ["/raw/weights.h5", "/a.h5", "/b.h5"]
    part.discard()
    for elsewhere in ("http://models.example/raw/weights.h5", "ftp://models.example/a", "file:///etc/passwd"):
        server.behaviours = [answers(302, Location=elsewhere)]
        assert "which is not HTTPS: nothing is fetched from there" in failure(server, part)
    server.behaviours = [answers(302, Location="https://[")]
    assert "not valid" in failure(server, part)
    server.behaviours = [answers(302, Location="/again")] * 9
    assert "too many times" in failure(server, part)
    assert left(part) == {}


def test_no_connection(part: Part) -> None:
    """A port of the loopback address on which nobody listens; the product's own session, by HTTPS."""
    server = Server(b"")
    port = server.port
    server.close()
    for session, address in (
        (new_session(), f"https://127.0.0.1:{port}/a.h5"),
        (new_session(), "https://no-such-host.invalid/a.h5"),
    ):
        session.trust_env = False
        with pytest.raises(ModelError, match="Is this computer connected to the internet"):
            fetch_file(download(address), part, "weights", None, session, QUICK)
    assert left(part) == {}


def test_name_that_is_not_known_is_told_apart(part: Part) -> None:
    session = new_session()
    session.trust_env = False
    with pytest.raises(ModelError, match=r"^no-such-host\.invalid cannot be found\. Is this computer connected"):
        fetch_file(download("https://no-such-host.invalid/a.h5"), part, "weights", None, session, QUICK)


def test_proxies_are_honoured_and_named_when_they_fail(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server(b"")
    server.close()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
    with pytest.raises(ModelError, match=r"The proxy for models\.example cannot be used .*HTTPS_PROXY"):
        fetch_file(download(), part, "weights", pauses_s=QUICK)


def test_ca_bundle_that_is_not_there(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(part.path.parent / "nowhere.pem"))
    with pytest.raises(ModelError, match=r"cannot be asked for .*nowhere\.pem"):
        fetch_file(download(), part, "weights", pauses_s=QUICK)


def test_stalled_server_times_out_and_is_gone_on_from(
    server: Server, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_source, "_TIMEOUTS_S", (5.0, 0.2))
    server.behaviours = [server_module.stalls_after(100_000)]
    assert fetched(server, part) == CONTENT
    assert len(server.requests) == 2 and server.ranges()[1] is not None


@pytest.mark.parametrize("behaviour", [server_module.stalls_after(100_000), server_module.late(3.0)])
def test_cancel_does_not_wait_for_the_server(server: Server, part: Part, behaviour: server_module.Behaviour) -> None:
    token = CancelToken()
    server.behaviours = [behaviour]
    timer = threading.Timer(0.3, token.cancel)
    timer.start()
    with pytest.raises(Cancelled, match=r"^Stopped on request\.") as caught:
        fetch_file(download(), part, "weights", Task("", None, token), server.session(), (60.0,))
    if part.size:
        assert "are kept: fetch again to continue" in str(caught.value)
        server.behaviours = []
        size = part.size
        assert fetched(server, part) == CONTENT
        assert server.ranges()[-1] == f"bytes={size}-"


def test_cancel_during_a_pause(server: Server, part: Part) -> None:
    token = CancelToken()
    server.behaviours = [answers(503)]
    threading.Timer(0.2, token.cancel).start()
    with pytest.raises(Cancelled):
        fetch_file(download(), part, "weights", Task("", None, token), server.session(), (3600.0,))


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a new self-signed certificate for the loopback address and its key."""
    files = folder / "certificate.pem", folder / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    try:
        command = ["openssl", *words.split(), "-out", str(files[0]), "-keyout", str(files[1])]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("openssl is needed to make a certificate")
    return files


def test_https_and_certificates(server: Server, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's own session over real TLS: a stranger's certificate is refused, a trusted one is not."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    chain, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    wanted = download(f"https://127.0.0.1:{server.port}/a.h5")
    with pytest.raises(ModelError, match=r"^127\.0\.0\.1 cannot prove who it is \(.*REQUESTS_CA_BUNDLE"):
        fetch_file(wanted, part, "weights", pauses_s=QUICK)
    assert server.requests == [] and left(part) == {}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(chain))
    assert fetch_file(wanted, part, "weights", pauses_s=QUICK).read_bytes() == CONTENT
    assert len(server.requests) == 1


def slow_head(request: server_module.Request) -> None:
    """Begin an answer and never come to the end of its head."""
    for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000:
        request.wfile.write(bytes([byte]))
        if request.served.released.wait(0.02):
            return


@pytest.mark.parametrize("behaviour", [server_module.slowly(1, 0.02), slow_head], ids=["content", "head"])
@pytest.mark.parametrize("cancel", [None, CancelToken()], ids=["not to be stopped", "to be stopped"])
def test_a_byte_now_and_then_is_given_up(
    server: Server, part: Part, monkeypatch: pytest.MonkeyPatch, behaviour: server_module.Behaviour, cancel: CancelToken
) -> None:
    """No single wait is long enough for a timeout."""
    monkeypatch.setattr(http_source, "_SLOW_WINDOW_S", 0.5)
    server.behaviours = [behaviour]
    with pytest.raises(ModelError, match=r"models\.example sends less than 1,024 bytes a second"):
        fetch_file(download(), part, "weights", Task("", None, cancel), session=server.session(), pauses_s=QUICK)
    assert len(server.requests) <= 1
    server.released.set()


def test_a_slow_but_steady_connection_is_waited_for(
    server: Server, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_source, "_SLOW_WINDOW_S", 0.2)
    server.behaviours = [server_module.slowly(20_000, 0.05)]
    assert fetched(server, part) == CONTENT
