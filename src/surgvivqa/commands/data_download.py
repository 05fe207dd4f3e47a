"""``surgvivqa data download``: downloads data sets, checks and unpacks them, and records their licences."""

import contextlib
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import tyro

from surgvivqa.config import check_ranges, flag
from surgvivqa.downloads.install import InstallOptions, install, is_installed
from surgvivqa.downloads.licence import RECORD, accept_licence
from surgvivqa.downloads.places import Mirrors
from surgvivqa.downloads.progress import format_bytes
from surgvivqa.downloads.sources import Source, find_source
from surgvivqa.downloads.web import WebLimits
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.signals import EXIT_STOPPED, STOP_SIGNALS


@dataclass(kw_only=True)
class DataDownloadConfig:
    """Downloads data sets from their public places, unpacks them safely and records their licences.

    A download that was stopped goes on when the command is run again.
    """

    names: Annotated[list[str], tyro.conf.Positional] = flag("Names of data sets, as `surgvivqa data list` shows them.")
    to: Path = flag("Folder that gets one folder for each data set.")
    accept_licence: bool = flag(
        "Accept the licences of the data sets, which are shown. Otherwise you are asked.", False
    )
    mirror: Annotated[list[str], tyro.conf.UseAppendAction] = flag(
        "Place to use instead of the public ones: an https, http or file address or a folder that has the files by "
        "their names; NAME=PLACE for one data set, where PLACE may also be the file itself. Can be repeated.",
        default_factory=list,
    )
    sha256: str | None = flag(
        "SHA-256 checksum that the file must have, 64 hexadecimal digits; for one data set. Default: the published "
        "one, or that of an earlier download.",
        None,
    )
    overwrite: bool = flag("Replace the folder of an earlier download.", False)
    keep_archives: bool = flag("Keep downloaded archives in DIR/downloads after they are unpacked.", False)
    timeout: float = flag(
        "Seconds without a byte after which a connection is given up and made again.", 60.0, least=0.1
    )
    attempts: int = flag("Attempts in a row without progress after which the download fails.", 6, least=1)
    retry_wait: float = flag("Seconds before the second attempt; doubled for each further one.", 1.0, least=0)


def data_download(config: DataDownloadConfig) -> int:
    """Downloads the data sets and prints where they are and the flags that use them.

    Returns:
        0, or 75 if a signal or Ctrl-C stopped it.

    Raises:
        InputError: a flag cannot be used, a licence is not accepted, or a data set must be had by hand.
        RunError: a file cannot be had or is not what it should be.
    """
    check_ranges(config)
    if not config.names:
        raise InputError("No data set is named; `surgvivqa data list` shows them.")
    sources = [find_source(name) for name in dict.fromkeys(config.names)]
    options = _options(config, sources)
    wanted = [source for source in sources if not is_installed(source, options)]
    for source in wanted:
        if not source.files:
            raise InputError(
                f"{source.name} cannot be downloaded by this command. {source.by_hand} Page: {source.page}"
            )
        for file in source.files:
            options.mirrors.find(source, file)  # before any download: one that must be had by hand is an error
    with _stop_by_exception():
        try:
            if wanted:
                consent = accept_licence(wanted, config.accept_licence)
            for source in sources:
                if source in wanted:
                    _announce(source, options)
                    install(source, consent, options)
                _report(source, options)
        except KeyboardInterrupt as stop:
            name = str(stop) or "SIGINT"
            print(
                f"\nsurgvivqa: stopped by {name}; what was downloaded so far is kept, and the same command goes on.",
                file=sys.stderr,
            )
            return EXIT_STOPPED
    return 0


def _options(config: DataDownloadConfig, sources: list[Source]) -> InstallOptions:
    """The options of the command line.

    Raises:
        InputError: ``--sha256`` or ``--to`` cannot be used.
    """
    if config.sha256 is not None:
        if len(sources) != 1:
            raise InputError(f"--sha256 is the checksum of one file, but {len(sources)} data sets are named; name one.")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", config.sha256):
            raise InputError("--sha256 must have 64 hexadecimal digits, as `sha256sum FILE` prints them.")
    if config.to.exists() and not config.to.is_dir():
        raise InputError(f"--to {config.to} is a file; give a folder.")
    return InstallOptions(
        to=config.to,
        mirrors=Mirrors.parse(config.mirror),
        sha256=config.sha256.lower() if config.sha256 else None,
        overwrite=config.overwrite,
        keep_archives=config.keep_archives,
        limits=WebLimits(timeout=config.timeout, attempts=config.attempts, backoff=config.retry_wait),
    )


def _announce(source: Source, options: InstallOptions) -> None:
    """Prints where a data set is taken from, and what is not known about it."""
    for file in source.files:
        place = options.mirrors.find(source, file)
        size = "size unknown" if file.bytes is None else format_bytes(file.bytes)
        print(f"{source.name}: {place} ({size})", flush=True)
        if not file.verified and options.sha256 is None:
            print(
                f"  not verified: no size and checksum of {file.name} is published (address from: {file.seen}). The "
                f"checksum of what comes is recorded, and compared from then on.",
                flush=True,
            )


def _report(source: Source, options: InstallOptions) -> None:
    folder = options.to / source.folder
    print(f"{source.name}: in {folder}; origin, licence and checksum in {folder / RECORD}")
    for flags in source.flags:
        print(f"  use it with {flags.format(folder=shlex.quote(str(folder)))}")


@contextlib.contextmanager
def _stop_by_exception() -> Iterator[None]:
    """Makes stop signals raise ``KeyboardInterrupt`` with their name, so that files are closed and the bar ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, _raise_stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _raise_stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)
