"""Fetching from a real server that misbehaves on purpose: what arrives is resumed and verified."""

from __future__ import annotations

from pathlib import Path

import misbehaving_server as server_module
import pytest
import requests
from fetching import ADDRESS, CONTENT, HTML, begun, download, failure, fetched, left
from misbehaving_server import Server, answers, some_content

from TransferSegLib.models.fetch import Part, fetch_file
from TransferSegLib.progress import CancelToken, Progress, Task


def test_whole_file(server: Server, part: Part) -> None:
    reports: list[Progress] = []
    file = fetch_file(download(), part, "weights", Task("", reports.append), server.session())
    assert file.read_bytes() == CONTENT
    assert left(part) == {".h5": 300_000}
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


def test_reset_connections_are_gone_on_from(server: Server, part: Part) -> None:
    server.behaviours = [server_module.resets_after(100_000)] * 2
    assert fetched(server, part) == CONTENT
    assert len(server.requests) == 3


def test_next_call_goes_on_where_the_last_one_stopped(server: Server, part: Part) -> None:
    server.behaviours = [server_module.breaks_after(150_000), *[answers(503)] * 3]
    message = failure(server, part)
    kept = left(part)[".part"]
    assert "503" in message and f"{kept / 1e6:.1f} MB of 0.3 MB are kept: fetch again to continue from there" in message
    assert len(server.requests) == 4
    assert fetched(server, part) == CONTENT
    assert server.ranges()[-1] == f"bytes={kept}-"


def test_server_that_ignores_ranges_starts_over(server: Server, part: Part) -> None:
    begun(part, 100_000)
    server.behaviours = [server_module.ignores_range]
    assert fetched(server, part) == CONTENT
    assert server.ranges() == ["bytes=100000-"]


def test_part_of_another_file_is_fetched_anew_once(server: Server, part: Part) -> None:
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
    assert left(part) == ({".part": kept} if kept else {})


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
