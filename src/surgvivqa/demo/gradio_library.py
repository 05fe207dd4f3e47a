"""Gradio, the one optional library of this room: it is imported here, without what would leave the machine."""

import importlib
import os
from typing import Any

from surgvivqa.utils.errors import InputError


def import_gradio(folder: str) -> Any:
    """Imports Gradio with telemetry off and its files in ``folder``.

    A visitor's request may hold an address instead of an upload, which Gradio would download; here it is refused.

    Raises:
        InputError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = folder
    for variable in ("GRADIO_SHARE", "GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH"):
        os.environ.pop(variable, None)
    try:
        gradio = importlib.import_module("gradio")
        processing = importlib.import_module("gradio.processing_utils")
    except ModuleNotFoundError as error:
        raise InputError(
            f"surgvivqa demo needs Gradio ({error.name} is not installed); run pip install 'surgvivqa[demo]'."
        ) from None
    vars(processing)["async_ssrf_protected_get"] = _refuse_download
    return gradio


async def _refuse_download(url: str) -> Any:
    raise ValueError("Addresses are not downloaded; drop a file.")
