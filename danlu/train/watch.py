"""The figures of each step, looked at only now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.train.state import Tally

if TYPE_CHECKING:
    from danlu.train.loop import Training

__all__ = ["LossWatch", "stack"]


class LossWatch:
    """Keeps the figures of each step on the device, and looks at them only every few steps.

    Waiting for a number at each step would hold an accelerator up. A loss that is not finite is found at the next look,
    and the stored figures say which step, hence which samples, it came from.
    """

    def __init__(self, training: Training, order: NDArray[np.int64], log_every: int) -> None:
        self.training, self.order, self.log_every = training, order, log_every
        self.rows: list[dict[str, Tensor]] = []
        self.names: tuple[str, ...] = ()
        self.lr = 0.0
        self.text = ""
        self.tally = Tally(training.state.sums)

    def see(self, losses: dict[str, Tensor], lr: float) -> None:
        """Note the figures of the step just done; every ``log_every`` steps of the epoch write a line."""
        self.names, self.lr = tuple(losses), lr
        self.rows.append({name: value.detach() for name, value in losses.items()})
        if self.training.state.position % self.log_every == 0:
            last = self.flush()
            state = self.training.state
            self.training.log(kind="step", step=state.step, epoch=state.epoch, loss=last["loss"], lr=lr)
            self.text = f"epoch {state.epoch + 1}, loss {last['loss']:.4f}"

    def flush(self) -> dict[str, float]:
        """Look at all figures not yet looked at; return those of the last step.

        Raises:
            Diverged: one of them is not finite.
        """
        if not self.rows:
            return {}
        rows = self.training.world.rows(self.names, stack(*self.rows).cpu())
        state, size = self.training.state, self.training.samples_a_step
        finite = torch.isfinite(rows).all(1)
        if not bool(finite.all()):
            first = int((~finite).int().argmax())
            position = state.position - len(self.rows) + first
            ids = self.training.train.ids(self.order[position * size : (position + 1) * size])
            value = float(rows[first, self.names.index("loss")])
            self.training.stop_diverged(f"the loss is {value}", state.step - len(self.rows) + first + 1, ids)
        self.tally.add(self.names, rows)
        state.sums = self.tally.sums
        self.rows = []
        return dict(zip(self.names, rows[-1].tolist(), strict=True))


def stack(*steps: dict[str, Tensor]) -> Tensor:
    """Return the figures of steps as a float32 tensor [steps, figures], cut from the graph."""
    figures = [value.detach().float() for losses in steps for value in losses.values()]
    return torch.stack(figures).view(len(steps), -1)
