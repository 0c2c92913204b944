"""Where figures go beside the run folder, if asked for: TensorBoard, Weights & Biases, MLflow.

A tracker sees what the log holds. None can stop a training: what it raises is said once, and it is left out from then
on. The run folder stays the record; these are copies of it.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.records import RunFolder

__all__ = ["MLflow", "TensorBoard", "Tracker", "Trackers", "WandB", "make_trackers", "scalars"]


class Tracker(ABC):
    """One place figures go to.

    It may also have ``watch(network, step)`` for the weights after an epoch, ``picture(name, uint8 [H, W, C], step)``,
    ``graph(network, x)`` and ``end()``.
    """

    name: str

    @abstractmethod
    def start(self, run: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Begin, or go on at ``step``; ``config`` is the effective one."""

    @abstractmethod
    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take in the figures of one line of the log."""


class TensorBoard(Tracker):
    """Scalars of every line, histograms of the weights after every epoch, the graph and an augmented batch.

    Events lie in ``RUN/tensorboard``; after a resume, what was logged beyond the checkpoint is marked as dropped.
    """

    name = "tensorboard"

    def start(self, run: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Open a new file of events."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = str(run.path / "tensorboard")
        self.writer: Any = SummaryWriter(folder, purge_step=step + 1 if step else None)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def watch(self, network: nn.Module, step: int) -> None:
        """Add a histogram of each parameter."""
        for name, parameter in network.named_parameters():
            self.writer.add_histogram(name.replace(".", "/"), parameter.detach().float().cpu(), step)

    def picture(self, name: str, pixels: Tensor, step: int) -> None:
        """Add the picture."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def graph(self, network: nn.Module, x: Tensor) -> None:
        """Add the graph of one forward of ``x``."""
        with warnings.catch_warnings():
            # It is drawn by torch.jit's tracer, which is deprecated and warns of every check of a shape.
            warnings.simplefilter("ignore")
            self.writer.add_graph(network, x, use_strict_trace=False)

    def end(self) -> None:
        """Close the file."""
        self.writer.close()


class WandB(Tracker):
    """Weights & Biases; its own environment variables say where to and whether offline."""

    name = "wandb"

    def start(self, run: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Begin, or go on with what has this run's id."""
        import wandb

        self.session = wandb.init(
            project="danlu",
            name=run.path.name,
            id=_identity(run),
            dir=str(run.path),
            config=dict(config),
            resume="allow",
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the figures."""
        self.session.log(dict(figures), step=step)

    def end(self) -> None:
        """Finish."""
        self.session.finish()


class MLflow(Tracker):
    """MLflow; its own environment variables say where to."""

    name = "mlflow"

    def start(self, run: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Begin a run and note the settings, or go on with the one that was marked with this run's id."""
        import mlflow

        self.client, identity = mlflow, _identity(run)
        if step:
            found = mlflow.search_runs(filter_string=f"tags.`danlu.id` = '{identity}'", output_format="list")
            if found:
                mlflow.start_run(run_id=found[0].info.run_id)
                return
        mlflow.start_run(run_name=run.path.name, tags={"danlu.id": identity})
        mlflow.log_params(dict(_flat(config)))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the figures."""
        self.client.log_metrics(dict(figures), step=step)

    def end(self) -> None:
        """End the run."""
        self.client.end_run()


_KINDS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, WandB, MLflow)}
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Trackers:
    """All trackers of a run; what one raises is said once and the others go on."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers
        self._begun = False

    def start(self, run: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Begin, or go on at ``step``; ``config`` is the effective one."""
        self._begun = True
        self.tell("start", run, config, step)

    def end(self) -> None:
        """End what has begun, however the training ended; what has ended, or never began, is left alone."""
        if self._begun:
            self._begun = False
            self.tell("end")

    def tell(self, what: str, *arguments: Any) -> None:
        """Call the method ``what`` of every tracker that has it."""
        for tracker in list(self.trackers):
            method: Callable[..., None] | None = getattr(tracker, what, None)
            if method is None:
                continue
            try:
                method(*arguments)
            except Exception as error:  # a tracker must not stop a training, whatever its client raises
                self.trackers.remove(tracker)
                first = str(error).partition("\n")[0]
                logger.warning("%s is left out from now on: %s (%s)", tracker.name, first, type(error).__name__)

    def entry(self, entry: Mapping[str, Any]) -> None:
        """Take in one line of the log."""
        if self.trackers and (figures := dict(scalars(entry))):
            self.tell("log", figures, int(entry["step"]))


def scalars(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of the figures of one line of the log, ``train/loss`` and so on."""
    kind = entry["kind"]
    for key, value in entry.items():
        if key in ("step", "epoch", "kind") or kind == "event":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}/{name}", float(one)) for name, one in value.items())
        elif isinstance(value, int | float):
            yield (f"step/{key}" if kind == "step" else f"epoch/{key}"), float(value)


def make_trackers(names: tuple[str, ...]) -> Trackers:
    """Return the trackers called ``names``.

    Raises:
        InputError: a package is not installed; found before training begins.
    """
    import importlib.util

    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise InputError(f"{name} is not installed", where="trackers", mend=f"pip install {_PACKAGES[name]}")
    return Trackers([_KINDS[name]() for name in names])


def _identity(run: RunFolder) -> str:
    """Return what tells a run from all others; of runs of earlier versions their folder's name, as it was then."""
    return str(run.read_config().get("id", run.path.name))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
