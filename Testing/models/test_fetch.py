"""Fetching from a real server that misbehaves on purpose: resumed, verified, and one clear line when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))
import misbehaving_server as server_module  # noqa: E402
from misbehaving_server import Server, answers, some_content  # noqa: E402

from TransferSegLib.errors import Cancelled, ModelError  # noqa: E402
from TransferSegLib.models import fetch, http_source  # noqa: E402
from TransferSegLib.models.catalogue import Download  # noqa: E402
from TransferSegLib.models.fetch import Part, alone, fetch_file  # noqa: E402
from TransferSegLib.models.http_source import new_session  # noqa: E402
from TransferSegLib.progress import CancelToken, Progress  # noqa: E402

CONTENT = some_content(300_000)
ADDRESS = "https://models.example/raw/weights.h5"
QUICK = (0.0, 0.0, 0.0)
HTML = b"<!DOCTYPE html><title>Guest network</title>"


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(CONTENT)
    yield running
    running.close()


def blob_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def download(address: str = ADDRESS, content: bytes = CONTENT, exact: bool = False) -> Download:
    return Download("keras", address, blob_of(content), 290_000, len(content) if exact else None)


@pytest.fixture
def part(tmp_path: Path) -> Part:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Part(folder, download())


def fetched(server: Server, part: Part, exact: bool = False, cancel: CancelToken | None = None) -> bytes:
    """Fetch and return the content; the file must be all there is in the folder."""
    file = fetch_file(download(exact=exact), part, "weights", None, cancel, server.session(), QUICK)
    assert file == part.complete and file.suffix == ".h5"
    return file.read_bytes()


def failure(server: Server, part: Part, exact: bool = False) -> str:
    """Return the one line with which fetching fails."""
    with pytest.raises(ModelError) as caught:
        fetch_file(download(exact=exact), part, "weights", None, None, server.session(), QUICK)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(part: Part) -> dict[str, int]:
    """Return what lies in the folder, endings and sizes."""
    return {file.suffix: file.stat().st_size for file in part.path.parent.iterdir()}


def begun(part: Part, count: int, content: bytes = CONTENT, etag: str | None = '"version-1"') -> None:
    """Make a part as an earlier try left it."""
    part.begin(etag)
    part.path.write_bytes(content[:count])


def test_whole_file(server: Server, part: Part) -> None:
    reports: list[Progress] = []
    file = fetch_file(download(), part, "weights", reports.append, None, server.session())
    assert file.read_bytes() == CONTENT
    assert left(part) == {".h5": 300_000, ".etag": 11}
    assert reports[-1].stage == "Fetching weights" and reports[-1].fraction == 1.0
    assert reports[-1].message == "0.3 MB of 0.3 MB" and reports[-1].seconds_left == 0.0
    ((path, headers),) = server.requests
    assert path == "/raw/weights.h5" and "Range" not in headers
    part.discard()
    assert left(part) == {}


def test_complete_file_that_was_left_is_used_without_a_connection(server: Server, part: Part) -> None:
    part.complete.write_bytes(CONTENT)
    assert fetched(server, part) == CONTENT and server.requests == []
    part.complete.write_bytes(CONTENT[:-1] + b"x")
    assert fetched(server, part) == CONTENT and len(server.requests) == 1


def test_neither_passwords_nor_cookies_are_sent(
    server: Server, part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "netrc"
    secrets.write_text("machine models.example login me password secret\ndefault login me password secret\n")
    monkeypatch.setenv("NETRC", str(secrets))
    assert requests.utils.get_netrc_auth(ADDRESS) == ("me", "secret")
    server.behaviours = [answers(302, Location="/elsewhere", Set_Cookie="who=you; Path=/")]
    assert fetched(server, part) == CONTENT
    assert [path for path, _ in server.requests] == ["/raw/weights.h5", "/elsewhere"]
    for _, headers in server.requests:
        assert {name.lower() for name in headers} <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert headers["Accept-Encoding"] == "identity"
        assert "secret" not in str(headers)


@pytest.mark.parametrize("cancel", [None, CancelToken()], ids=["plain", "cancellable"])
def test_breaks_are_gone_on_from(server: Server, part: Part, cancel: CancelToken | None) -> None:
    server.behaviours = [server_module.breaks_after(100_000), server_module.breaks_after(100_000)]
    assert fetched(server, part, cancel=cancel) == CONTENT
    first, *others = server.ranges()
    assert first is None and len(others) == 2 and all(others)
    starts = [int(str(range).removeprefix("bytes=").removesuffix("-")) for range in others]
    assert 0 < starts[0] <= 100_000 and starts[0] < starts[1] <= 200_000
    assert all(headers["If-Range"] == '"version-1"' for _, headers in server.requests[1:])


def test_reset_connections_are_gone_on_from(server: Server, part: Part) -> None:
    server.behaviours = [server_module.resets_after(100_000)] * 2
    assert fetched(server, part) == CONTENT
    assert len(server.requests) == 3


def test_next_call_goes_on_where_the_last_one_stopped(server: Server, part: Part) -> None:
    server.behaviours = [server_module.breaks_after(150_000), *[answers(503)] * 3]
    message = failure(server, part)
    kept = left(part)[".part"]
    assert "503" in message and f"{kept / 1e6:.1f} MB of 0.3 MB are kept: fetch again to go on from there" in message
    assert len(server.requests) == 4
    assert fetched(server, part) == CONTENT
    assert server.ranges()[-1] == f"bytes={kept}-"


@pytest.mark.parametrize("etag", [None, 'W/"weak"', '"version-2"'])
def test_if_range_only_with_a_strong_etag(server: Server, part: Part, etag: str | None) -> None:
    server.etag = etag
    server.behaviours = [server_module.breaks_after(100_000)]
    assert fetched(server, part) == CONTENT
    assert server.requests[1][1].get("If-Range") == (etag if etag == '"version-2"' else None)


def test_etag_that_was_tampered_with_is_not_sent(server: Server, part: Part) -> None:
    begun(part, 1000, etag='"a"\r\nAuthorization: x')
    assert part.validator is None
    assert fetched(server, part) == CONTENT
    assert "If-Range" not in server.requests[0][1] and server.ranges() == ["bytes=1000-"]


def test_server_that_ignores_ranges_starts_over(server: Server, part: Part) -> None:
    begun(part, 100_000)
    server.behaviours = [server_module.ignores_range]
    assert fetched(server, part) == CONTENT
    assert server.ranges() == ["bytes=100000-"]


def test_file_that_changed_on_the_server_starts_over(server: Server, part: Part) -> None:
    begun(part, 100_000, some_content(300_000, seed=2), '"version-0"')
    assert fetched(server, part) == CONTENT
    assert server.ranges() == ["bytes=100000-"]


def test_wrong_part_is_fetched_anew_once(server: Server, part: Part) -> None:
    begun(part, 100_000, some_content(300_000, seed=2))
    assert fetched(server, part) == CONTENT
    assert server.ranges() == ["bytes=100000-", None]


@pytest.mark.parametrize("count", [300_000, 300_500])
def test_part_that_is_already_complete_or_too_long(server: Server, part: Part, count: int) -> None:
    begun(part, count, CONTENT + b"more" * 200)
    assert fetched(server, part) == CONTENT
    assert server.ranges() == [f"bytes={count}-"] + ([None] if count > 300_000 else [])


@pytest.mark.parametrize("said", ["bytes 0-299999/300000", "bytes 5-299999/300000", "pages 1-2", ""])
def test_other_bytes_than_asked_for_are_not_appended(server: Server, part: Part, said: str) -> None:
    begun(part, 100_000)
    server.behaviours = [answers(206, CONTENT, Content_Range=said)]
    assert fetched(server, part) == CONTENT
    assert server.ranges() == ["bytes=100000-", None]


def test_server_that_always_sends_other_bytes(server: Server, part: Part) -> None:
    server.behaviours = [answers(206, CONTENT, Content_Range="bytes 7-299999/300000")]
    assert "other bytes than those asked for" in failure(server, part)
    assert left(part) == {}


def test_range_without_the_total(server: Server, part: Part) -> None:
    begun(part, 100_000)
    server.behaviours = [answers(206, CONTENT[100_000:], Content_Range="bytes 100000-299999/*")]
    assert fetched(server, part) == CONTENT


def test_without_length(server: Server, part: Part) -> None:
    server.behaviours = [server_module.without_length]
    assert fetched(server, part) == CONTENT


@pytest.mark.parametrize("exact", [False, True])
def test_end_that_comes_early(server: Server, part: Part, exact: bool) -> None:
    """Without a length the server's word is all there is, unless the catalogue knows the size."""
    server.behaviours = [server_module.ends_early]
    if exact:
        assert fetched(server, part, exact=True) == CONTENT
        assert server.ranges() == [None, "bytes=150000-"]
    else:
        assert "its checksum differs" in failure(server, part)
        assert left(part) == {}


@pytest.mark.parametrize("exact", [False, True])
def test_more_than_the_file_can_have(server: Server, part: Part, exact: bool) -> None:
    server.behaviours = [server_module.endless]
    assert "sends more than the file can have" in failure(server, part, exact)
    assert left(part) == {}


@pytest.mark.parametrize(("size", "exact"), [(580_001, False), (299_999, True), (10**15, False)])
def test_length_that_cannot_be(server: Server, part: Part, size: int, exact: bool) -> None:
    begun(part, 0)
    server.behaviours = [answers(200, Content_Length=size, Connection="close")]
    assert f"offers a file of {size:,} bytes, which is not the one" in failure(server, part, exact)
    assert left(part)[".part"] == 0


def test_wrong_content_is_deleted(server: Server, part: Part) -> None:
    server.content = some_content(300_000, seed=3)
    message = failure(server, part)
    assert "models.example" in message and "checksum differs" in message and "deleted" in message
    assert left(part) == {} and len(server.requests) == 1


@pytest.mark.parametrize("kept", [0, 100_000])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_sign_in_page_instead_of_the_file(server: Server, part: Part, kind: str, kept: int) -> None:
    if kept:
        begun(part, kept)
    server.behaviours = [answers(200, HTML, Content_Type=kind)]
    assert "a web page instead of the file. Is it the sign-in page of this network?" in failure(server, part)
    assert left(part) == ({".part": kept, ".etag": 11} if kept else {})


@pytest.mark.parametrize("body", [b"version https://git-lfs.github.com/spec/v1", b"x"])
def test_something_else_instead_of_the_file(server: Server, part: Part, body: bytes) -> None:
    server.behaviours = [answers(200, body)]
    assert "something else than the file" in failure(server, part)
    assert left(part) == {}


def test_empty_answer(server: Server, part: Part) -> None:
    server.behaviours = [answers(200)]
    assert "checksum differs" in failure(server, part)
    assert left(part) == {}


def test_packed_answer(server: Server, part: Part) -> None:
    server.behaviours = [server_module.says(Content_Encoding="gzip")]
    assert "packed as 'gzip'" in failure(server, part)
    assert left(part) == {}


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
        (418, {}, "no answer to build on"),
        (304, {}, "no answer to build on"),
        (302, {}, "no answer to build on"),
        (416, {}, "no answer to build on"),
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
    assert "an address that is none" in failure(server, part)
    server.behaviours = [answers(302, Location="/again")] * 9
    assert "without end" in failure(server, part)
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
            fetch_file(download(address), part, "weights", None, None, session, QUICK)
    assert left(part) == {}


def test_name_that_is_not_known_is_told_apart(part: Part) -> None:
    session = new_session()
    session.trust_env = False
    with pytest.raises(ModelError, match=r"^no-such-host\.invalid cannot be found\. Is this computer connected"):
        fetch_file(download("https://no-such-host.invalid/a.h5"), part, "weights", None, None, session, QUICK)


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
        fetch_file(download(), part, "weights", None, token, server.session(), (60.0,))
    if part.size:
        assert "are kept: fetch again to go on" in str(caught.value)
        server.behaviours = []
        size = part.size
        assert fetched(server, part) == CONTENT
        assert server.ranges()[-1] == f"bytes={size}-"


def test_cancel_during_a_pause(server: Server, part: Part) -> None:
    token = CancelToken()
    server.behaviours = [answers(503)]
    threading.Timer(0.2, token.cancel).start()
    with pytest.raises(Cancelled):
        fetch_file(download(), part, "weights", None, token, server.session(), (3600.0,))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_that_fills_up(server: Server, part: Part, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fetch.os, "fsync", full)
    message = failure(server, part)
    assert ("The disk is full" if number != errno.EIO else "cannot be written to") in message
    assert "are kept" in message and str(part.path.parent) in message
    monkeypatch.undo()
    assert fetched(server, part) == CONTENT


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from misbehaving_server import session_to
from TransferSegLib.errors import ModelError
from TransferSegLib.models.catalogue import Download
from TransferSegLib.models.fetch import Part, fetch_file
download = Download("keras", "https://models.example/a.h5", sys.argv[4], 290000)
resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
try:
    fetch_file(download, Part(Path(sys.argv[3]), download), "weights", session=session_to(int(sys.argv[2])))
except ModelError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="the limit on a file's size is a POSIX one")
def test_write_that_the_system_refuses(server: Server, part: Part) -> None:
    """The kernel itself refuses the bytes after the 200,000th."""
    words = [TESTING, server.port, part.path.parent, download().git_blob]
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert "cannot be written to" in done.stdout and "0.2 MB of 0.3 MB are kept" in done.stdout, done.stderr
    assert left(part)[".part"] == 200_000 and part.path.read_bytes() == CONTENT[:200_000]
    assert fetched(server, part) == CONTENT
    assert server.ranges()[-1] == "bytes=200000-"


def test_too_little_room_is_said_before(server: Server, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(part, 100_000)
    usage = type(shutil.disk_usage(part.path.parent))
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 489_999, 489_999))
    assert "weights needs 0.5 MB" in failure(server, part)
    assert left(part)[".part"] == 100_000
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 490_000, 490_000))
    assert fetched(server, part) == CONTENT


FETCH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from misbehaving_server import session_to
from TransferSegLib.models.catalogue import Download
from TransferSegLib.models.fetch import Part, alone, fetch_file
download = Download("keras", "https://models.example/a.h5", sys.argv[4], 290000)
part = Part(Path(sys.argv[3]), download)
with alone(part, "weights", lambda report: print(report.message, flush=True)):
    file = fetch_file(download, part, "weights", session=session_to(int(sys.argv[2])))
    print(file.stat().st_size)
"""


def start(server: Server, part: Part) -> subprocess.Popen[str]:
    words = [TESTING, server.port, part.path.parent, download().git_blob]
    return subprocess.Popen([sys.executable, "-c", FETCH, *map(str, words)], stdout=subprocess.PIPE, text=True)


def test_killed_process_leaves_a_part_to_go_on_with(server: Server, part: Part) -> None:
    server.behaviours = [server_module.slowly(20_000, 0.05)]
    with start(server, part) as process:
        deadline = time.monotonic() + 60
        while part.size < 60_000:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait(30)
    size = part.size
    assert set(left(part)) == {".part", ".etag", ".lock"} and 60_000 <= size < 300_000
    assert part.path.read_bytes() == CONTENT[:size]
    with alone(part, "weights"):
        assert fetched(server, part) == CONTENT
    assert server.ranges() == [None, f"bytes={size}-"]


def test_second_process_waits_and_finds_the_file(server: Server, part: Part) -> None:
    server.behaviours = [server_module.pauses_after(100_000)]
    first = start(server, part)
    deadline = time.monotonic() + 60
    while part.size == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = start(server, part)
    assert second.stdout is not None
    assert second.stdout.readline() == "another program is fetching weights\n"
    server.released.set()
    assert [process.communicate(timeout=60)[0] for process in (first, second)] == ["300000\n", "300000\n"]
    assert len(server.requests) == 1


def test_waiting_for_another_process_can_be_cancelled(part: Part) -> None:
    token = CancelToken()
    threading.Timer(0.2, token.cancel).start()
    with alone(part, "weights"), pytest.raises(Cancelled), alone(part, "weights", None, token):
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ModelError, match=r"cannot be made.*Choose another library folder"),
        alone(Part(tmp_path / "file" / "downloads", download()), "weights"),
    ):
        pass


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
