"""PyAV, an optional library that brings its own FFmpeg."""

from typing import Any

from surgvivqa.utils.errors import InputError, first_line


def load_av() -> Any:
    """The module ``av``, imported on first use.

    Raises:
        InputError: it is not installed, or cannot be loaded.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"Videos are read with PyAV, which cannot be imported ({first_line(error, 80)}); pip install "
            f"'surgvivqa[video]', or give a folder of frames."
        ) from None
    return av
