"""A model hub on this machine: the few answers that a download asks for, and ways to answer badly."""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

FOREIGN = ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "modeling.py", "model.fp16.safetensors", "README.md")
"""Files of published repositories that must not be fetched."""


@dataclass
class Repository:
    """A repository: its files by commit, the newest commit last, and who may read it."""

    commits: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False


@dataclass
class FakeHub:
    """What the hub holds and how it behaves.

    Attributes:
        repositories: by name.
        asked: the path of each request, with its range.
        tokens: the ``Authorization`` header of each request, by server (hub or store).
        cut_after: bytes of a body after which the connection is closed, once for each entry.
        pause: seconds before each piece of a body.
        wrong: names of files that arrive with other bytes, so many times.
        status: an answer to every request, such as 503.
        knows_metadata: whether its lists have sizes and checksums.
        knows_ranges: whether it sends a part of a file when it is asked to.
        store: address of a second server to which large files are redirected; empty serves them itself.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, set[str | None]] = field(default_factory=lambda: {"hub": set(), "store": set()})
    cut_after: list[int] = field(default_factory=list)
    pause: float = 0.0
    wrong: dict[str, int] = field(default_factory=dict)
    status: int = 0
    knows_metadata: bool = True
    knows_ranges: bool = True
    store: str = ""
    address: str = ""
    second_address: str = ""

    def add(self, name: str, folder: Path, *, foreign: bool = True) -> str:
        """Serves a folder's files as a new commit of a repository, and returns the commit."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        if foreign:
            files |= dict.fromkeys(FOREIGN, b"not to be fetched") | {"onnx/model.safetensors": b"not either"}
        return self.add_files(name, files)

    def add_files(self, name: str, files: dict[str, bytes]) -> str:
        """Serves files as a new commit of a repository, and returns the commit."""
        repository = self.repositories.setdefault(name, Repository({}))
        commit = hashlib.sha1(f"{name}{len(repository.commits)}".encode()).hexdigest()
        repository.commits[commit] = files
        return commit

    def files_asked(self) -> list[str]:
        """The names of the files whose content was asked for."""
        files = (path for path in self.asked if path.startswith("GET") and "/resolve/" in path)
        return [path.split()[1].rpartition("/")[2] for path in files]


def etag(content: bytes, name: str) -> str:
    """A file's checksum as the hub has it: large files have a SHA-256, small ones a git blob's SHA-1."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    role = "hub"
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        path, _, query = self.path.partition("?")
        asked_range = self.headers.get("Range")
        hub.asked.append(f"{self.command} {path}" + (f" {asked_range}" if asked_range else ""))
        hub.tokens[self.role].add(self.headers.get("Authorization"))
        if hub.status:
            return self._send(hub.status, b"busy")
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._info(name, revision.replace("%2F", "/"), "blobs" in query)
        name, _, rest = path.lstrip("/").partition("/resolve/")
        commit, _, file = rest.partition("/")
        if name not in hub.repositories:  # the library asks for other things too
            return self._send(404, b"{}")
        return self._file(name, commit, file)

    def _info(self, name: str, revision: str, blobs: bool) -> None:
        repository = self.hub.repositories.get(name)
        if self._refused(repository):
            return None
        assert repository is not None
        commit = list(repository.commits)[-1] if revision in ("", "main") else revision
        if commit not in repository.commits:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings: list[dict[str, Any]] = []
        for file, content in repository.commits[commit].items():
            sibling: dict[str, Any] = {"rfilename": file}
            if blobs and self.hub.knows_metadata:
                sibling |= {"size": len(content), "blobId": etag(content, "small")}
                if file.endswith((".safetensors", ".bin")):
                    sibling["lfs"] = {"sha256": etag(content, file), "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        info = {"id": name, "sha": commit, "private": repository.private, "siblings": siblings}
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _refused(self, repository: Repository | None) -> bool:
        token = self.headers.get("Authorization")
        if repository is None or (repository.private and token is None):
            self._send(404 if token else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif repository.gated and token is None:
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        elif token is not None and token != f"Bearer {GOOD_TOKEN}":
            self._send(401, b"{}", {"X-Error-Message": "Invalid credentials"})
        else:
            return False
        return True

    def _file(self, name: str, commit: str, file: str) -> None:
        hub, repository = self.hub, self.hub.repositories[name]
        if self.role == "hub" and self._refused(repository):
            return None
        commit = list(repository.commits)[-1] if commit == "main" else commit
        content = repository.commits[commit][file]
        headers = {"ETag": f'"{etag(content, file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file.endswith((".safetensors", ".bin")):
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
            if hub.store and self.role == "hub":
                return self._send(302, b"", {**headers, "Location": f"{hub.store}{self.path}"})
        if hub.wrong.get(file, 0) and self.command == "GET":
            hub.wrong[file] -= 1
            content = bytes(len(content))
        asked, status = self.headers.get("Range"), 200
        if asked and hub.knows_ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                return self._send(416, b"")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        return self._send(status, content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        is_file = "/resolve/" in self.path and status in (200, 206)
        cut = self.hub.cut_after.pop(0) if is_file and len(body) > 1000 and self.hub.cut_after else None
        with contextlib.suppress(OSError):  # the client may have gone
            for start in range(0, len(body), 4096):
                piece = body[start : start + 4096]
                if cut is not None and start + len(piece) > cut:
                    self.wfile.write(piece[: cut - start])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                if self.hub.pause and is_file:
                    time.sleep(self.hub.pause)
                self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Nothing on the test's standard error."""


GOOD_TOKEN = "hf_" + "Ab1" * 11


def use_hub_at(monkeypatch: pytest.MonkeyPatch, address: str, home: Path) -> None:
    """Makes a hub the one of this process and of those that it starts, with an empty cache and no token."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE"))]:
        monkeypatch.delenv(name)
    for name, value in {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}.items():
        monkeypatch.setenv(name, value)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@contextlib.contextmanager
def serve_hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[FakeHub]:
    """Serves a ``FakeHub``, and uses it (``use_hub_at``)."""
    hub = FakeHub()
    servers = []
    for role in ("hub", "store"):
        handler = type("Handler", (_Handler,), {"hub": hub, "role": role})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    hub.address = f"http://127.0.0.1:{servers[0].server_port}"
    store = f"http://127.0.0.1:{servers[1].server_port}"
    use_hub_at(monkeypatch, hub.address, home)
    hub.second_address = store
    yield hub
    for server in servers:
        server.shutdown()
        server.server_close()
