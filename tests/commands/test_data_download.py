"""``surgvivqa data list`` and ``data download`` as users run them, against local places."""

import datetime
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.downloads import install as install_module
from surgvivqa.downloads.sources import find_source, load_sources
from tests.helpers.file_server import send, serve_file, serving

Capture = pytest.CaptureFixture[str]
FAST = ["--timeout=5", "--attempts=2", "--retry-wait=0.01"]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder with archives like the real ones."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with zipfile.ZipFile(folder / "ssg-qa.zip", "w") as archive:
        archive.writestr("ssg-qa/VID01/1.txt", "a?|liver\n")
        archive.writestr("ssg-qa/VID02/2.txt", "b?|hook\n")
        archive.writestr("README.md", "beside")
    with zipfile.ZipFile(folder / "CholecT50-Challenge-Validation.zip", "w") as archive:
        archive.writestr("cholect50-challenge-val/videos/VID68/000016.png", "picture")
        archive.writestr("cholect50-challenge-val/labels/VID68.json", "{}")
        archive.writestr("cholect50-challenge-val/README.md", "about")
    return folder


def download(*arguments: str | Path, accept: bool = True) -> int:
    words = ["data", "download", *map(str, arguments), *FAST]
    return main([*words, "--accept-licence"] if accept else words)


def test_a_set_is_unpacked_where_its_flags_say(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    assert download("ssg-qa", "--to", tmp_path / "to here", "--mirror", mirror) == 0
    folder = tmp_path / "to here" / "ssg-qa"
    assert sorted(p.name for p in folder.iterdir()) == ["SOURCE.json", "VID01", "VID02"]
    assert (folder / "VID01" / "1.txt").read_text() == "a?|liver\n"
    out = capsys.readouterr().out
    assert "licence: CC BY-NC-SA 4.0" in out and "not verified: no size and checksum" in out
    assert f"use it with --ssgvqa-root '{folder}'" in out


def test_origin_licence_and_checksum_are_recorded(mirror: Path, tmp_path: Path) -> None:
    download("ssg-qa", "--to", tmp_path / "to", "--mirror", f"ssg-qa={mirror / 'ssg-qa.zip'}")
    record = json.loads((tmp_path / "to" / "ssg-qa" / "SOURCE.json").read_text())
    assert record["licence"] == "CC BY-NC-SA 4.0" and record["accepted"] == "--accept-licence"
    (file,) = record["files"]
    assert file["sha256"] == hashlib.sha256((mirror / "ssg-qa.zip").read_bytes()).hexdigest()
    assert file["from"] == str(mirror / "ssg-qa.zip") and file["compared_with"] is None
    assert datetime.datetime.fromisoformat(record["date"]).tzinfo is not None


def test_from_the_web_the_archive_is_removed_or_kept(mirror: Path, tmp_path: Path) -> None:
    with serving(serve_file((mirror / "ssg-qa.zip").read_bytes())) as server:
        assert download("ssg-qa", "--to", tmp_path / "a", "--mirror", server.url) == 0
        assert download("ssg-qa", "--to", tmp_path / "b", "--mirror", server.url, "--keep-archives") == 0
        assert server.requests[0]["path"] == "/ssg-qa.zip"
    assert sorted(p.name for p in (tmp_path / "a" / "downloads").iterdir()) == ["ssg-qa.zip.sha256"]
    assert (tmp_path / "b" / "downloads" / "ssg-qa.zip").is_file()
    assert sorted(p.name for p in (tmp_path / "a").iterdir() if not p.name.endswith(".lock")) == ["downloads", "ssg-qa"]


def test_two_sets_at_once_and_the_second_time_nothing(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments: list[str | Path] = ["ssg-qa", "cholect50-challenge", "--to", tmp_path / "to", "--mirror", mirror]
    assert download(*arguments) == 0
    assert sorted(p.name for p in (tmp_path / "to" / "cholect50-challenge").iterdir()) == [
        *("README.md", "SOURCE.json", "labels", "videos")
    ]
    for path in mirror.iterdir():
        path.unlink()
    capsys.readouterr()
    assert download(*arguments, accept=False) == 0
    assert "cholect50-challenge: in " in capsys.readouterr().out


def test_a_download_that_ended_unnoticed_is_not_kept(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    content = (mirror / "ssg-qa.zip").read_bytes()

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        handler.send_response(200)  # without a length: the end of the connection is the end of the file
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if number == 1 else content)

    with serving(answer) as server:
        assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", server.url) == 1
        assert "downloads it anew" in capsys.readouterr().err
        assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", server.url) == 0


def test_the_licence_must_be_accepted(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", mirror, accept=False) == 2
    assert "licences of ssg-qa are not accepted" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_a_changed_archive_is_noticed(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments: list[str | Path] = ["ssg-qa", "--to", tmp_path / "to", "--mirror", mirror]
    download(*arguments)
    with zipfile.ZipFile(mirror / "ssg-qa.zip", "a") as archive:
        archive.writestr("ssg-qa/VID04/1.txt", "c?|hook\n")
    assert download(*arguments, "--overwrite") == 1
    assert "that of an earlier download" in capsys.readouterr().err
    assert not (tmp_path / "to" / "ssg-qa" / "VID04").exists()
    new = hashlib.sha256((mirror / "ssg-qa.zip").read_bytes()).hexdigest()
    assert download(*arguments, "--overwrite", "--sha256", new) == 0
    assert (tmp_path / "to" / "ssg-qa" / "VID04").exists()
    record = json.loads((tmp_path / "to" / "ssg-qa" / "SOURCE.json").read_text())
    assert record["files"][0]["compared_with"] == "--sha256"


def test_the_checksum_beside_an_archive_goes_with_it(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    (mirror / "ssg-qa.zip.sha256").write_text(f"{'0' * 64}  ssg-qa.zip\n")
    assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", mirror) == 1
    assert "that of an earlier download, beside it" in capsys.readouterr().err


def test_the_published_checksum_is_compared(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    with zipfile.ZipFile(mirror / "scene_graph_ssgqa.zip", "w") as archive:
        archive.writestr("scene_graph/VID01_0.json", "{}")
    assert download("ssg-qa-graphs", "--to", tmp_path / "to", "--mirror", mirror) == 1
    assert "not 0a7d8cbdce9fde64" in capsys.readouterr().err
    assert not (tmp_path / "to" / "scene_graph").exists()


def test_another_archive_is_refused(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    other = mirror / "CholecT50-Challenge-Validation.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("something/else.txt", "x")
    assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", f"ssg-qa={other}") == 1
    assert "does not hold what is expected of ssg-qa (an entry like VID" in capsys.readouterr().err
    assert not (tmp_path / "to" / "ssg-qa").exists() and not (tmp_path / "to" / ".ssg-qa.unpacking").exists()


def test_a_folder_of_someone_else_is_not_touched(mirror: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "to" / "ssg-qa" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", mirror, "--overwrite") == 2
    assert "was not made by this command" in capsys.readouterr().err and mine.exists()


def test_an_archive_without_a_folder_of_its_own_is_unpacked_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ssg-qa.zip", "w") as archive:
        archive.writestr("VID01/1.txt", "a?|liver\n")
    assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", tmp_path) == 0
    assert (tmp_path / "to" / "ssg-qa" / "VID01" / "1.txt").exists()


def test_links_within_an_archive_are_kept_where_the_table_allows_them(tmp_path: Path) -> None:
    archive_path = tmp_path / "endoscapes.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        archive.writestr("endoscapes/all/1_25.jpg", "picture")
        archive.writestr("endoscapes/all_metadata.csv", "a,b")
        link = zipfile.ZipInfo("endoscapes/train/1_25.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "../all/1_25.jpg")
    assert download("endoscapes", "--to", tmp_path / "to", "--mirror", archive_path.parent) == 0
    assert (tmp_path / "to" / "endoscapes" / "train" / "1_25.jpg").read_text() == "picture"


def test_what_came_from_a_request_form_is_unpacked(tmp_path: Path, capsys: Capture) -> None:
    assert download("cholect45", "ssg-qa", "--to", tmp_path / "to") == 2
    assert "forms.gle" in capsys.readouterr().err and not (tmp_path / "to").exists()
    with zipfile.ZipFile(tmp_path / "mail.zip", "w") as archive:
        archive.writestr("CholecT45/data/VID01/000000.png", "picture")
    assert download("cholect45", "--to", tmp_path / "to", "--mirror", f"cholect45={tmp_path / 'mail.zip'}") == 0
    assert (tmp_path / "to" / "cholect45" / "data" / "VID01" / "000000.png").exists()
    assert f"--image-root {tmp_path / 'to' / 'cholect45' / 'data'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["endovis18-vqa", "--to=x"],
            "cannot be downloaded by this command. The questions are",
        ),
        (["--to=x"], "No data set is named"),
        (["ssg-qa", "surgcheck", "--to=x", "--sha256=" + "0" * 64], "2 data sets are named; name one"),
        (["ssg-qa", "--to=x", "--sha256=abc"], "--sha256 must have 64 hexadecimal digits"),
        (["ssg-qa", "--to=x", "--attempts=0"], "--attempts must be at least 1"),
        (["ssg-qa", "--to=x", "--mirror=https://me:secret@x.example"], "--mirror holds what looks like a token"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "download", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_disk_without_room_for_the_content_is_refused(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(install_module, "_CLUSTER", 10**17)
    assert download("ssg-qa", "--to", tmp_path / "to", "--mirror", mirror) == 1
    assert "Unpacking ssg-qa.zip needs" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_came_and_the_same_command_goes_on(
    number: signal.Signals, mirror: Path, tmp_path: Path
) -> None:
    content = (mirror / "ssg-qa.zip").read_bytes()

    def answer(handler: BaseHTTPRequestHandler, count: int) -> None:
        if count > 1:
            serve_file(content)(handler, count)
            return
        send(handler, 200, content[:50], ETag='"one"', Content_Length=str(len(content)))
        time.sleep(20)

    command = [
        sys.executable,
        "-m",
        "surgvivqa",
        "data",
        "download",
        "ssg-qa",
        "--to",
        str(tmp_path / "to"),
        "--accept-licence",
    ]
    with serving(answer) as server:
        command += ["--accept-licence", "--mirror", server.url]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
        part = tmp_path / "to" / "downloads" / ".ssg-qa.zip.part"
        for _ in range(400):
            if part.exists() and part.stat().st_size == 50:
                break
            time.sleep(0.05)
        process.send_signal(number)
        error = process.communicate(timeout=20)[1]
        assert process.returncode == 75
        assert f"stopped by {number.name}; what was downloaded so far is kept, and the same command goes on." in error
        assert subprocess.run(command, env=os.environ, capture_output=True).returncode == 0
        assert server.requests[1]["range"] == "bytes=50-"
    assert (tmp_path / "to" / "ssg-qa" / "VID01" / "1.txt").exists()


def test_the_list_has_every_set(capsys: Capture) -> None:
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(source.name in out and source.title in out for source in load_sources())


def test_one_set_is_described_in_full(capsys: Capture) -> None:
    assert main(["data", "list", "cholect45"]) == 0
    out = capsys.readouterr().out
    assert "request form: https://forms.gle/" in out and "90,489 frames (README.md of the repository)" in out


def test_the_list_as_json_has_addresses_and_checksums(capsys: Capture) -> None:
    assert main(["data", "list", "ssg-qa-graphs", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["files"][0]["sha256"] == find_source("ssg-qa-graphs").files[0].sha256
    assert row["access"] == "download"
