"""What this run ran on: versions, processor, memory. Read without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

__all__ = ["PACKAGES", "cpu_features", "describe_environment", "processor_name", "usable_cores"]

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "onnx", "onnxruntime", "onnxscript", "safetensors", "pydantic")

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
