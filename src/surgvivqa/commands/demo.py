"""``surgvivqa demo``: a page in the browser that answers questions about frames and videos."""

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from surgvivqa.auto import SurgViVQA
from surgvivqa.commands.load_model import load_model
from surgvivqa.config import OptionalModelConfig, check_ranges, flag
from surgvivqa.demo.facts import describe_model
from surgvivqa.demo.limits import Limits
from surgvivqa.demo.questions import SSG_QA_QUESTIONS, read_questions
from surgvivqa.demo.server import Address, open_page, read_logins, stop_on_signals, wait_for_stop
from surgvivqa.demo.visits import LoadedModel
from surgvivqa.utils.errors import InputError

log = logging.getLogger("surgvivqa")


@dataclass(kw_only=True)
class DemoConfig:
    """Serves a page in the browser: drop a frame or a video, choose a moment, ask, see the answer.

    Model flags apply to a checkpoint without settings (a lone .pth). --prompt-mode, --mask and --max-length also
    override the settings of other checkpoints.
    """

    checkpoint: Path = flag(
        "A run folder, its best/, a .pth state dict, a hub name, or tiny (the packaged base, trained on drawings).",
        Path("tiny"),
    )
    host: str = flag(
        "The interface to listen on. The default can be reached from this machine only; 0.0.0.0 from the network.",
        "127.0.0.1",
    )
    port: int = flag("The port to listen on.", 7860, least=1, most=65535)
    auth: Path | None = flag("A file with lines name:password, which visitors must give; needs mode 600.", None)
    questions: Path | None = flag(
        "A text file of suggested questions, one per line, perhaps as Type: question. Default: SSG-QA's, for a model "
        "with its labels.",
        None,
    )
    max_upload_mb: int = flag("Size of an upload in megabytes.", 500, least=1)
    max_seconds: float = flag("Length of a video in seconds.", 3600.0, least=1)
    max_moments: int = flag("Moments that one timeline may ask about.", 600, least=2)
    max_queue: int = flag("Requests that may wait for the model; further ones are refused.", 20, least=1)
    request_seconds: float = flag(
        "Time limit of one timeline or occlusion map, checked between its passes. What is ready by then is shown.",
        300.0,
        least=1,
    )
    keep_minutes: float = flag("Minutes without use after which an upload is removed.", 30.0, least=0.1)
    share: bool = flag("Refused: a public link would send what visitors drop through a server of others.", False)
    verify: bool = flag("Verify the checksums of the checkpoint.", True)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )


def demo(config: DemoConfig) -> int:
    """Serves the page until Ctrl-C or SIGTERM; computes on a GPU if one is visible. No upload is left afterwards.

    Raises:
        InputError: a flag is wrong, the checkpoint cannot be loaded, or Gradio is not installed.
        RunError: the server does not start.
    """
    started = time.monotonic()
    check_ranges(config)
    if config.share:
        raise InputError(
            "--share is refused: a public link would send pictures of patients through a server of others; use an SSH "
            "tunnel, or --host with --auth."
        )
    address = Address(config.host, config.port, read_logins(config.auth) if config.auth else ())
    given = read_questions(config.questions) if config.questions else None
    limits = Limits(
        upload_mb=config.max_upload_mb,
        seconds=config.max_seconds,
        moments=config.max_moments,
        request_seconds=config.request_seconds,
        queue=config.max_queue,
        keep_minutes=config.keep_minutes,
    )
    if not address.is_local:
        log.warning(
            "--host %s can be reached by others, over a connection without encryption: show no pictures of patients to "
            "people who may not see them.%s",
            address.host,
            "" if address.logins else " There is no login; --auth FILE adds one.",
        )

    def load() -> LoadedModel:
        bundle = load_model(config.checkpoint, config.model, verify=config.verify)
        model = SurgViVQA(bundle)
        questions = given or (SSG_QA_QUESTIONS if model.suggest_questions() else {})  # none for other labels
        labels = len(model.processor.prompt_tokenizer.label_ids)
        return LoadedModel(model, describe_model(config.checkpoint, bundle), labels, model.temperature, questions)

    with stop_on_signals(), open_page(load, address, limits) as url:
        log.info("The page is at %s (ready after %.1f s). Ctrl-C stops it.", url, time.monotonic() - started)
        wait_for_stop()
        log.info("Stopped; uploads are removed.")
    return 0
