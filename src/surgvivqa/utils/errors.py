"""The errors that reach the user, each a single sentence with an exit code."""


class SurgViVQAError(Exception):
    """Base of every error raised on purpose; ``cli.main`` prints its sentence and exits with ``exit_code``."""

    exit_code = 1
    reported_elsewhere = False
    """Whether another process of the same run prints the sentence."""

    @property
    def sentence(self) -> str:
        """The message alone; PyTorch forwards an error of a worker process with that process's traceback in it."""
        text = str(self).strip()
        if text.startswith("Caught "):
            return text.splitlines()[-1].partition(": ")[2]
        return text


def first_line(error: BaseException, most: int = 160) -> str:
    """The first line of an error's message, at most ``most`` characters; its type's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def one_line(text: str) -> str:
    """``text`` with a space for each unprintable character, which could forge a line or control the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


class InputError(SurgViVQAError):
    """Wrong usage or wrong input (a flag, a path, a file): exit code 2."""

    exit_code = 2


class FrameError(InputError):
    """A frame that cannot be used; ``--on-bad-frame`` decides how a command handles it.

    Its image is missing, damaged or of an unsupported kind, or its item in a cache is damaged.
    """

    frame: tuple[str, int] | None = None
    """The frame whose questions cannot be asked: video and number; None where only the image is known."""


class RunError(SurgViVQAError):
    """A check or a run failed although its input was well-formed: exit code 1."""

    exit_code = 1
