"""Memory: how many parts a batch has to be cut into, what runs out of it, and blocks that keep less of it."""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = [
    "Statistics",
    "blocks",
    "free_bytes",
    "is_out_of_memory",
    "kept_bytes",
    "parts_for",
    "peak_bytes",
    "recompute",
]

# Of the memory that is free: gradients, momentum and what other programs take in the meantime need the rest.
_SHARE = 0.7


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out: on the processor torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes of memory are free on ``device``, or None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        with contextlib.suppress(AttributeError, ValueError, OSError):
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return None


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory this process has taken so far on ``device``, or None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def kept_bytes(forward: Callable[[], Any]) -> int:
    """Return how many bytes ``forward`` keeps for the way back; parameters and what is kept twice count once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        # A view of a parameter, as a transposed weight is, takes no memory of its own either.
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def parts_for(picture: int, pictures: int, free: int) -> int:
    """Return the least number of parts, a power of two or ``pictures``, in which a batch fits.

    Args:
        picture: bytes kept for one picture.
        pictures: of the batch.
        free: bytes.
    """
    parts = 1
    while parts < pictures and picture * -(-pictures // parts) > _SHARE * free:
        parts *= 2
    return min(parts, pictures)


class Statistics:
    """The running statistics of a network's batch norms, to be put back when an attempt at a step fails half-way.

    Args:
        network: whose; it is not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._parts: dict[torch.dtype, list[Tensor]] = {}
        for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
            for value in norm.buffers(recurse=False):
                # Views of the network's own memory; a count has no dimension and gets one here.
                self._parts.setdefault(value.dtype, []).append(value.view(-1))
        self._kept: dict[torch.dtype, Tensor] = {}

    @torch.no_grad()
    def keep(self) -> None:
        """Note the statistics: in one copy for all of them, as this is done in every step."""
        self._kept = {kind: torch.cat(parts) for kind, parts in self._parts.items()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Set the statistics to what they were at the last :meth:`keep`, bit for bit."""
        for kind, parts in self._parts.items():
            values = torch.split(self._kept[kind], [len(part) for part in parts])
            for part, value in zip(parts, values, strict=True):
                part.copy_(value)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return what :func:`recompute` works on: the children of the network's stages, or stages that have none."""
    found: list[nn.Module] = []
    for child in network.children():
        inside = list(child.children()) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        candidates = inside if any(any(True for _ in one.children()) for one in inside) else [child]
        found += [one for one in candidates if sum(1 for _ in one.children()) > 1]
    return found


def recompute(network: nn.Module) -> int:
    """Let each block of ``network`` keep its input only and compute its inside again on the way back; return how many.

    The second pass leaves running statistics alone: they would take the same batch in twice. Dropout draws the same.
    """
    found = blocks(network)
    for block in found:
        # A bound method, unlike a closure, goes along when the network is copied.
        block.forward = types.MethodType(_forward_again, block)
    return len(found)


def _forward_again(block: nn.Module, *given: Any) -> Any:
    plain = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return plain(*given)
    return checkpoint(
        plain, *given, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block))
    )


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch norms take nothing in; what they keep for the way back stays what it is without this."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
