"""Models of the hub: which files are fetched, how a download survives breaks, and what the cache serves offline."""

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from surgvivqa.checkpoints import hub_models, hub_stores, transfer
from surgvivqa.checkpoints.hub_files import Kind, RemoteFile, read_repository
from surgvivqa.checkpoints.hub_models import locate_model, plan_download, resolve_commit
from surgvivqa.checkpoints.hub_names import HubName, is_pinned_form, parse_hub_name, without_revision
from surgvivqa.checkpoints.hub_stores import CacheStore
from surgvivqa.utils.errors import InputError, RunError
from tests.helpers.fake_hub import GOOD_TOKEN, FakeHub, etag, serve_hub

WEIGHTS = bytes(range(256)) * 400  # 102,400 bytes
SETTINGS = {"config.json": b"{}"}
MODEL = {**SETTINGS, "model.safetensors": WEIGHTS}
NAME = HubName("lab/model")
PUBLISHED = {  # as the published repositories are, with every framework's weights
    **MODEL,
    **dict.fromkeys(("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "64.tflite"), b"x"),
    **dict.fromkeys(("README.md", ".gitattributes", "preprocessor_config.json", "onnx/model.safetensors"), b"x"),
    **dict.fromkeys(("modeling.py", "model.fp16.safetensors", "consolidated.safetensors"), b"x"),
    **{"generation_config.json": b"[1]", "tokenizer.json": b"[2]", "vocab.json": b"[3]", "merges.txt": b"[4]"},
}
TOKENIZER = {"tokenizer.json", "vocab.json", "merges.txt"}


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    with serve_hub(monkeypatch, tmp_path / "home") as found:
        yield found


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("value", "repo", "revision"),
    [
        ("gpt2", "gpt2", None),
        ("lab/model", "lab/model", None),
        ("lab/model@v1.0", "lab/model", "v1.0"),
        ("gpt2@refs/pr/3", "gpt2", "refs/pr/3"),
    ],
)
def test_a_name_may_have_a_revision(value: str, repo: str, revision: str | None) -> None:
    name = parse_hub_name(value)
    assert name is not None and (name.repo, name.revision, str(name)) == (repo, revision, value)
    assert without_revision(value) == repo


@pytest.mark.parametrize("value", ["", "a/b/c", "../model", "/abs/path", "lab/model@", "lab/mo del", GOOD_TOKEN])
def test_other_values_are_no_names(value: str) -> None:
    assert parse_hub_name(value) is None and without_revision(value) == value


def test_a_pinned_name_is_a_form_of_its_plain_name() -> None:
    assert is_pinned_form("lab/model@v1", "lab/model") and not is_pinned_form("lab/model@v1", "lab/other")
    assert not is_pinned_form("lab/model", "lab/model")


# ------------------------------------------------------------------------------------------------------- what is needed


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("video", set(MODEL) | {"generation_config.json"}),
        ("text", set(MODEL) | {"generation_config.json"} | TOKENIZER),
        ("decoder", set(MODEL) | {"generation_config.json"} | TOKENIZER),
    ],
)
def test_only_the_files_that_are_read_are_fetched(fake_hub: FakeHub, kind: Kind, expected: set[str]) -> None:
    fake_hub.add_files("lab/model", PUBLISHED)
    assert names(locate_model(NAME, kind, "--flag")) == expected
    assert set(fake_hub.files_asked()) == expected


def test_shards_are_fetched_with_their_index(fake_hub: FakeHub) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": b"%d" % i for i in (1, 2)}
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    files = {**SETTINGS, **shards, "model.safetensors.index.json": index}
    fake_hub.add_files("lab/model", {**files, "pytorch_model-00001-of-00001.bin": b"x"})
    folder = locate_model(NAME, "decoder", "--flag")
    assert names(folder) == set(files)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert not hub_stores.is_complete(folder, "decoder")


def test_a_part_without_safetensors_is_fetched_as_bin_and_without_either_refused(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", {**SETTINGS, "pytorch_model.bin": b"x", "tf_model.h5": b"x"})
    assert names(locate_model(NAME, "video", "--flag")) == {"config.json", "pytorch_model.bin"}
    fake_hub.add_files("lab/keras", {**SETTINGS, "tf_model.h5": b"x"})
    with pytest.raises(InputError, match=r"--flag lab/keras has no weights for PyTorch"):
        locate_model(HubName("lab/keras"), "video", "--flag")


def test_an_empty_file_arrives_too(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", {**MODEL, "merges.txt": b""})
    assert (locate_model(NAME, "decoder", "--flag") / "merges.txt").read_bytes() == b""


def test_names_that_lead_out_of_the_folder_are_not_fetched(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", {**MODEL, "../config.json": b"x", "/tmp/tokenizer.json": b"x"})
    assert names(locate_model(NAME, "decoder", "--flag")) == set(MODEL)


def test_a_hub_that_names_files_outside_the_cache_is_refused(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of the user")
    monkeypatch.setattr("tests.helpers.fake_hub.etag", lambda content, name: str(victim))
    fake_hub.add_files("lab/model", MODEL)
    for knows_metadata in (True, False):
        fake_hub.knows_metadata = knows_metadata
        with pytest.raises(RunError, match="neither a commit nor a checksum"):
            found = read_repository(NAME)
            plan_download(found, "decoder", CacheStore(found), "--flag", verify=True)
    assert victim.read_text() == "of the user"


def test_a_commit_that_leads_out_of_the_cache_is_refused(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.repositories["lab/model"].commits = {"../../../../outside": MODEL}
    with pytest.raises(RunError, match="neither a commit nor a checksum"):
        locate_model(NAME, "decoder", "--flag")


# -------------------------------------------------------------------------------------------------------- the download


def test_a_broken_connection_goes_on_where_it_was(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.cut_after = [30_000, 30_000]
    folder = locate_model(NAME, "video", "--flag")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [path.partition(" bytes=")[2] for path in fake_hub.asked if "model.safetensors" in path and "GET" in path]
    assert ranges == ["", "30000-", "60000-"]


def test_a_server_without_ranges_sends_the_file_again(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.knows_ranges, fake_hub.cut_after = False, [50_000]
    assert (locate_model(NAME, "video", "--flag") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_again_and_again_is_an_error_and_the_next_try_goes_on(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.cut_after = [40_000] + [0] * 20
    with pytest.raises(InputError, match=r"--flag lab/model .*surgvivqa fetch --flag lab/model"):
        locate_model(NAME, "video", "--flag")
    fake_hub.cut_after, fake_hub.asked = [], []
    locate_model(NAME, "video", "--flag")
    assert any("model.safetensors bytes=40000-" in path for path in fake_hub.asked)


def test_a_killed_download_is_resumed_by_another_process(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.pause = 0.05
    script = (
        "from surgvivqa.checkpoints import hub_models, hub_names\n"
        "hub_models.locate_model(hub_names.HubName('lab/model'), 'video', '--flag')"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        blobs = tmp_path / "home" / "hub" / "models--lab--model" / "blobs"
        part = blobs / f"{etag(WEIGHTS, 'model.safetensors')}.partial"
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 4096) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    left = part.stat().st_size
    assert 0 < left < len(WEIGHTS)
    assert not (blobs.parent / "snapshots").exists()
    fake_hub.pause = 0
    assert (locate_model(NAME, "video", "--flag") / "model.safetensors").read_bytes() == WEIGHTS
    assert any(f"model.safetensors bytes={left}-" in path for path in fake_hub.asked)
    assert names(blobs) == {etag(content, name) for name, content in MODEL.items()}


def test_a_server_that_sends_too_much_is_an_error(fake_hub: FakeHub, tmp_path: Path) -> None:
    commit = fake_hub.add_files("lab/model", MODEL)
    file = RemoteFile("model.safetensors", 10_000, "")
    url = f"{fake_hub.address}/lab/model/resolve/{commit}/model.safetensors"
    sizes: list[int] = []
    with pytest.raises(RunError, match="sends more than the 10,000 bytes"):
        transfer.download(url, file, tmp_path / "file", sizes.append)
    assert len(fake_hub.files_asked()) == 2 and sum(sizes) == 0 and names(tmp_path) <= {"file.lock", "home"}


def test_two_at_once_fetch_a_file_once(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.pause = 0.01
    threads = [threading.Thread(target=locate_model, args=(NAME, "video", "--flag")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fake_hub.files_asked()) == ["config.json", "model.safetensors"]


def test_wrong_bytes_are_fetched_again_and_twice_wrong_is_an_error(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.wrong = {"model.safetensors": 1}
    assert (locate_model(NAME, "video", "--flag") / "model.safetensors").read_bytes() == WEIGHTS
    fake_hub.add_files("lab/other", {**SETTINGS, "model.safetensors": WEIGHTS[1:]})
    fake_hub.wrong = {"model.safetensors": 2}
    with pytest.raises(RunError, match=r"model\.safetensors from the hub does not have the checksum"):
        locate_model(HubName("lab/other"), "video", "--flag")
    folder = tmp_path / "home" / "hub" / "models--lab--other"
    assert not (folder / "snapshots").exists() and not list(folder.glob("blobs/*.partial"))


def test_a_small_file_with_wrong_bytes_is_noticed_too(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", {**MODEL, "config.json": b'{"a": 1}'})
    fake_hub.wrong = {"config.json": 1}
    assert (locate_model(NAME, "video", "--flag") / "config.json").read_bytes() == b'{"a": 1}'


def test_a_mirror_without_sizes_in_its_list_is_asked_file_by_file(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.knows_metadata = False
    assert (locate_model(NAME, "video", "--flag") / "model.safetensors").read_bytes() == WEIGHTS
    assert any(path.startswith("HEAD") for path in fake_hub.asked)


def test_a_token_goes_to_the_hub_and_not_to_the_store_that_it_redirects_to(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.repositories["lab/model"].gated = True
    with pytest.raises(InputError, match=r"the model is gated; accept its conditions"):
        locate_model(NAME, "video", "--flag")
    fake_hub.tokens["hub"].clear()
    fake_hub.store = fake_hub.second_address
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert (locate_model(NAME, "video", "--flag") / "model.safetensors").read_bytes() == WEIGHTS
    assert fake_hub.tokens == {"hub": {f"Bearer {GOOD_TOKEN}"}, "store": {None}}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or GOOD_TOKEN.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("private", "token", "said"),
    [(True, None, "no such model, or it is private"), (False, "hf_" + "x" * 34, "requires a valid login")],
)
def test_a_refusal_is_one_sentence(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, private: bool, token: str | None, said: str
) -> None:
    fake_hub.add_files("lab/model", MODEL)
    fake_hub.repositories["lab/model"].private = private
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError) as message:
        locate_model(NAME, "video", "--video-model")
    sentence = str(message.value)
    assert said in sentence and "surgvivqa fetch --video-model lab/model" in sentence and "\n" not in sentence
    assert token is None or token not in sentence


def test_a_busy_hub_and_an_unknown_revision_are_told_apart(fake_hub: FakeHub) -> None:
    fake_hub.add_files("lab/model", MODEL)
    with pytest.raises(InputError, match="no such revision"):
        locate_model(HubName("lab/model", "v9"), "video", "--flag")
    fake_hub.status = 503
    with pytest.raises(InputError, match="busy or down"):
        locate_model(NAME, "video", "--flag")


def test_a_full_disk_is_noticed_before_the_download(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.add_files("lab/model", MODEL)
    monkeypatch.setattr(hub_models, "free_space", lambda folder: 10_000)
    with pytest.raises(InputError, match=r"10 kB free, but 102 kB are to be fetched"):
        locate_model(NAME, "video", "--flag")
    assert not fake_hub.files_asked()


# ------------------------------------------------------------------------------------------------------------ the cache


def test_a_commit_in_the_cache_asks_the_hub_nothing(fake_hub: FakeHub) -> None:
    commit = fake_hub.add_files("lab/model", MODEL)
    folder = locate_model(NAME, "video", "--flag")
    fake_hub.asked.clear()
    assert locate_model(HubName("lab/model", commit), "video", "--flag") == folder
    assert not fake_hub.asked


def test_a_branch_follows_the_hub_and_offline_it_stays(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_hub.add_files("lab/model", MODEL)
    assert locate_model(NAME, "video", "--flag").name == old
    new = fake_hub.add_files("lab/model", {**MODEL, "config.json": b'{"new": 1}'})
    assert locate_model(NAME, "video", "--flag").name == new
    assert fake_hub.files_asked().count("model.safetensors") == 1  # the same content is not fetched twice
    fake_hub.add_files("lab/model", MODEL)
    go_offline(monkeypatch)
    assert locate_model(NAME, "video", "--flag").name == new
    assert locate_model(HubName("lab/model", old), "video", "--flag").name == old
    assert resolve_commit(NAME, "video") == new


def test_offline_the_only_commit_in_the_cache_serves_a_name_without_a_revision(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fake_hub.add_files("lab/model", MODEL)
    second = fake_hub.add_files("lab/model", {**MODEL, "config.json": b'{"new": 1}'})
    locate_model(HubName("lab/model", first), "video", "--flag")
    go_offline(monkeypatch)
    assert locate_model(NAME, "video", "--flag").name == first
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        locate_model(HubName("lab/model", second), "video", "--flag")


def test_the_cache_is_one_that_the_hubs_library_reads(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.add_files("lab/model", MODEL)
    folder = locate_model(NAME, "video", "--flag")
    go_offline(monkeypatch)
    cache = huggingface_hub.constants.HF_HUB_CACHE
    found = huggingface_hub.hf_hub_download("lab/model", "model.safetensors", cache_dir=cache)
    assert Path(found) == folder / "model.safetensors"
    assert hashlib.sha256(Path(found).read_bytes()).hexdigest() == Path(found).resolve().name
    (repository,) = huggingface_hub.scan_cache_dir(cache).repos
    assert (repository.repo_id, repository.size_on_disk) == ("lab/model", len(WEIGHTS) + 2)


def test_a_cache_that_the_hubs_library_filled_is_used_offline(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.add_files("lab/model", MODEL)
    cache = huggingface_hub.constants.HF_HUB_CACHE
    for file in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("lab/model", file, cache_dir=cache)
    go_offline(monkeypatch)
    assert names(locate_model(NAME, "video", "--flag")) == set(MODEL)


def test_a_snapshot_without_its_weights_is_not_complete(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.add_files("lab/model", MODEL)
    (locate_model(NAME, "video", "--flag") / "model.safetensors").resolve().unlink()  # its link stays
    go_offline(monkeypatch)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE keeps this process off the network"):
        locate_model(NAME, "video", "--flag")


def test_a_cache_without_links_holds_copies(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    fake_hub.add_files("lab/model", MODEL)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    file = locate_model(NAME, "video", "--flag") / "model.safetensors"
    assert not file.is_symlink() and file.read_bytes() == WEIGHTS
