"""The server listens where it should, refuses what it should, and leaves nothing behind when it is stopped."""

import http.server
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest

from surgvivqa.cli import main
from surgvivqa.demo.gradio_library import import_gradio
from surgvivqa.demo.limits import Limits
from surgvivqa.demo.server import Address, check_address, read_logins
from surgvivqa.utils.errors import InputError
from tests.demo.servers import Running, free_port, run_page

pytest.importorskip("gradio", reason="Gradio is not installed")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with run_page(tmp_path_factory.mktemp("server"), Limits(upload_mb=1)) as running:
        yield running


def post_file(url: str, content: bytes) -> list[str]:
    """Uploads a file as the browser does; returns the server's path of it."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="patient.mp4"\r\n\r\n' + content + b"\r\n--x--"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/gradio_api/upload", body, headers)) as answer:
        return list(json.load(answer))


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Host": "localhost:7860"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:7860"}, 421),
        ({"Origin": "http://evil.example"}, 421),
        ({"Origin": "null"}, 421),
    ],
)
def test_a_page_of_another_host_gets_no_answer(headers: dict[str, str], status: int, running: Running) -> None:
    try:
        with urllib.request.urlopen(urllib.request.Request(running.url, headers=headers)) as answer:
            assert answer.status == status
    except urllib.error.HTTPError as error:
        assert error.code == status


def test_the_page_asks_no_other_host_and_cannot_be_framed(running: Running) -> None:
    with urllib.request.urlopen(running.url) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    _, style = fetch(f"{running.url}/theme.css")
    assert b"fonts.googleapis" not in style and b"@import" not in style and b"system-ui" in style


def test_an_upload_above_the_limit_is_refused_by_the_server_too(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        post_file(running.url, b"x" * 1_500_000)
    assert raised.value.code == 413 and running.uploads() == []


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__).resolve()), "pyproject.toml"])
def test_files_of_the_machine_are_not_served(running: Running, path: str) -> None:
    assert fetch(f"{running.url}/gradio_api/file={path}")[0] in (403, 404)


class Listener(http.server.BaseHTTPRequestHandler):
    """Remembers what it is asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


def test_an_address_in_place_of_an_upload_is_not_fetched(running: Running) -> None:
    """Gradio would download it: any visitor could make the server send requests."""
    processing = importlib.import_module("gradio.processing_utils")
    with (
        http.server.HTTPServer(("127.0.0.1", 0), Listener) as listener,
        # A spy shows that Gradio would have fetched it there, so that the refusal is what stops it.
        mock.patch.object(processing, "async_ssrf_protected_get", wraps=processing.async_ssrf_protected_get) as spy,
    ):
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        address = f"http://localhost:{listener.server_port}/secret.png"
        config = json.loads(fetch(f"{running.url}/config")[1])
        (upload,) = [one for one in config["dependencies"] if one["targets"] and one["targets"][0][1] == "upload"]
        data = [{"path": address, "url": address, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}]
        body = json.dumps({"data": data, "fn_index": upload["id"], "session_hash": "abc"}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{running.url}/gradio_api/queue/join?", body, headers)
        urllib.request.urlopen(request).close()
        with urllib.request.urlopen(f"{running.url}/gradio_api/queue/data?session_hash=abc", timeout=60) as events:
            assert any(b"process_completed" in line for line in events)
        listener.shutdown()
    spy.assert_called_once_with(address)
    assert Listener.asked == []


def test_a_login_is_asked_for(tmp_path: Path) -> None:
    with run_page(tmp_path, Limits(), logins=(("a", "secret"),)) as running:
        assert fetch(f"{running.url}/config")[0] == 401
        assert b"Drawn clip" not in fetch(running.url)[1]
        with pytest.raises(urllib.error.HTTPError) as raised:
            post_file(running.url, b"x")
        assert raised.value.code == 401
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_a_stopped_server_leaves_no_upload(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {"TMPDIR": str(tmp_path), "GRADIO_SHARE": "True"}
    command = [sys.executable, "-m", "surgvivqa", "demo", f"--port={port}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        assert any("The page is at" in line for line in lines)
        (path,) = post_file(f"http://127.0.0.1:{port}", b"a patient")
        assert Path(path).read_bytes() == b"a patient" and tmp_path in Path(path).parents
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stderr.close()
    assert list(tmp_path.glob("surgvivqa-demo-*")) == [] and not Path(path).exists()


def test_gradio_that_is_missing_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"run pip install 'surgvivqa\[demo\]'"):
        import_gradio("/nowhere")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--share"], "--share is refused"),
        (["--port=0"], "--port must be at least 1"),
        (["--max-upload-mb=0"], "--max-upload-mb must be at least 1"),
        (["--questions=missing.txt"], "--questions missing.txt cannot be read"),
        (["--auth=missing.txt"], "--auth missing.txt cannot be read"),
        (["--host=no.such.host.invalid"], "--host no.such.host.invalid --port"),
        (["--checkpoint=missing/run", f"--port={free_port()}"], "missing/run"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
            patch.setenv(name, "")
        assert main(["demo", *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_page_for_the_network_warns_about_patients(host: str, warned: bool, captured_log: Any) -> None:
    with socket.socket() as taken:  # so that the command ends after its warning
        taken.bind((host, 0))
        taken.listen()
        assert main(["demo", f"--host={host}", f"--port={taken.getsockname()[1]}"]) == 2
    lines = captured_log()
    assert ("no pictures of patients" in lines and "--auth FILE adds one" in lines) == warned


def test_a_port_that_is_taken_is_named_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port} cannot be used .*choose another port"):
            check_address(Address(port=port))


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False),
     ("192.168.1.5", False), ("::", False), ("ward.example", False)],
)  # fmt: skip
def test_hosts_that_others_can_reach_are_known(host: str, local: bool) -> None:
    assert Address(host).is_local == local


def test_logins_are_read_from_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "logins"
    file.write_text("ann:pass:word\n\nbob:x\n")
    file.chmod(0o600)
    assert read_logins(file) == (("ann", "pass:word"), ("bob", "x"))


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("eve:x\n", 0o644, "can be read by other users; run chmod 600"),
        ("eve\n", 0o600, "logins:1 is not name:password"),
        ("\n", 0o600, "has no line of name:password"),
    ],
)
def test_logins_that_cannot_be_used_are_refused(tmp_path: Path, text: str, mode: int, sentence: str) -> None:
    file = tmp_path / "logins"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(InputError) as raised:
        read_logins(file)
    assert sentence in str(raised.value) and "eve" not in str(raised.value)
