"""The limits of a server, so that one visitor cannot take all of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for.

    Attributes:
        upload_mb: size of an upload, megabytes.
        seconds: length of a video.
        moments: moments of a timeline.
        request_seconds: time for one timeline or one map.
        queue: requests that wait; further ones are refused.
        keep_minutes: time without use after which an upload is removed.
        question_length: characters of a question.
    """

    upload_mb: int = 500
    seconds: float = 3600.0
    moments: int = 600
    request_seconds: float = 300.0
    queue: int = 20
    keep_minutes: float = 30.0
    question_length: int = 300
