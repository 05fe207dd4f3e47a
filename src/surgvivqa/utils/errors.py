"""Errors for the user, each one sentence with an exit code."""


class SurgViVQAError(Exception):
    """Base class of all expected errors; ``cli.main`` prints the sentence and exits with ``exit_code``."""

    exit_code = 1
    reported_elsewhere = False
    """Whether another process of the same run prints the sentence."""

    @property
    def sentence(self) -> str:
        """The message without a traceback, which PyTorch adds to an error of a worker process."""
        text = str(self).strip()
        if text.startswith("Caught "):
            return text.splitlines()[-1].partition(": ")[2]
        return text


def first_line(error: BaseException, max_length: int = 160) -> str:
    """The first line of an error's message, at most ``max_length`` characters; its type's name if it is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:max_length]


def one_line(text: str) -> str:
    """Replaces unprintable characters, which could fake a line or control the terminal, by spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


class InputError(SurgViVQAError):
    """Wrong input, such as a flag, a path or a file: exit code 2."""

    exit_code = 2


class FrameError(InputError):
    """A frame that cannot be used; ``--on-bad-frame`` decides how a command handles it.

    Its image is missing, damaged or of an unsupported kind, or its item in a cache is damaged.
    """

    frame: tuple[str, int] | None = None
    """Video and number of the frame that cannot be used; None if only the image is known."""


class RunError(SurgViVQAError):
    """A check or run that failed with valid input: exit code 1."""

    exit_code = 1
