"""Where and how an evaluation was computed: versions, device, precision, time."""

import platform
from dataclasses import dataclass

import torch
import transformers

from surgvivqa import __version__


@dataclass(frozen=True)
class Environment:
    """Where and how predictions were computed.

    Attributes:
        versions: version of this package, of PyTorch, Transformers and Python, by name.
        device: name of the GPU, or ``CPU``.
        precision: dtype of the matrix products, such as ``bfloat16``.
        processes: number of processes that shared the frames.
        seconds: duration of the predictions, including loading and decoding of frames.
        finished: time of the end, ISO 8601 with time zone.
    """

    versions: dict[str, str]
    device: str
    precision: str
    processes: int
    seconds: float
    finished: str

    @classmethod
    def of_this_process(
        cls, device: torch.device, precision: torch.dtype, processes: int, seconds: float, finished: str
    ) -> "Environment":
        """The environment of this process."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        versions = {
            "surgvivqa": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
        return cls(versions, name, str(precision).removeprefix("torch."), processes, seconds, finished)
