"""The errors that reach the user: one sentence each, and the exit code that goes with it."""


class SurgViVQAError(Exception):
    """Base of every error raised on purpose. ``cli.main`` prints its sentence and exits with ``exit_code``."""

    exit_code = 1
    reported_elsewhere = False
    """Another process of the same run prints the sentence."""

    @property
    def sentence(self) -> str:
        """The message alone: PyTorch hands on an error of a worker process with that process's traceback in it."""
        text = str(self).strip()
        if text.startswith("Caught "):
            return text.splitlines()[-1].partition(": ")[2]
        return text


def first_line(error: BaseException, most: int = 160) -> str:
    """The first line of what an error says, for a sentence; its kind, where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def one_line(text: str) -> str:
    """A text without what would forge a second line or command the terminal: names may be a stranger's."""
    return "".join(c if c.isprintable() else " " for c in text)


class InputError(SurgViVQAError):
    """Wrong usage or wrong input (a flag, a path, a file): exit code 2."""

    exit_code = 2


class FrameError(InputError):
    """A frame that cannot be used: its image is missing, damaged or of a kind that is refused, or what a cache holds of
    it is damaged. ``--on-bad-frame`` says what a command makes of it."""

    frame: tuple[str, int] | None = None
    """The frame whose questions cannot be asked: video and number; None where only the image is known."""


class RunError(SurgViVQAError):
    """A check or a run failed although its input was well-formed: exit code 1."""

    exit_code = 1
