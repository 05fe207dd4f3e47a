"""What went wrong with the hub, as a part of one sentence that says what to do."""

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
# The library may use any HTTP client, each with its own exceptions.
_NETWORK = ("httpx", "httpcore", "requests", "urllib3")


def is_network(error: BaseException) -> bool:
    """Whether the hub could not be reached: no network, a timeout, offline mode, or a server error."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | TimeoutError | ConnectionError):
        return True
    return any(cls.__module__.startswith(_NETWORK) for cls in type(error).__mro__)


def explain_hub_error(error: BaseException) -> str | None:
    """What went wrong and what to do; None for an error that has nothing to do with the hub."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    for kind, sentence in (
        (GatedRepoError, f"the model is gated; accept its conditions on the model's page, and {_LOGIN}"),
        (RepositoryNotFoundError, f"the hub has no such model, or it is private; check the name, or {_LOGIN}"),
        (RevisionNotFoundError, "the model has no such revision; check the part after the @"),
        (RemoteEntryNotFoundError, "a file of the model is not there any more; try again"),
        (LocalTokenNotFoundError, f"that needs a login; {_LOGIN}"),
        (OfflineModeIsEnabled, "HF_HUB_OFFLINE keeps this process off the network; unset it"),
        (HFValidationError, f"the name is not valid on the hub ({text}); give another"),
    ):
        if isinstance(error, kind):
            return sentence
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        if code == 401:
            return f"the hub requires a valid login; {_LOGIN}"
        if code == 403:
            return f"this login lacks the permission ({text}); use a token that has it, and {_LOGIN}"
        if code == 429 or code >= 500:
            return f"the hub answers {code}, so it is busy or down; try again later"
        return f"the hub refuses ({text}); fix that and try again"
    if is_network(error):
        return f"the hub cannot be reached ({text}); check the network"
    if isinstance(error, OSError):
        return f"a file cannot be read or written ({error.strerror or text}); HF_HOME sets the folder of the cache"
    return None
