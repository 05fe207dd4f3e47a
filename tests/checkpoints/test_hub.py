"""The hub: what is fetched and pushed, and one sentence for everything that can go wrong with it."""

import contextlib
import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from surgvivqa.checkpoints import hub
from surgvivqa.utils.errors import InputError

TOKEN = "hf_" + "Ab1" * 11
HOME = "/home/jane.doe"


def http_error(kind: type[Any], code: int, message: str = "no") -> Exception:
    response = SimpleNamespace(status_code=code, headers={}, request=None)
    return kind(message, response=response)


class FakeHub:
    """Stands for ``HfApi``: raises what it is given, or keeps what is uploaded."""

    def __init__(self) -> None:
        self.info: Any = http_error(errors.RepositoryNotFoundError, 404)
        self.failure: Exception | None = None
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    def __call__(self) -> "FakeHub":
        return self

    def model_info(self, repo: str, *, revision: str | None = None, timeout: float | None = None) -> Any:
        assert timeout == hub.TIMEOUT
        if isinstance(self.info, Exception):
            raise self.info
        return self.info

    def snapshot_download(self, **wanted: Any) -> str:
        raise errors.LocalEntryNotFoundError("nothing in the cache")

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        if self.failure:
            raise self.failure
        self.created = {"repo": repo, "private": private, "exist_ok": exist_ok}
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(hub, "HfApi", fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder of a run whose data and base lay in a home folder."""
    folder = tmp_path / "best"
    folder.mkdir()
    settings = {"preset": "base", "video_model": f"{HOME}/videomae", "text_model": "a/b", "decoder_model": "gpt2"}
    run = {"lr": 5e-4, "ssgvqa_root": f"{HOME}/ssg-qa", "train_videos": ["VID04"]}
    (folder / "surgvivqa.json").write_text(json.dumps({"settings": settings, "run": run}))
    (folder / "config.json").write_text(json.dumps({"video_config": {"_name_or_path": f"{HOME}/videomae"}}))
    (folder / "tokenizer.json").write_text('{"vocab": {"/home/x": 1}}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "chat_template.jinja").write_text("{{ messages }}")  # a chat model's tokenizer brings one
    (folder / "README.md").write_text("# A card\n")
    return folder


@contextlib.contextmanager
def told_to(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Our log reaches ``caplog``, also after a command has kept it from the root logger."""
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, logger="surgvivqa"):
        patch.setattr(logging.getLogger("surgvivqa"), "propagate", True)
        yield


def at(address: str) -> Callable[[], Any]:
    """``HfApi`` of a hub at this address."""
    return lambda: huggingface_hub.HfApi(endpoint=address, token=False)


# ------------------------------------------------------------------------------------------------------------- pushing


def test_a_push_uploads_the_folder_without_its_paths(
    fake: FakeHub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with told_to(caplog):
        assert hub.push(folder, "lab/model", private=True) == "https://huggingface.co/lab/model"
    assert fake.created == {"repo": "lab/model", "private": True, "exist_ok": True}
    assert set(fake.files) == set(before)
    assert b"jane" not in b"".join(fake.files.values())
    sent = json.loads(fake.files["surgvivqa.json"])
    assert sent["run"] == {"lr": 5e-4, "train_videos": ["VID04"]} and sent["settings"]["video_model"] == "videomae"
    for name in ("model.safetensors", "tokenizer.json", "README.md"):
        assert fake.files[name] == before[name]
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert "--video-model was a folder of this machine" in caplog.text and "--text-model" not in caplog.text


@pytest.mark.parametrize(
    "name", ["best_model.pth", "pytorch_model.bin", "modeling.py", ".env", "train.log", "sub/x.json"]
)
def test_files_that_are_not_part_of_a_checkpoint_are_refused(fake: FakeHub, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(InputError, match=f"holds {name.split('/')[0]}, which is not part"):
        hub.push(folder, "lab/model", private=False)
    assert not fake.created


def test_a_link_is_refused(fake: FakeHub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "added.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InputError, match="no links"):
        hub.push(folder, "lab/model", private=False)


def test_a_folder_without_weights_or_with_a_token_is_refused(fake: FakeHub, folder: Path) -> None:
    (folder / "README.md").write_text(f"login with {TOKEN}")
    with pytest.raises(InputError, match="token") as message:
        hub.push(folder, "lab/model", private=False)
    assert TOKEN not in str(message.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no safetensors"):
        hub.push(folder, "lab/model", private=False)
    with pytest.raises(InputError, match="is not a folder"):
        hub.push(folder / "absent", "lab/model", private=False)


@pytest.mark.parametrize("repo", ["model", "a/b/c", "/abs/path", "lab/model@main", "lab/mo del", ""])
def test_an_invalid_repository_name_is_refused(fake: FakeHub, folder: Path, repo: str) -> None:
    with pytest.raises(InputError, match="USER/MODEL"):
        hub.push(folder, repo, private=False)


def test_a_private_push_into_a_public_repository_is_refused(fake: FakeHub, folder: Path) -> None:
    fake.info = SimpleNamespace(private=False)
    with pytest.raises(InputError, match="public already"):
        hub.push(folder, "lab/model", private=True)
    assert not fake.created
    hub.push(folder, "lab/model", private=False)
    assert fake.files


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (http_error(errors.HfHubHTTPError, 401, f"bad {TOKEN}"), "hf auth login"),
        (http_error(errors.HfHubHTTPError, 403, f"{TOKEN} may only read"), "hf_*** may only read"),
        (http_error(errors.BadRequestError, 400, f"bad card, {TOKEN}"), "the hub refuses (bad card, hf_***)"),
        (http_error(errors.HfHubHTTPError, 503), "try again later"),
        (errors.LocalTokenNotFoundError("none"), "needs a login"),
        (ConnectionError(f"to {TOKEN}"), "cannot be reached (to hf_***)"),
        (PermissionError(13, "Permission denied"), "HF_HOME"),
    ],
)
def test_a_refusal_is_one_sentence_without_the_token(
    fake: FakeHub, folder: Path, failure: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.failure = failure
    with pytest.raises(InputError) as message:
        hub.push(folder, "lab/model", private=False)
    sentence = str(message.value)
    assert said in sentence and "cannot be pushed to lab/model" in sentence and "\n" not in sentence
    assert TOKEN not in sentence + caplog.text and message.value.__suppress_context__


def test_a_fault_of_our_own_is_not_blamed_on_the_hub(fake: FakeHub, folder: Path) -> None:
    fake.failure = TypeError("ours")
    with pytest.raises(TypeError, match="ours"):
        hub.push(folder, "lab/model", private=False)


# ------------------------------------------------------------------------------------------------------------ fetching


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (http_error(errors.RepositoryNotFoundError, 404), "no such model, or it is private"),
        (http_error(errors.GatedRepoError, 403), "conditions"),
        (http_error(errors.RevisionNotFoundError, 404), "no such revision"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (http_error(errors.HfHubHTTPError, 502), "busy or down"),
    ],
)
def test_every_failure_to_fetch_names_its_cause_and_the_flag(fake: FakeHub, failure: Exception, said: str) -> None:
    fake.info = failure
    with pytest.raises(InputError) as message:
        hub.fetch("lab/model@v1", "--checkpoint")
    sentence = str(message.value)
    assert sentence.startswith("--checkpoint lab/model@v1 cannot be fetched") and said in sentence
    assert "give its folder with --checkpoint" in sentence and "\n" not in sentence


@pytest.mark.parametrize("name", ["runs/a/best", "model", "lab/model@", "../model", "lab/model:v1", TOKEN])
def test_an_invalid_model_name_is_refused_without_a_request(fake: FakeHub, name: str) -> None:
    with pytest.raises(InputError, match="not a model name on the hub") as message:
        hub.fetch(name, "--checkpoint")
    assert TOKEN not in str(message.value)


def test_without_a_network_both_fail_at_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: the connection is refused
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub, "HfApi", at(f"http://127.0.0.1:{closed.getsockname()[1]}"))
        started = time.monotonic()
        with pytest.raises(InputError, match=r"--checkpoint lab/model cannot be fetched.*cannot be reached"):
            hub.fetch("lab/model", "--checkpoint")
        with pytest.raises(InputError, match=r"cannot be pushed to lab/model.*cannot be reached"):
            hub.push(folder, "lab/model", private=True)
        assert time.monotonic() - started < 5


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(hub, "HfApi", at(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        monkeypatch.setattr(hub, "TIMEOUT", 0.3)
        started = time.monotonic()
        with pytest.raises(InputError, match="cannot be reached"):
            hub.fetch("lab/model", "--checkpoint")
        with pytest.raises(InputError, match="cannot be reached"):
            hub.push(folder, "lab/model", private=True)
        assert time.monotonic() - started < 5


def test_offline_mode_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        hub.fetch("surgvivqa-tests/absent", "--checkpoint")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "merges.txt": b"a b",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"code",
    "checkpoints/config.json": b"{}",
}


class SmallHub(BaseHTTPRequestHandler):
    """The three answers of the hub's that a download asks for."""

    asked: tuple[str, ...] = ()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        SmallHub.asked += (self.path,)
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if name:
            body = REPOSITORY[name]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        elif "/tree/" in self.path:
            files = [{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in REPOSITORY.items()]
            body, headers = json.dumps(files).encode(), {"Content-Type": "application/json"}
        else:
            info = {
                "id": "lab/model",
                "sha": COMMIT,
                "private": False,
                "siblings": [{"rfilename": p} for p in REPOSITORY],
            }
            body, headers = json.dumps(info).encode(), {"Content-Type": "application/json"}
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the test's standard error."""


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(hub, "HfApi", at(f"http://127.0.0.1:{server.server_port}"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    SmallHub.asked = ()
    yield server
    server.shutdown()
    server.server_close()


def test_a_fetch_takes_weights_and_settings_and_the_cache_serves_them_later(
    small_hub: ThreadingHTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = hub.fetch("lab/model", "--checkpoint")
    assert sorted(p.name for p in folder.rglob("*")) == ["config.json", "merges.txt", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not any(kind in path for path in SmallHub.asked for kind in (".bin", ".py", "checkpoints/"))
    small_hub.shutdown()
    small_hub.server_close()
    with told_to(caplog):
        assert hub.fetch("lab/model", "--checkpoint") == folder
    assert "taken from its cache" in caplog.text


def test_a_hub_model_without_safetensors_is_refused(
    small_hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(REPOSITORY, "model.safetensors")
    with pytest.raises(InputError, match="no safetensors"):
        hub.fetch("lab/model", "--checkpoint")
