"""Downloads from a server that is slow, cut, wrong or hostile."""

import hashlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.downloads import transfer
from surgvivqa.downloads.transfer import Downloaded, Expected, download, lock_file
from surgvivqa.downloads.web import WebLimits
from surgvivqa.utils.errors import InputError, RunError
from tests.helpers.file_server import Answer, Server, send, serve_file, serving

CONTENT = bytes(range(256)) * 1200  # more than one block
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LIMITS = WebLimits(timeout=5, attempts=3, backoff=0.01, allow_http=True)
ANY = Expected(None, None, 10**7)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data.bin"


def fetch(server: Server, target: Path, expected: Expected = ANY, limits: WebLimits = LIMITS) -> Downloaded:
    return download(f"{server.url}/data.bin", target, expected, limits)


def waits_of(server: Server, target: Path, limits: WebLimits = LIMITS) -> tuple[list[float], Downloaded]:
    waits: list[float] = []
    result = download(f"{server.url}/data.bin", target, ANY, limits, waits.append)
    return waits, result


def begin_part(target: Path, url: str, content: bytes, **state: Any) -> None:
    """What a stopped process leaves."""
    target.with_name(f".{target.name}.part").write_bytes(content)
    known = {"url": f"{url}/data.bin", "etag": '"one"', "modified": None, "bytes": len(CONTENT)}
    target.with_name(f".{target.name}.part.json").write_text(json.dumps(known | state))


def files_beside(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()}


def test_a_file_is_downloaded_and_its_checksum_kept(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        result = fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert result == Downloaded(target, len(CONTENT), SHA256, None)
    assert target.with_name("data.bin.sha256").read_text() == f"{SHA256}  data.bin\n"
    assert files_beside(target) == {"data.bin", "data.bin.sha256"}


def test_a_file_that_is_there_is_not_downloaded_again(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        fetch(server, target)
        result = fetch(server, target)
        assert len(server.requests) == 1
    assert result.compared_with is not None and "earlier download" in result.compared_with


def test_a_file_that_has_changed_on_disk_is_an_error(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        fetch(server, target)
        target.write_bytes(CONTENT[:-1])
        with pytest.raises(RunError, match=r"damaged or another version; remove it to download it again"):
            fetch(server, target)


def test_a_later_download_is_compared_with_the_checksum_of_the_first(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        fetch(server, target)
    target.unlink()
    with (
        serving(serve_file(CONTENT[::-1])) as server,
        pytest.raises(RunError, match=r"earlier download, in .*sha256"),
    ):
        fetch(server, target)
    assert files_beside(target) == {"data.bin.sha256"}


def test_a_checksum_that_was_given_is_kept_too(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        result = fetch(server, target, Expected(None, SHA256, 10**7))
    assert result.compared_with == "the published checksum"
    assert target.with_name("data.bin.sha256").read_text().startswith(SHA256)


def test_a_wrong_checksum_is_an_error_that_leaves_no_file(target: Path) -> None:
    with (
        serving(serve_file(CONTENT)) as server,
        pytest.raises(RunError, match=f"has the SHA-256 checksum {SHA256}, not 0"),
    ):
        fetch(server, target, Expected(None, "0" * 64, 10**7))
    assert files_beside(target) == set()


def test_a_cut_connection_is_resumed_where_it_ended(target: Path) -> None:
    with serving(serve_file(CONTENT, cut_at=100_000)) as server:
        fetch(server, target)
        assert [request.get("range") for request in server.requests] == [None, "bytes=100000-"]
        assert server.requests[1]["if-range"] == '"one"'
    assert target.read_bytes() == CONTENT


def test_a_stopped_download_goes_on(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        begin_part(target, server.url, CONTENT[:70_000])
        fetch(server, target)
        assert [request.get("range") for request in server.requests] == ["bytes=70000-"]
    assert target.read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        begin_part(target, server.url, CONTENT)
        fetch(server, target)
        assert server.requests == []
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_starts_again(target: Path) -> None:
    with serving(serve_file(CONTENT, etag='"two"')) as server:
        begin_part(target, server.url, b"x" * 70_000)
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_ignores_if_range_cannot_mix_two_versions(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if handler.headers.get("Range"):
            rest = CONTENT[70_000:]
            places = f"bytes 70000-{len(CONTENT) - 1}/{len(CONTENT)}"
            send(handler, 206, rest, ETag='"two"', Content_Range=places)
        else:
            send(handler, 200, CONTENT, ETag='"two"')

    with serving(answer) as server:
        begin_part(target, server.url, b"x" * 70_000)
        fetch(server, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "places", ["bytes 0-9/10", "bytes 69999-307199/307200", "nonsense", "bytes 70000-80000/307200"]
)
def test_a_wrong_range_starts_again(places: str, target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if handler.headers.get("Range"):
            send(handler, 206, CONTENT[70_000:], ETag='"one"', Content_Range=places)
        else:
            send(handler, 200, CONTENT, ETag='"one"')

    with serving(answer) as server:
        begin_part(target, server.url, CONTENT[:70_000])
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file_again(target: Path) -> None:
    with serving(lambda handler, number: send(handler, 200, CONTENT, ETag='"one"')) as server:
        begin_part(target, server.url, CONTENT[:70_000])
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_without_etag_date_and_checksum_nothing_is_resumed(target: Path) -> None:
    with serving(lambda handler, number: send(handler, 200, CONTENT)) as server:
        begin_part(target, server.url, CONTENT[:70_000], etag=None)
        fetch(server, target)
        assert "range" not in server.requests[0]


def test_with_a_checksum_a_part_is_resumed_without_etag(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        places = f"bytes 70000-{len(CONTENT) - 1}/{len(CONTENT)}"
        send(handler, 206, CONTENT[70_000:], Content_Range=places)

    with serving(answer) as server:
        begin_part(target, server.url, CONTENT[:70_000], etag=None)
        fetch(server, target, Expected(None, SHA256, 10**7))
        assert len(server.requests) == 1 and "if-range" not in server.requests[0]
    assert target.read_bytes() == CONTENT


def test_a_weak_etag_is_not_compared_but_the_date_is(target: Path) -> None:
    date = "Mon, 20 Feb 2023 13:09:26 GMT"
    with serving(lambda handler, number: send(handler, 200, CONTENT)) as server:
        begin_part(target, server.url, CONTENT[:70_000], etag='W/"one"', modified=date)
        fetch(server, target)
        assert server.requests[0]["if-range"] == date


def test_a_part_of_another_address_is_not_used(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        begin_part(target, "http://127.0.0.1:1", b"x" * 70_000)
        fetch(server, target)
        assert "range" not in server.requests[0]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_a_link_is_not_written_through(target: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with serving(serve_file(CONTENT)) as server:
        begin_part(target, server.url, b"")
        part = target.with_name(".data.bin.part")
        part.unlink()
        part.symlink_to(precious)
        fetch(server, target)
    assert precious.read_text() == "mine" and target.read_bytes() == CONTENT


def test_a_damaged_part_is_downloaded_again_once(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        begin_part(target, server.url, b"x" * 70_000)
        fetch(server, target, Expected(len(CONTENT), SHA256, 10**7))
        assert len(server.requests) == 2
    assert target.read_bytes() == CONTENT


def test_more_bytes_on_disk_than_on_the_server_start_again(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        begin_part(target, server.url, b"x" * (len(CONTENT) + 5), bytes=None)
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_connection_that_is_always_cut_fails_and_keeps_what_came(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        more = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
        length = str(len(CONTENT) - start)
        send(handler, 206 if start else 200, CONTENT[start : start + 10], ETag='"one"', Content_Length=length, **more)

    with serving(answer) as server, pytest.raises(RunError, match=r"in 3 attempts .*30 bytes are kept.* --mirror"):
        fetch(server, target)
    assert target.with_name(".data.bin.part").read_bytes() == CONTENT[:30]


def test_a_silent_server_is_given_up(target: Path) -> None:
    release = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        release.wait(5)

    limits = WebLimits(timeout=0.1, attempts=2, backoff=0.01, allow_http=True)
    with serving(answer) as server, pytest.raises(RunError, match=r"in 2 attempts .*no byte came for too long"):
        fetch(server, target, limits=limits)
    release.set()


def test_a_slow_server_is_waited_for(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "8")
        handler.end_headers()
        for byte in b"slowfile":
            time.sleep(0.05)
            handler.wfile.write(bytes([byte]))

    with serving(answer) as server:  # it takes longer in all than the time limit of a single byte
        fetch(server, target, limits=WebLimits(timeout=0.3, attempts=1, allow_http=True))
    assert target.read_bytes() == b"slowfile"


@pytest.mark.parametrize("name", ["Content_Length", "Content_Range"])
def test_a_number_that_is_too_long_counts_as_none(name: str, target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        digits = "9" * 5000
        if name == "Content_Length":
            send(handler, 200, CONTENT, Content_Length=digits)
        elif number == 1:
            send(handler, 206, CONTENT, Content_Range=f"bytes 0-{digits}/{digits}")
        else:
            send(handler, 200, CONTENT)

    with serving(answer) as server:
        assert fetch(server, target).bytes == len(CONTENT)


def test_an_endless_answer_is_cut_off(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    with (
        serving(answer) as server,
        pytest.raises(RunError, match=r"sends more than 1\.0 MB, the most that data"),
    ):
        fetch(server, target, Expected(None, None, 1_000_000))
    assert files_beside(target) == set()


@pytest.mark.parametrize(
    ("expected", "sentence"),
    [
        (Expected(5, None, 10**7), r"has 307,200 bytes instead of the 5 published, so it is another file"),
        (Expected(None, None, 1000), r"has 307 kB, more than the 1\.0 kB that the table allows"),
    ],
)
def test_an_announced_size_is_checked_before_the_first_byte(expected: Expected, sentence: str, target: Path) -> None:
    with serving(serve_file(CONTENT)) as server, pytest.raises(RunError, match=sentence):
        fetch(server, target, expected)
    assert files_beside(target) == set()


def test_an_announced_size_that_does_not_fit_the_disk_is_refused(target: Path) -> None:
    huge = str(10**17)
    with (
        serving(lambda handler, number: send(handler, 200, b"x", Content_Length=huge)) as server,
        pytest.raises(RunError, match=r"needs 100000\.0 TB, but the disk of .* free; make room"),
    ):
        fetch(server, target, Expected(None, None, 10**18))


def test_a_chunked_answer_without_length_is_read_to_its_end(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nabcde\r\n" + (b"0\r\n\r\n" if number > 1 else b""))

    with serving(answer) as server:  # the first answer ends before its last chunk
        fetch(server, target)
        assert len(server.requests) == 2
    assert target.read_bytes() == b"abcde"


def test_a_compressed_answer_is_refused(target: Path) -> None:
    with (
        serving(serve_file(CONTENT, Content_Encoding="gzip")) as server,
        pytest.raises(RunError, match="encoding gzip, which was not asked for"),
    ):
        fetch(server, target)


@pytest.mark.parametrize(("status", "wait"), [(429, "3"), (503, "3"), (500, None)])
def test_a_busy_server_is_asked_again_when_it_says(status: int, wait: str | None, target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            send(handler, status, b"busy", **({"Retry_After": wait} if wait else {}))
        else:
            send(handler, 200, CONTENT)

    with serving(answer) as server:
        waits, _ = waits_of(server, target)
    assert waits == [3.0 if wait else 0.01]


def test_waits_grow_and_are_bounded() -> None:
    limits = WebLimits(backoff=1)
    assert [limits.wait(n) for n in (1, 2, 3, 8)] == [1, 2, 4, 60]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "refuses the download"),
        (404, "has no such file"),
        (410, "no longer has the file"),
        (401, "asks for a login"),
    ],
)
def test_a_refusal_is_not_repeated(status: int, sentence: str, target: Path) -> None:
    with serving(lambda handler, number: send(handler, status)) as server:
        with pytest.raises(RunError, match=rf"{sentence} \(status {status}\).*--mirror"):
            fetch(server, target)
        assert len(server.requests) == 1


def test_no_server_is_tried_again_and_then_an_error(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        url = server.url
    with pytest.raises(RunError, match="could not be downloaded in 3 attempts"):
        download(f"{url}/data.bin", target, ANY, LIMITS)


def test_a_redirect_is_followed(target: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if handler.path == "/data.bin":
            send(handler, 302, Location="/there")
        else:
            send(handler, 200, CONTENT)

    with serving(answer) as server:
        fetch(server, target)
    assert target.read_bytes() == CONTENT


def redirect_to(place: str) -> Answer:
    return lambda handler, number: send(handler, 302, Location=place.format(number=number))


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("/data.bin", "redirects more than 5 times, in a circle"),
        ("/{number}", "redirects more than 5 times, in a circle"),
        ("ftp://127.0.0.1/x", "is not an https address"),
        ("file:///etc/passwd", "or to another kind of address"),
        ("https://drive.google.com/file/d/x/view", "is on Google Drive.*download the file in a browser"),
    ],
)
def test_bad_redirects_are_refused(place: str, sentence: str, target: Path) -> None:
    with serving(redirect_to(place)) as server, pytest.raises(RunError, match=sentence):
        fetch(server, target)


def test_plain_http_is_only_for_mirrors(target: Path) -> None:
    with serving(serve_file(CONTENT)) as server:
        with pytest.raises(RunError, match=r"is not an https address, .* --mirror"):
            fetch(server, target, limits=WebLimits())
        assert server.requests == []


def test_a_web_page_is_no_archive(tmp_path: Path) -> None:
    target = tmp_path / "data.zip"
    with (
        serving(lambda handler, number: send(handler, 200, b"<!DOCTYPE html><html>Confirm</html>")) as server,
        pytest.raises(RunError, match=r"is a web page, not data\.zip.*--mirror NAME=FILE"),
    ):
        fetch(server, target)
    assert files_beside(target) == set()


def test_a_pointer_of_git_lfs_is_no_archive(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    with (
        serving(lambda handler, number: send(handler, 200, pointer)) as server,
        pytest.raises(RunError, match="is a Git LFS pointer"),
    ):
        fetch(server, tmp_path / "data.zip")


def test_two_processes_do_not_write_one_file(target: Path) -> None:
    with lock_file(target):
        results: list[str] = []

        def try_it() -> None:
            try:
                with lock_file(target):
                    results.append("locked")
            except RunError as error:
                results.append(str(error))

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert "Another process is working on" in results[0]
    with lock_file(target):
        pass


def test_a_full_disk_is_a_sentence_and_keeps_the_part(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def __enter__(self) -> "FullDisk":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, block: bytes) -> int:
            raise OSError(28, os.strerror(28))

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *a, **k: FullDisk() if mode == "ab" else real(self, mode, *a, **k)
    )
    with serving(serve_file(CONTENT)) as server, pytest.raises(RunError, match=r"No space left.*make room, and run"):
        fetch(server, target)


def test_a_damaged_checksum_file_is_not_ignored(target: Path) -> None:
    target.with_name("data.bin.sha256").write_text("what?")
    with (
        serving(serve_file(CONTENT)) as server,
        pytest.raises(InputError, match="does not begin with a SHA-256"),
    ):
        fetch(server, target)


def test_a_disk_with_little_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_RESERVE", 10**18)
    with pytest.raises(RunError, match="free; make room"):
        transfer.check_space(tmp_path, 0, "It")


def test_the_proxy_of_the_environment_is_used(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(serve_file(CONTENT)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        download("http://data.example/data.bin", target, ANY, LIMITS)
        assert proxy.requests[0]["path"] == "http://data.example/data.bin"
