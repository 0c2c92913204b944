"""A file of unknown origin is first loaded in a process of its own, with a limit of time and memory. Torch-free.

What hangs, takes all memory or crashes the runtime does so there: here it is one message. Where the system has no such
limits (Windows), the time alone is limited.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from danlu.core.errors import DanluError, InputError
from danlu.deploy.artifact import read_bytes

__all__ = ["load_unknown"]

SECONDS = 60.0
BYTES = 6 * 2**30
_MEND = "get the file from whoever made it again, or raise the limit where it is known to be good"


def load_unknown(path: Path, *, seconds: float = SECONDS, memory: int = BYTES) -> bytes:
    """Return the bytes of an ONNX file of unknown origin after another process has loaded and run it once.

    Args:
        path: the file.
        seconds: how long that process may take.
        memory: how many bytes of address space it may take.

    Raises:
        InputError: what :func:`danlu.deploy.artifact.read_bytes` and ``parse_model`` refuse; a graph ONNX Runtime
            refuses; or one that crashes it, takes too long or too much memory.
    """
    data = read_bytes(path)
    command = [sys.executable, "-m", "danlu.deploy.hostile", str(path), str(memory)]
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"is not loaded after {seconds:g} s", where=str(path), mend=_MEND) from None
    if ended.returncode == InputError.exit_code:
        what, _, mend = ended.stdout.partition("\0")
        raise InputError(what or "is refused", where=str(path), mend=mend.strip() or _MEND)
    if ended.returncode:
        how = f"code {ended.returncode}" if ended.returncode > 0 else f"signal {-ended.returncode}"
        raise InputError(f"stops the process that loads it ({how})", where=str(path), mend=_MEND)
    return data


def _child(path: Path, memory: int) -> int:
    try:
        import resource
    except ModuleNotFoundError:
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        _load(path)
    except InputError as error:
        sys.stdout.write(f"{error.what}\0{error.mend or ''}")
        return error.exit_code
    except DanluError as error:
        sys.stdout.write(str(error))
        return InputError.exit_code
    except MemoryError:
        sys.stdout.write(f"takes more than {memory:,} bytes of memory to load")
        return InputError.exit_code
    return 0


def _load(path: Path) -> None:
    """Parse, check and open the graph, and run it once on small zeros."""
    import numpy as np

    from danlu.deploy.artifact import parse_model
    from danlu.deploy.runtimes.onnxruntime import open_session

    data = read_bytes(path)
    parse_model(data, str(path))
    session = open_session(data, str(path))
    kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
    feeds = {}
    for given in session.get_inputs():
        sides = [side if isinstance(side, int) and side > 0 else 1 for side in given.shape]
        if given.type not in kinds:
            return  # what it takes is judged by whoever asks it
        feeds[given.name] = np.zeros(sides, kinds[given.type])
    try:
        session.run(None, feeds)
    except MemoryError:
        raise
    except Exception as error:  # a size of its own is no harm; what is too large for the limit is
        if "alloc" in str(error).lower():
            raise MemoryError from error


if __name__ == "__main__":
    sys.exit(_child(Path(sys.argv[1]), int(sys.argv[2])))
