"""Opens web addresses for downloads: redirects, proxies, time limits, and errors as sentences."""

import email.utils
import http.client
import math
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any

from surgvivqa import __version__
from surgvivqa.utils.errors import RunError, first_line

_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 120.0  # seconds; a server may ask for hours
_DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")


@dataclass(frozen=True)
class WebLimits:
    """How patient a download is.

    Attributes:
        timeout: seconds without any byte after which a connection counts as dead.
        attempts: attempts in a row without progress after which the download fails.
        backoff: seconds before the second attempt; doubled before each further one, up to a minute.
        redirects: redirects that are followed.
        allow_http: whether addresses without TLS are accepted, as those of a mirror that was given as such.
    """

    timeout: float = 60.0
    attempts: int = 6
    backoff: float = 1.0
    redirects: int = 5
    allow_http: bool = False

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return min(60.0, self.backoff * 2 ** (failures - 1))


class TemporaryError(Exception):
    """A fault that may pass, such as a cut connection; the message is a phrase.

    Attributes:
        wait: seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class RangeNotSatisfiableError(Exception):
    """The server has no bytes where the download would go on (416)."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a limited number of redirects, by default only to https addresses."""

    def __init__(self, limits: WebLimits) -> None:
        self.limits = limits
        vars(self).update(max_redirections=limits.redirects, max_repeats=limits.redirects)

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        check_address(newurl, self.limits)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def check_address(url: str, limits: WebLimits) -> None:
    """Checks that an address may be downloaded from.

    Raises:
        RunError: it has another scheme than https (or http for a mirror), or it is one of Google Drive.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and limits.allow_http):
        raise RunError(
            f"{url} is not an https address, and anyone on the way could change what it sends; "
            f"download it by hand, or give a place that you trust with --mirror."
        )
    if parts.hostname in _DRIVE_HOSTS:
        raise RunError(
            f"{url} is on Google Drive, which answers programs with a page to confirm; download the file in a browser "
            f"and give it with --mirror NAME=FILE."
        )


def open_url(url: str, headers: Mapping[str, str], limits: WebLimits) -> Any:
    """Requests an address; proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY`` and so on).

    Returns:
        The response, ``http.client.HTTPResponse`` or alike, with status 200 or 206.

    Raises:
        TemporaryError: a fault that may pass.
        RangeNotSatisfiableError: the server answers 416.
        RunError: a fault that will not pass.
    """
    check_address(url, limits)
    request = urllib.request.Request(
        url, headers={"User-Agent": f"surgvivqa/{__version__}", "Accept-Encoding": "identity", **headers}
    )
    opener = urllib.request.build_opener(_Redirects(limits))
    try:
        response = opener.open(request, timeout=limits.timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _explain_status(url, error, limits) from None
    except urllib.error.URLError as error:
        raise _explain_failure(url, error.reason) from None
    except (OSError, http.client.HTTPException) as error:
        raise _explain_failure(url, error) from None
    except ValueError as error:  # a redirect to something that is no address
        raise RunError(f"{url} cannot be opened ({first_line(error)}).") from None
    if response.status not in (200, 206):
        response.close()
        raise RunError(f"{url} answers with status {response.status}, which is not a download.")
    return response


def _explain_status(url: str, error: urllib.error.HTTPError, limits: WebLimits) -> Exception:
    """The exception for a status that is an error."""
    code = error.code
    if code == 416:
        return RangeNotSatisfiableError()
    if code in _RETRIED:
        return TemporaryError(f"status {code} ({error.reason})", _retry_after(error.headers.get("Retry-After")))
    if 300 <= code < 400:
        return RunError(
            f"{url} redirects more than {limits.redirects} times, in a circle, or to another kind of address; look at "
            f"it in a browser, or give another place with --mirror."
        )
    why = {
        401: "asks for a login",
        403: "refuses the download",
        404: "has no such file",
        407: "cannot be reached, because the proxy asks for a login",
        410: "no longer has the file",
    }.get(code, "cannot be downloaded")
    return RunError(
        f"{url} {why} (status {code}); look at the data set's page (`surgvivqa data list`), or give another place with "
        f"--mirror."
    )


def _explain_failure(url: str, reason: object) -> Exception:
    """The exception for a connection that failed."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return RunError(
            f"The certificate of {url} cannot be verified ({reason.verify_message}); if a proxy of your institution "
            f"replaces certificates, name its certificate file in SSL_CERT_FILE."
        )
    if isinstance(reason, BaseException):
        return TemporaryError(first_line(reason))
    return TemporaryError(str(reason))


def _retry_after(value: str | None) -> float | None:
    """Seconds in a ``Retry-After`` header (RFC 9110, 10.2.3), at most two minutes; None without a usable one."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None
