"""Tokens and logins: found in values, masked in messages."""

import re

# A folder may be called hf_models: what is masked has a capital, as a token has, or is as long as one. After one slash
# (Path makes one of two) a password shows that it is a login, or http: /data/a:/b@c is a path.
_TOKEN = re.compile(
    r"\b(hf|api_org)_(?:(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{6,}|[A-Za-z0-9]{30,})|(?<=Bearer )[\w.~+/=-]+"
    r"|(?:(?<=://)|(?<=http:/)|(?<=https:/))[^/@\s]+(?=@)|(?<=:/)[^/@\s]*:[^/@\s]+(?=@)"
)
# A login with a password, or the token alone that takes its place on the web.
_LOGIN = re.compile(r"[A-Za-z][\w+.-]*:/{1,2}[^/@\s]*:[^/@\s]+@|\bhttps?:/{1,2}[^/@\s]+@")
SECRET = re.compile(rb"\b(hf|api_org)_[A-Za-z0-9]{30,}")  # a whole token, as the hub gives them out


def mask_secrets(text: str) -> str:
    """A message with the hub's tokens (``hf_...``), bearer tokens and the logins of addresses taken out."""
    return _TOKEN.sub(lambda found: f"{found[1]}_***" if found[1] else "***", text)


def holds_secret(value: str) -> bool:
    """Whether a flag's value is, or holds, a whole token of the hub's or an address with a password in it."""
    return bool(SECRET.search(value.encode(errors="replace")) or _LOGIN.search(value))
