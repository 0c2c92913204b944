"""Danlu (丹炉): data in; a trained, measured, compressed, deployable model out, with a proof of every number."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from danlu.core.version import __version__

# Public function -> the module that defines it; each is imported at first use, so that `import danlu` imports no torch.
_FUNCTIONS = {
    "load_data": "danlu.data.load",
    "create_model": "danlu.models",
    "list_models": "danlu.models",
    "train": "danlu.train",
    "resume": "danlu.pipeline",
    "evaluate": "danlu.evaluate",
    "predict": "danlu.deploy.predict",
    "analyze": "danlu.analyze",
    "compress": "danlu.compress",
    "export": "danlu.deploy.export",
    "parity": "danlu.deploy.parity",
    "bench": "danlu.deploy.benchmark",
    "run": "danlu.pipeline",
    "serve": "danlu.deploy.serve.server",
    "tune": "danlu.train.tune",
    "reproduce": "danlu.papers.running",
}

__all__ = [
    "__version__",
    "analyze",
    "bench",
    "compress",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load_data",
    "parity",
    "predict",
    "reproduce",
    "resume",
    "run",
    "serve",
    "train",
    "tune",
]

if TYPE_CHECKING:
    from danlu.analyze import analyze
    from danlu.compress import compress
    from danlu.data.load import load_data
    from danlu.deploy.benchmark import bench
    from danlu.deploy.export import export
    from danlu.deploy.parity import parity
    from danlu.deploy.predict import predict
    from danlu.deploy.serve.server import serve
    from danlu.evaluate import evaluate
    from danlu.models import create_model, list_models
    from danlu.papers.running import reproduce
    from danlu.pipeline import resume, run
    from danlu.train import train
    from danlu.train.tune import tune


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    return getattr(importlib.import_module(_FUNCTIONS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
