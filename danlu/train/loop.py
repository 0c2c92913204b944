"""The training loop, readable from top to bottom.

It knows steps, epochs, signals, the log and checkpoints. What a batch means is the task's business: the loop hands
pictures and labels to ``task.collate`` and gets a loss back.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.augment.chain import Chain
from danlu.core.errors import CheckFailed, InputError, Stopped
from danlu.core.log import Advance, logger, progress
from danlu.core.records import RunFolder
from danlu.models.weights import load_state
from danlu.tasks.classification import Batch, Classification
from danlu.tasks.preprocess import PictureModel
from danlu.train.batches import Split, epoch_parts, make_batch
from danlu.train.checkpoint import Checkpoint, Checkpoints
from danlu.train.distributed import ALONE, World, local
from danlu.train.ema import MovingAverage
from danlu.train.gradients import constrain, prepare
from danlu.train.lookahead import Lookahead
from danlu.train.memory import Statistics, peak_bytes
from danlu.train.optimizers import Optimizer
from danlu.train.parallel import Learner, buffers, full
from danlu.train.precision import LossScaler
from danlu.train.schedule import learning_rate
from danlu.train.settings import TrainConfig
from danlu.train.signals import StopRequest, stop_requests
from danlu.train.state import Best, State, Tally
from danlu.train.step import gradients, judge
from danlu.train.trackers import Trackers
from danlu.train.transfer import Transfer
from danlu.train.watch import LossWatch, stack

__all__ = ["Diverged", "Training"]

_VALIDATION_BATCH = 256
_LOG_LINES_AN_EPOCH = 100
# Prefix of the raw weights in the optimiser's file, when the weights that are delivered are a moving average.
_RAW = "raw:"


class Diverged(CheckFailed):
    """The loss or the weights are no longer finite; ``ids`` are the samples of the batch it was first seen in."""

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = ids


@dataclass
class Training:
    """Everything one training needs; ``run_to_end`` is the loop.

    Attributes:
        run: where log and checkpoints go.
        config: the effective settings.
        seed: of order and augmentation.
        task: gives loss and metrics.
        model: uint8 pictures [B, H, W, C] -> logits.
        optimizer: over the network's parameters.
        device: where the model is.
        precision: ``fp32``, ``tf32``, ``bf16`` or ``fp16``.
        chain: the augmentations.
        train: the training split.
        validation: the validation split; the test split is not known here.
        checkpoints: where checkpoints go.
        state: where training stands.
        average: a moving average of the weights, if wanted.
        transfer: what is frozen in which epoch, if anything is.
        scaler: of the loss, in half precision.
        trackers: where figures go beside the log.
        after_epoch: is called when an epoch is logged and saved; what it raises ends the training there.
        data_share: share of the last epoch's training time that its steps waited for pictures.
        last_indices: the samples of the last step's batch.
        world: the processes that train together.
        learner: the network as several of them train it.
        statistics: of the batch norms as the running step found them.
        validation_batch: how many pictures validation passes through the network at once; less once memory ran out.
    """

    run: RunFolder
    config: TrainConfig
    seed: int
    task: Classification
    model: PictureModel
    optimizer: Optimizer[Any] | Lookahead
    device: torch.device
    precision: str
    chain: Chain
    train: Split
    validation: Split
    checkpoints: Checkpoints
    state: State = field(default_factory=State)
    average: MovingAverage | None = None
    transfer: Transfer | None = None
    scaler: LossScaler | None = None
    trackers: Trackers = field(default_factory=lambda: Trackers([]))
    after_epoch: Callable[[Training], None] | None = None
    data_share: float = 0.0
    last_indices: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    world: World = ALONE
    learner: Learner | None = None
    statistics: Statistics | None = None
    validation_batch: int = _VALIDATION_BATCH

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split."""
        return len(self.train) // self.config.batch_size

    @property
    def samples_a_step(self) -> int:
        """Different samples in a batch: each is in it ``repeats`` times."""
        return self.config.batch_size // self.config.repeats

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.config.epochs

    def run_to_end(self) -> None:
        """Train from ``state`` to the last epoch.

        Raises:
            Diverged: the loss or the weights are no longer finite.
            Stopped: a signal came; the state is saved.
        """
        size, begin = self.config.batch_size, self.state.step
        with stop_requests() as stop, progress("train", (self.total_steps - begin) * size, "pictures") as bar:

            def advance(step: int, text: str) -> None:
                bar((step - begin) * size, text)

            while self.state.epoch < self.config.epochs and not self.is_out_of_patience():
                self._train_epoch(stop, advance)
                validation = self._validate(stop) if self.selects else {}
                self._finish_epoch(validation, advance)
                # Also after the last epoch: what follows training must not begin when a stop was asked for.
                self._stop_if_asked(stop)
                if self.after_epoch is not None:
                    self.after_epoch(self)
                if self.is_out_of_patience():
                    logger.info("no better epoch in %s: stopped early", self.config.patience)
                    break
            if self.state.best is None and self.selects:
                # The best checkpoint was lost to damage after the last epoch: the last weights take its place.
                self._compare(self._validate(stop), self.state.epoch - 1)
                self.save()

    @property
    def selects(self) -> bool:
        """Whether validation selects the weights to be delivered; where it is trained on, the last ones are."""
        return self.config.train_on == "train"

    def is_out_of_patience(self) -> bool:
        """Return whether ``patience`` epochs in a row were no better than the best before them."""
        patience, state = self.config.patience, self.state
        return patience is not None and state.best is not None and state.epoch - 1 - state.best.epoch >= patience

    def _train_epoch(self, stop: StopRequest, advance: Advance) -> None:
        """Do the steps of the running epoch that are not done yet."""
        state = self.state
        order, parts = epoch_parts(self)
        watch = LossWatch(self, order, log_every=-(-self.steps_per_epoch // _LOG_LINES_AN_EPOCH))
        self.model.train()
        if self.transfer is not None:
            self.transfer.begin(state.epoch)
            if self.learner is not None:
                self.learner.wrap()
        last_saved = begin = time.monotonic()
        seconds_before = state.train_seconds
        waited, ready = 0.0, time.monotonic()
        for indices, pictures in self.train.batches(parts):
            lr = learning_rate(
                state.step, self.total_steps, self.config.optimizer.lr, self.config.schedule, self.config.epochs
            )
            if self.transfer is not None:
                self.transfer.follow(self, state.step, lr)
            batch = make_batch(self, indices, pictures, state.epoch)
            waited += time.monotonic() - ready
            losses = self.do_step(batch, lr, state.step)
            state.step += 1
            state.position += 1
            watch.see(losses, lr)
            now = time.monotonic()
            state.train_seconds = seconds_before + now - begin
            advance(state.step, watch.text)
            if self.world.consult(stop, now - last_saved >= self.config.checkpoint_seconds):
                watch.flush()
                self._stop_if_asked(stop)
                self.save()
                last_saved = time.monotonic()
            ready = time.monotonic()
        self.data_share = waited / max(ready - begin, 1e-9)
        watch.flush()
        self.check_weights()
        state.epoch_seconds = state.train_seconds

    def do_step(self, batch: Batch, lr: float, step: int) -> dict[str, Tensor]:
        """Forward, backward and update on one batch; return the task's figures, not yet waited for."""
        losses = gradients(self, batch, step)
        # A step whose gradients overflowed in half precision is left out; the next one has a smaller scale.
        if self.scaler is None or self.scaler.unscale(self.model.network.parameters()):
            prepare(self.model.network, self.config)
            self.optimizer.step(lr)
        self.optimizer.forget_gradients()
        if self.config.max_norm is not None:
            constrain(self.model.network, self.config.max_norm)
        if self.average is not None:
            self.average.update(step + 1)
        return losses

    @property
    def parts(self) -> int:
        """In how many parts a batch passes through the network."""
        asked = self.config.accumulate
        return self.state.parts or (1 if asked == "auto" else asked)

    def _validate(self, stop: StopRequest) -> dict[str, float]:
        """Return the mean figures over the validation split, as the weights to be delivered give them."""
        begin = time.monotonic()
        indices = np.arange(len(self.validation), dtype=np.int64)
        parts = [indices[k : k + _VALIDATION_BATCH] for k in range(0, len(indices), _VALIDATION_BATCH)]
        rows: list[Tensor] = []
        names: tuple[str, ...] = ()
        self.world.spread(buffers(self))
        self.model.eval()
        with torch.no_grad(), contextlib.nullcontext() if self.average is None else self.average.in_place():
            for part, pictures in self.validation.batches(self.world.rounds(parts)):
                labels = self.validation.dataset.labels[part]
                batch = self.task.collate(pictures, labels, self.validation.ids(part)).to(self.device)
                figures = judge(self, batch)
                names = tuple(figures)
                rows.append(stack(figures))
                if self.world.consult(stop):
                    break
        self._stop_if_asked(stop)
        tally = Tally()
        tally.add(names, self.world.in_order(torch.cat(rows).cpu(), len(parts)))
        self.state.epoch_seconds += time.monotonic() - begin
        means = tally.means()
        for name, value in means.items():
            if not math.isfinite(value):
                self.stop_diverged(f"the validation {name} is {value}", self.state.step, [])
        return means

    def _finish_epoch(self, validation: dict[str, float], advance: Advance) -> None:
        """Compare with the best epoch, log, move on to the next epoch and save."""
        state, metric = self.state, self.task.best[0]
        figures = validation if self.selects else Tally(state.sums).means()
        if self.selects:
            self._compare(validation, state.epoch)
        pictures = self.steps_per_epoch * self.config.batch_size
        self.log(
            kind="epoch",
            epoch=state.epoch,
            step=state.step,
            train=Tally(state.sums).means(),
            validation=validation,
            lr=learning_rate(
                state.step - 1, self.total_steps, self.config.optimizer.lr, self.config.schedule, self.config.epochs
            ),
            seconds=state.epoch_seconds,
            pictures_per_second=pictures / max(state.train_seconds, 1e-9),
            data_share=self.data_share,
            memory=peak_bytes(self.device),
        )
        text = f"epoch {state.epoch + 1}, {'validation' if self.selects else 'training'} {metric} {figures[metric]:.4f}"
        logger.debug(text)
        if self.scaler is not None and (count := self.scaler.end_epoch()):
            said = f"the gradients of {count} of {self.steps_per_epoch} steps overflowed"
            self.log(kind="event", what="left out", epoch=state.epoch, step=state.step, steps=count, reason=said)
        state.total_seconds += state.epoch_seconds
        state.total_train_seconds += state.train_seconds
        self.trackers.tell("watch", self.model.network, state.step)
        state.epoch += 1
        state.position, state.sums, state.train_seconds, state.epoch_seconds = 0, {}, 0.0, 0.0
        advance(state.step, text)
        self.save()

    def _compare(self, validation: dict[str, float], epoch: int) -> None:
        """Take an epoch for the best so far where it is; of equal ones the earlier stays."""
        state, (metric, direction) = self.state, self.task.best
        value = validation[metric] if direction == "max" else -validation[metric]
        best = Best(epoch=epoch, step=state.step, metric=metric, value=value, loss=validation["loss"])
        if state.best is None or (best.value, -best.loss) > (state.best.value, -state.best.loss):
            state.best = best

    def _stop_if_asked(self, stop: StopRequest) -> None:
        number = self.world.stop_number(stop)
        if number is None:
            return
        self.log(kind="event", what="stop", step=self.state.step, epoch=self.state.epoch, signal=number)
        self.save()
        message = f"stopped after step {self.state.step} of {self.total_steps}; the state is saved"
        raise Stopped(f"{message}: danlu resume {self.run.path}", number)

    def log(self, **entry: Any) -> None:
        """Append one line to the log, on rank 0; a disk that is full is a named error."""
        if not self.world.first:
            return
        self.trackers.entry(entry)
        try:
            self.run.append_log(**entry)
        except OSError as error:
            raise InputError(
                f"cannot be written ({error.strerror or error})",
                where=str(self.run.log_path),
                mend=f"free some space, then: danlu resume {self.run.path}",
            ) from error

    def check_weights(self) -> None:
        """Refuse to go on with weights that are not finite: the last update may have broken them unseen by a loss.

        Raises:
            Diverged: they are not.
        """
        state = self.model.network.state_dict()
        bad = [name for name, value in state.items() if not bool(torch.isfinite(local(value)).all())]
        if self.world.most([len(bad)])[0]:
            what = f"the weights are no longer finite ({', '.join(bad[:3]) or 'those of another rank'})"
            self.stop_diverged(what, self.state.step, self.train.ids(self.last_indices))

    def save(self) -> None:
        """Write a checkpoint of the present state.

        Raises:
            Diverged: the weights are not finite; nothing was written.
            InputError: the disk is full; earlier checkpoints are still there.
        """
        self.check_weights()
        network = self.model.network.state_dict()
        delivered, extra = network, self.optimizer.state()
        if self.average is not None:
            delivered = self.average.average
            extra |= {_RAW + name: value for name, value in network.items()}
        if self.scaler is not None:
            extra |= self.scaler.tensors
        whole, rest = full(delivered, self.world), full(extra, self.world)

        def write() -> None:
            self.state.log_length = self.run.log_length()
            self.checkpoints.save(self.state, whole, rest)

        self.world.lead(write)

    def follow_weights(self) -> None:
        """Begin the moving average anew from the network's weights."""
        if self.average is not None:
            self.average.load(self.model.network.state_dict())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put weights, optimiser and state of ``checkpoint`` back.

        Raises:
            InputError: its tensors fit another network.
        """
        where = f"{self.checkpoints.folder / checkpoint.name}"
        raw = {n.removeprefix(_RAW): v for n, v in checkpoint.optimizer.items() if n.startswith(_RAW)}
        load_state(self.model.network, raw or checkpoint.weights, where)
        if self.average is not None:
            self.average.load(checkpoint.weights)
        rest = {name: value for name, value in checkpoint.optimizer.items() if not name.startswith(_RAW)}
        if self.scaler is not None:
            self.scaler.load(rest)
        self.optimizer.load(rest, where)
        self.state = checkpoint.state

    def stop_diverged(self, what: str, step: int, ids: list[str]) -> NoReturn:
        """Log what happened and stop; the last checkpoint is from before it.

        Raises:
            Diverged: always.
        """
        self.log(kind="event", what="diverged", epoch=self.state.epoch, step=step, reason=what, ids=ids)
        shown = ", ".join(ids[:8]) + (f", … ({len(ids)} in all, see {self.run.log_path})" if len(ids) > 8 else "")
        where = f"; the samples of its batch: {shown}" if ids else ""
        mend = (
            f"{self.checkpoints.folder} holds the state before it. Try a lower optimizer.lr, clip=1, or precision=fp32"
        )
        raise Diverged(f"training diverged at step {step}: {what}{where}\n  mend: {mend}", ids)
