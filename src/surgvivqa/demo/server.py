"""Starts the page's server, and stops it so that no upload is left behind."""

import contextlib
import ipaddress
import logging
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from surgvivqa.demo.examples import write_examples
from surgvivqa.demo.gradio_library import import_gradio
from surgvivqa.demo.limits import Limits
from surgvivqa.demo.page import Page
from surgvivqa.demo.uploads import PrivateFolder, Sessions
from surgvivqa.demo.visits import Desk, LoadedModel, Visit
from surgvivqa.utils.errors import InputError, RunError, first_line

log = logging.getLogger("surgvivqa")

# Nothing is loaded from another host, and no other page can show this one in a frame. Gradio's own scripts are inline
# and compile the code of HTML parts.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True)
class Address:
    """Where the server listens.

    Attributes:
        host: name or number of the interface.
        port: the port.
        logins: names with their passwords; empty for a page without a login.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    logins: tuple[tuple[str, str], ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        return False


def read_logins(path: Path) -> tuple[tuple[str, str], ...]:
    """Reads names and passwords, one ``name:password`` per line.

    Raises:
        InputError: the file cannot be read, others can read it, or a line is not of that form.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > 100_000:
            raise InputError(f"--auth {path} is not a small text file; give lines of name:password.")
        if sys.platform != "win32" and status.st_mode & 0o077:
            raise InputError(f"--auth {path} can be read by other users; run chmod 600 on it.")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"--auth {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise InputError(f"--auth {path} is not a text file in UTF-8; give lines of name:password.") from None
    logins = []
    for number, line in enumerate(lines, start=1):
        name, colon, password = line.strip().partition(":")
        if line.strip() and not (name and colon and password):
            raise InputError(f"--auth {path}:{number} is not name:password.")
        if line.strip():
            logins.append((name, password))
    if not logins:
        raise InputError(f"--auth {path} has no line of name:password.")
    return tuple(logins)


def check_address(address: Address) -> None:
    """Checks that the port is free, before a model is loaded.

    Raises:
        InputError: it is taken, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host.strip("[]"), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if sys.platform != "win32":  # there it would allow a second server on the same port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(
            f"--host {address.host} --port {address.port} cannot be used ({reason}); choose another port."
        ) from None


class Stopped(BaseException):
    """A stop signal arrived."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into ``Stopped`` in the main thread, so that the folder is removed as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    old = {number: signal.signal(number, _raise_stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _raise_stopped(number: int, _: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


@contextlib.contextmanager
def open_page(
    load: Callable[[], LoadedModel],
    address: Address,
    limits: Limits,
) -> Iterator[str]:
    """Runs the server while the body runs; afterwards its folder is gone.

    Args:
        load: loads the model.
        address: where to listen.
        limits: what a visitor may ask for.

    Yields:
        The address of the page.

    Raises:
        InputError: Gradio is not installed, or the address cannot be used.
        RunError: the server does not start.
    """
    check_address(address)
    folder = PrivateFolder()
    blocks: Any = None
    sessions: Sessions[Visit] | None = None
    try:
        arriving = folder.path / "arriving"
        gr = import_gradio(str(arriving))
        loaded = load()
        examples = write_examples(folder.path / "examples")
        sessions = Sessions(folder.path / "visits", arriving, Visit, Visit.close, 60 * limits.keep_minutes)
        page = Page(gr, Desk(loaded.answerer, limits, arriving), sessions, loaded, examples)
        blocks = page.build()
        try:
            blocks.launch(
                server_name=address.host,
                server_port=address.port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=False,
                max_file_size=limits.upload_mb * 1_000_000,
                auth=list(address.logins) or None,
                theme=page.theme(),
                css=page.style(),
                head=page.script(),
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                inbrowser=False,
                app_kwargs={"middleware": [(_CheckHost, (address,), {}), (_AddHeaders, (), {})]},
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(f"The page's server did not start ({first_line(error)}).") from error
        yield f"http://{_for_browser(address.host)}:{address.port}"
    finally:
        if blocks is not None:
            blocks.close(verbose=False)
        if sessions is not None:
            sessions.close()
        folder.close()


def wait_for_stop() -> None:
    """Waits until Ctrl-C or a stop signal."""
    with contextlib.suppress(KeyboardInterrupt, Stopped):
        while True:
            time.sleep(3600)


def _for_browser(host: str) -> str:
    if host in ("0.0.0.0", "::", "[::]"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


class _CheckHost:
    """ASGI middleware that answers this machine's browsers only, where the page listens on this machine only.

    A page of another host can have its own name lead to 127.0.0.1 (DNS rebinding), or post to it. Its name is then the
    request's Host or Origin.
    """

    def __init__(self, app: Any, address: Address) -> None:
        self.app, self.address = app, address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self.address.is_local:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            asked = [headers[b"host"]] if b"host" in headers else []
            asked += [headers[b"origin"].partition("://")[2]] if b"origin" in headers else []
            if not all(map(_is_local_name, asked)):
                plain = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 421, "headers": plain})
                await send({"type": "http.response.body", "body": b"This page answers on this machine only."})
                return
        await self.app(scope, receive, send)


def _is_local_name(host: str) -> bool:
    """Whether a Host, with or without its port, is a name or an address of this machine's loopback."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name.casefold() == "localhost" or Address(name, 0).is_local


class _AddHeaders:
    """ASGI middleware that adds ``_HEADERS`` to each answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self.app(scope, receive, send_with_headers)
