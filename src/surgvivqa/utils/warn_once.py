"""Messages that are logged once per process."""

import functools
import logging

log = logging.getLogger("surgvivqa")


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning, unless the same message has been logged before."""
    log.warning(message)


@functools.cache
def info_once(message: str) -> None:
    """Logs a message, unless it has been logged before."""
    log.info(message)
