"""Reads a text file that a flag names, line by line."""

from pathlib import Path

from surgvivqa.utils.errors import InputError, first_line
from surgvivqa.utils.safe_json import check_regular_file


def read_lines(path: Path, flag: str, max_bytes: int) -> list[str]:
    """The lines of a UTF-8 file, without white space around them; empty ones are kept.

    Lines end with LF or CRLF. JSON may hold the other characters at which ``str.splitlines`` splits.

    Raises:
        InputError: the file cannot be read, is no regular file, is too large or is not UTF-8. It names ``flag``.
    """
    try:
        check_regular_file(path)
        if path.stat().st_size > max_bytes:
            raise ValueError(f"it is larger than {max_bytes:,} bytes")
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except OSError as error:
        raise InputError(f"{flag} {path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{flag} {path} is not a text file in UTF-8 ({first_line(error)}).") from None
    except ValueError as error:
        raise InputError(f"{flag} {path} cannot be read ({first_line(error)}).") from None
