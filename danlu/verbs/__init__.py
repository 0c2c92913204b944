"""The verbs of the command line, one function each over a Python function; what they need is imported when they run."""

from __future__ import annotations

from collections.abc import Callable

from danlu.verbs import data, deploy, job, models, reproduce, search, speed
from danlu.verbs.common import Common, Output, Training
from danlu.verbs.compress import compress_verbs

__all__ = ["GROUPS", "VERBS", "Common", "Output", "Training"]

GROUPS = {
    "data": "Named data sets, and what is in a folder.",
    "models": "The networks and their proofs.",
    "runs": "What was trained.",
    "compress": "Make a trained network smaller.",
    "reproduce": "Published tables, run again and compared.",
}

VERBS: dict[str, Callable[..., Output]] = {
    "run": job.run,
    "data list": data.data_list,
    "data get": data.data_get,
    "data check": data.data_check,
    "data convert": data.data_convert,
    "models list": models.models_list,
    "models show": models.models_show,
    "models check": models.models_check,
    "train": job.train,
    "tune": search.tune,
    "resume": job.resume,
    "runs list": job.runs_list,
    "runs show": job.runs_show,
    "eval": deploy.evaluate,
    "analyze": models.analyze,
    "compress quantize": deploy.quantize,
    **compress_verbs(),
    "export": deploy.export,
    "parity": deploy.parity,
    "bench": speed.bench,
    "predict": deploy.predict,
    "serve": deploy.serve,
    "reproduce list": reproduce.reproduce_list,
    "reproduce run": reproduce.reproduce_run,
    "reproduce table": reproduce.reproduce_table,
    "report": job.report,
    "env": job.env,
}
