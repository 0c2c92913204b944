"""Which device and which number format a run computes in, and why."""

from __future__ import annotations

import contextlib
import re

import torch

from danlu.core.environment import cpu_features
from danlu.core.errors import InputError, nearest_names

__all__ = ["autocast", "choose_device", "choose_precision"]

_DEVICES = ("auto", "cpu", "cuda", "cuda:<i>", "mps")


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
    """Return the precision that takes effect (``fp32`` or ``bf16``) and why."""
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
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
