"""Kernels of our own for processors, compiled once for a machine with the compiler it has.

``kernels.cpp`` beside this file does in few passes over memory what the library does in many. It is compiled for this
very processor when a training first asks for it, which takes some seconds, and kept in the cache. Where there is no
compiler, or where it fails, there are no such kernels and the library does the work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from danlu.core.environment import processor_name
from danlu.core.files import cache_home, sha256_bytes
from danlu.core.log import logger

__all__ = ["PoolShape", "kernel", "load_kernels"]

_SOURCE = Path(__file__).with_name("kernels.cpp")
# Values that are not finite behave as IEEE says; only the flags of errors, which nobody reads, are given up.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")
# Flags that not every compiler knows, from the best set to the least.
_OPTIONAL = (("-mprefer-vector-width=512", "-fopenmp"), ("-fopenmp",), ())
_COMPILERS = ("c++", "g++", "clang++")
_SECONDS = 120

# [B, H, W, C], [OH, OW] of what comes out, side, stride and padding of the window.
PoolShape = ctypes.c_int64 * 9

_POINTER, _LONG, _DOUBLE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
_ARGUMENTS = {
    "norm_forward": [_POINTER] * 11 + [_LONG, _LONG, _DOUBLE, _DOUBLE, _INT, _INT],
    "norm_backward": [_POINTER] * 3 + [_INT] + [_POINTER] * 9 + [_LONG, _LONG, _INT],
    "pool_forward": [_POINTER] * 3 + [PoolShape, _INT, _INT],
    "pool_backward": [_POINTER] * 3 + [PoolShape, _INT],
}
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def load_kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels; None where there are none. The first call on a machine compiles for some seconds."""
    compiler = _compiler()
    if compiler is None:
        logger.debug("no C++ compiler: batch norm and pooling by the library")
        return None
    # A processor of another kind that shares the cache gets a file of its own.
    key = "\n".join((_SOURCE.read_text(encoding="utf-8"), *_FLAGS, compiler, processor_name(), torch.__version__))
    path = cache_home() / "kernels" / f"{sha256_bytes(key.encode())[:32]}.so"
    try:
        if not path.exists():
            logger.info("kernels: compiled once for this machine …")
            _compile(compiler, path)
        library = ctypes.CDLL(str(path))
        for name, arguments in _ARGUMENTS.items():
            for kind in _TYPES.values():
                function = getattr(library, f"danlu_{name}_{kind}")
                function.argtypes, function.restype = arguments, None
        return library
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        logger.debug("kernels that cannot be had: %s", error)
        return None


def kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Return one kernel for tensors of one type; :func:`load_kernels` must have returned some."""
    library = load_kernels()
    assert library is not None
    found: Callable[..., None] = getattr(library, f"danlu_{name}_{_TYPES[dtype]}")
    return found


def _compiler() -> str | None:
    if os.name != "posix":
        return None
    asked = os.environ.get("CXX")
    return next((found for name in ([asked] if asked else _COMPILERS) if (found := shutil.which(name))), None)


def _compile(compiler: str, path: Path) -> None:
    """Compile to a file of another name first, so that no half one is ever loaded.

    Raises:
        OSError: the cache cannot be written, or no set of flags will do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        for optional in _OPTIONAL:
            command = [compiler, *_FLAGS, *optional, str(_SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
            if done.returncode == 0:
                os.replace(made, path)
                return
        raise OSError(f"{compiler}: {done.stderr.strip()[:500]}")
