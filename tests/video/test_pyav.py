"""Without PyAV, a video is refused in one sentence, and folders and pictures work."""

import builtins
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.utils.errors import InputError
from surgvivqa.video import open_clip_source


@pytest.mark.parametrize("reason", ["No module named 'av'", "libavcodec.so: cannot open shared object file"])
def test_the_missing_library_is_named(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError(reason)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"pip install 'surgvivqa\[video\]'"):
        open_clip_source(tmp_path / "film.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "000000.png")
    assert open_clip_source(tmp_path).duration == 1
