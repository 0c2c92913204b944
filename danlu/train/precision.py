"""Which device and which number format a run computes in, and why."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from danlu.core.environment import cpu_features
from danlu.core.errors import InputError, nearest_names

__all__ = ["LossScaler", "autocast", "choose_device", "choose_precision", "matrix_products"]

_DEVICES = ("auto", "cpu", "cuda", "cuda:<i>", "mps")
# Of a loss scaler: the steps it left out in the running epoch, and in the epochs before it.
_COUNTS = ("scaler/left_out", "scaler/left_out_before")


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first CUDA GPU, else Apple's, else the processor.

    Raises:
        InputError: an unknown name, or a device this machine does not have.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise InputError(
            f"unknown device {name!r}", where="--device", allowed=_DEVICES, nearest=nearest_names(name, _DEVICES[:3])
        )
    device = torch.device(name)
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[device.type]:
        raise InputError(
            f"this machine has no {name} device that torch can use", where="--device", mend="give --device auto"
        )
    return device


def choose_precision(requested: str, device: torch.device) -> tuple[str, str]:
    """Return the precision that takes effect and why.

    Raises:
        InputError: ``tf32`` where there is no such unit.
    """
    if requested == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8):
        raise InputError(
            f"tf32 is a format of NVIDIA GPUs from Ampere on; this is {device}",
            where="precision",
            allowed=["auto", "fp32", "bf16", "fp16"],
        )
    if requested != "auto":
        return requested, "asked for"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        # Older GPUs emulate bfloat16, which is slower than float32.
        if major >= 8:
            return "bf16", f"the GPU (compute capability {major}.{minor}) computes in bfloat16"
        return "fp32", f"the GPU (compute capability {major}.{minor}) has no bfloat16"
    if device.type == "cpu":
        found = [feature for feature in cpu_features() if feature in ("amx_bf16", "avx512_bf16")]
        if found:
            return "bf16", f"the processor has {' and '.join(found)}"
        return "fp32", "the processor has neither AMX nor AVX512-BF16"
    return "fp32", f"bfloat16 is not used on {device.type}"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a forward pass computes in ``precision``."""
    if precision in ("fp32", "tf32"):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


@contextlib.contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Let a GPU's float32 convolutions and matrix products round as ``tf32`` does, or keep them from it."""
    if not torch.cuda.is_available():
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


class LossScaler:
    """Multiplies the loss, so that small gradients do not vanish in half precision (Micikevicius et al. 2018, 3.2).

    The scale is halved when a gradient overflows, and that step is left out; it doubles after 2,000 steps without one.
    Its state is tensors, so that a checkpoint continues it exactly: the scale, the steps since the last overflow, and
    those left out, in the running epoch and before it.
    """

    PATIENCE = 2000

    def __init__(self, scale: float = 2.0**16) -> None:
        self.tensors = {"scaler/scale": torch.tensor(scale), "scaler/good_steps": torch.tensor(0.0)}
        self.tensors |= {name: torch.tensor(0.0) for name in _COUNTS}

    @property
    def scale(self) -> float:
        """What the loss is multiplied by."""
        return float(self.tensors["scaler/scale"])

    @property
    def left_out(self) -> int:
        """How many steps were left out so far."""
        return int(sum(float(self.tensors[name]) for name in _COUNTS))

    def end_epoch(self) -> int:
        """Return how many steps of the epoch that ends were left out; the count of the next one begins."""
        running, before = (self.tensors[name] for name in _COUNTS)
        count = int(running)
        before += running
        running.zero_()
        return count

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the state out of a checkpoint's ``tensors``; counts that earlier versions did not keep begin at 0."""
        later = {name: torch.tensor(0.0) for name in _COUNTS if name not in tensors}
        self.tensors = {name: later[name] if name in later else tensors.pop(name) for name in self.tensors}

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Divide the gradients by the scale, adapt it, and return whether all of them are finite."""
        gradients = [one.grad for one in parameters if one.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / self.scale)
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        good = self.tensors["scaler/good_steps"]
        if not finite:
            self.tensors["scaler/scale"] /= 2
            self.tensors[_COUNTS[0]] += 1
            good.zero_()
        else:
            good += 1
            if float(good) >= self.PATIENCE:
                self.tensors["scaler/scale"] *= 2
                good.zero_()
        return finite
