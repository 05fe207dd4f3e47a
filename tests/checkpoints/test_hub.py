"""The hub: what is fetched and pushed, and one sentence for everything that can go wrong with it."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from surgvivqa.checkpoints import hub, hub_files
from surgvivqa.utils.errors import InputError
from tests.helpers.fake_hub import FakeHub, serve_hub, use_hub_at

TOKEN = "hf_" + "Ab1" * 11
HOME = "/home/jane.doe"


def http_error(kind: type[Any], code: int, message: str = "no") -> Exception:
    response = SimpleNamespace(status_code=code, headers={}, request=None)
    return kind(message, response=response)


class FakeApi:
    """Stands for ``HfApi``: raises what it is given, or keeps what is uploaded."""

    def __init__(self) -> None:
        self.info: Any = http_error(errors.RepositoryNotFoundError, 404)
        self.failure: Exception | None = None
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    def __call__(self) -> "FakeApi":
        return self

    def model_info(self, repo: str, *, revision: str | None = None, timeout: float | None = None) -> Any:
        assert timeout == hub_files.TIMEOUT
        if isinstance(self.info, Exception):
            raise self.info
        return self.info

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        if self.failure:
            raise self.failure
        self.created = {"repo": repo, "private": private, "exist_ok": exist_ok}
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    fake = FakeApi()
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


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serve_hub(monkeypatch, tmp_path / "home") as found:
        yield found


# ------------------------------------------------------------------------------------------------------------- pushing


def test_a_push_uploads_the_folder_without_its_paths(
    fake: FakeApi, folder: Path, caplog: pytest.LogCaptureFixture
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
def test_files_that_are_not_part_of_a_checkpoint_are_refused(fake: FakeApi, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(InputError, match=f"holds {name.split('/')[0]}, which is not part"):
        hub.push(folder, "lab/model", private=False)
    assert not fake.created


def test_a_link_is_refused(fake: FakeApi, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "added.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InputError, match="no links"):
        hub.push(folder, "lab/model", private=False)


def test_a_folder_without_weights_or_with_a_token_is_refused(fake: FakeApi, folder: Path) -> None:
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
def test_an_invalid_repository_name_is_refused(fake: FakeApi, folder: Path, repo: str) -> None:
    with pytest.raises(InputError, match="USER/MODEL"):
        hub.push(folder, repo, private=False)


def test_a_private_push_into_a_public_repository_is_refused(fake: FakeApi, folder: Path) -> None:
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
    fake: FakeApi, folder: Path, failure: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.failure = failure
    with pytest.raises(InputError) as message:
        hub.push(folder, "lab/model", private=False)
    sentence = str(message.value)
    assert said in sentence and "cannot be pushed to lab/model" in sentence and "\n" not in sentence
    assert TOKEN not in sentence + caplog.text and message.value.__suppress_context__


def test_a_fault_of_our_own_is_not_blamed_on_the_hub(fake: FakeApi, folder: Path) -> None:
    fake.failure = TypeError("ours")
    with pytest.raises(TypeError, match="ours"):
        hub.push(folder, "lab/model", private=False)


# ------------------------------------------------------------------------------------------------------------ fetching


@pytest.mark.parametrize("name", ["runs/a/best", "model", "lab/model@", "../model", "lab/model:v1", TOKEN])
def test_an_invalid_model_name_is_refused_without_a_request(fake_hub: FakeHub, name: str) -> None:
    with pytest.raises(InputError, match="not a model name on the hub") as message:
        hub.fetch(name, "--checkpoint")
    assert TOKEN not in str(message.value) and not fake_hub.asked


def test_without_a_network_both_fail_at_once(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: the connection is refused
        closed.bind(("127.0.0.1", 0))
        use_hub_at(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"--checkpoint lab/model .* cannot be fetched.*cannot be reached"):
            hub.fetch("lab/model", "--checkpoint")
        with pytest.raises(InputError, match=r"cannot be pushed to lab/model.*cannot be reached"):
            hub.push(folder, "lab/model", private=True)
        assert time.monotonic() - started < 5


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use_hub_at(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        monkeypatch.setattr("surgvivqa.checkpoints.hub.TIMEOUT", 0.3)
        monkeypatch.setattr(hub_files, "TIMEOUT", 0.3)
        started = time.monotonic()
        with pytest.raises(InputError, match="cannot be reached"):
            hub.fetch("lab/model", "--checkpoint")
        with pytest.raises(InputError, match="cannot be reached"):
            hub.push(folder, "lab/model", private=True)
        assert time.monotonic() - started < 5


REPOSITORY = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "merges.txt": b"a b",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"code",
    "checkpoints/config.json": b"{}",
}


def test_a_fetch_takes_weights_and_settings_and_the_cache_serves_them_later(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake_hub.add_files("lab/model", REPOSITORY)
    folder = hub.fetch("lab/model", "--checkpoint")
    assert sorted(p.name for p in folder.rglob("*")) == ["config.json", "merges.txt", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert set(fake_hub.files_asked()) == {"config.json", "merges.txt", "model.safetensors"}
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    with told_to(caplog):
        assert hub.fetch("lab/model", "--checkpoint") == folder
    assert "taken from its cache" in caplog.text


def test_a_hub_model_without_safetensors_is_refused(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", {k: v for k, v in REPOSITORY.items() if k != "model.safetensors"})
    with pytest.raises(InputError, match="no safetensors"):
        hub.fetch("lab/model", "--checkpoint")
