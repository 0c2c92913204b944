"""What this run ran on: versions, processor, memory. Read without importing torch."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from danlu.core.errors import InputError

__all__ = [
    "PACKAGES",
    "cpu_features",
    "describe_environment",
    "is_restarted",
    "is_writer",
    "launched",
    "processor_name",
    "usable_cores",
]

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "onnx", "onnxruntime", "onnxscript", "safetensors", "pydantic")

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def launched() -> tuple[int, int, int] | None:
    """Return (rank, number of processes, rank on this machine) as torchrun sets them; None where it started nothing.

    Raises:
        InputError: the variables contradict each other.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    told = [os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(value.isdigit() for value in told) or not int(told[0]) < int(told[1]):
        what = f"RANK={told[0]!r} WORLD_SIZE={told[1]!r} LOCAL_RANK={told[2]!r} are no ranks"
        raise InputError(what, where="environment", mend="start with torchrun, or unset RANK and WORLD_SIZE")
    rank, size, local = map(int, told)
    return rank, size, local


def is_writer() -> bool:
    """Return whether this process writes: it is the only one, or the first of those that torchrun started."""
    told = launched()
    return told is None or told[0] == 0


def is_restarted() -> bool:
    """Return whether torchrun started these processes anew after one of them had failed (``--max-restarts``)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def _cpuinfo() -> tuple[str, set[str]]:
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    name = value.strip()
                elif key.strip() in ("flags", "Features"):
                    flags = set(value.split())
                    break
    except OSError:
        pass
    return name, flags


def processor_name() -> str:
    """Return what this processor calls itself."""
    return _cpuinfo()[0]


def cpu_features() -> list[str]:
    """Return the vector and matrix extensions of this processor that matter here (Linux; elsewhere empty)."""
    flags = _cpuinfo()[1]
    return [feature for feature in _FEATURES if feature in flags]


def _versions() -> dict[str, str]:
    import importlib.metadata  # costs as much as Pillow, and a prediction asks for no version

    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_environment() -> dict[str, Any]:
    """Return versions and machine as a plain dictionary, for ``danlu env`` and the records."""
    from danlu.core.version import __version__

    return {
        "danlu": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor_name(),
        "cpu_features": cpu_features(),
        "cores": usable_cores(),
        "packages": _versions(),
        "encoding": sys.getfilesystemencoding(),
    }
