"""Finds tokens and passwords in values, and masks them in messages."""

import re

# A folder may be called hf_models, so a token must contain a capital or be as long as a real one. ``Path`` reduces "//"
# to "/"; then only a password or "http:" identifies a login, because /data/a:/b@c is a path.
_TOKEN = re.compile(
    r"\b(hf|api_org)_(?:(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{6,}|[A-Za-z0-9]{30,})|(?<=Bearer )[\w.~+/=-]+"
    r"|(?:(?<=://)|(?<=http:/)|(?<=https:/))[^/@\s]+(?=@)|(?<=:/)[^/@\s]*:[^/@\s]+(?=@)"
)
# A URL with a user name and a password, or with a token in the place of both.
_LOGIN = re.compile(r"[A-Za-z][\w+.-]*:/{1,2}[^/@\s]*:[^/@\s]+@|\bhttps?:/{1,2}[^/@\s]+@")
SECRET = re.compile(rb"\b(hf|api_org)_[A-Za-z0-9]{30,}")  # a complete token of the Hugging Face Hub


def mask_secrets(text: str) -> str:
    """Replaces the hub's tokens (``hf_...``), bearer tokens, and logins in URLs by ``***``."""
    return _TOKEN.sub(lambda match: f"{match[1]}_***" if match[1] else "***", text)


def holds_secret(value: str) -> bool:
    """Whether a value contains a complete token of the hub, or a URL with a login."""
    return bool(SECRET.search(value.encode(errors="replace")) or _LOGIN.search(value))
