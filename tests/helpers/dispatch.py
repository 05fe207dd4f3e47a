"""Shows, without a GPU, that a computation never waits for its device: a mode that watches every operation.

Give the computation tensors on the device ``meta``, which have no values. Then a tensor that is made on the CPU shows::

    model.to("meta")
    with watch_operations("meta") as names:
        model(...)

With tensors on the CPU only host reads show, except ``Tensor.tolist`` and ``Tensor.numpy``, which are no operations; on
``meta`` these fail.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result the host reads, or whose result has a shape that depends on values.
HOST_READS = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select"})
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")  # by a mask they call nonzero


class HostReadError(AssertionError):
    """The computation waits for the device."""


class OtherDeviceError(AssertionError):
    """The computation takes or makes a tensor on another device."""


class _Watch(TorchDispatchMode):
    def __init__(self, device: torch.device, names: list[str]) -> None:
        super().__init__()
        self.device, self.names = device, names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name().partition(".")[0], kwargs or {}
        self.names.append(name)
        if name in HOST_READS or (name in _INDEXING and any(map(_is_bool, tree_leaves(args[1])))):
            raise HostReadError(f"{name} waits for the device")
        self._check_devices(f"{name} takes", (args, kwargs))
        if torch.device(kwargs.get("device") or self.device) != self.device:
            raise OtherDeviceError(f"{name} makes a tensor on {kwargs['device']}")
        result = func(*args, **kwargs)
        self._check_devices(f"{name} makes", result)
        return result

    def _check_devices(self, what: str, values: Any) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.device != self.device:
                raise OtherDeviceError(f"{what} a tensor {list(tensor.shape)} on {tensor.device}")


def _is_bool(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


@contextlib.contextmanager
def watch_operations(device: torch.device | str) -> Iterator[list[str]]:
    """Context manager that forbids host reads, and tensors on other devices, in the operations of its body.

    On ``meta``, which autocast does not support, ``torch.autocast`` does nothing in the body.

    Args:
        device: the device of all tensors: those that the operations take, those that factory functions make, and those
            that are copied.

    Yields:
        The operations' names so far, such as ``aten::addmm``.

    Raises:
        HostReadError: an operation reads a value on the host, or its result's shape depends on values.
        OtherDeviceError: an operation takes or returns a tensor on another device.
    """
    names: list[str] = []
    with contextlib.ExitStack() as stack:
        if torch.device(device).type == "meta":
            stack.enter_context(mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()))
        stack.enter_context(_Watch(torch.device(device), names))
        yield names
