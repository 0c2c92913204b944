"""The MNIST experiment of Hinton, Vinyals, Dean 2015 (section 3), on real MNIST.

``python -m proof.distillation --work FOLDER``: a teacher 784-1200-1200-10 with dropout, max-norm and pictures moved by
up to two pixels; a student 784-800-800-10 without any of these, on the labels, then on the teacher's soft targets at
T = 20; and a student that is never shown a 3, before and after the bias of that class is raised by what is best on
validation. The paper reports 67, 146, 74 and 206 → 109 errors of 10,000, of these 133 → 14 on the 1,010 threes.

55,000 training pictures, 5,000 for the choice of the bias; the test pictures are read when all networks are trained.
Networks are kept in FOLDER, so that ``--seconds N`` may stop after an epoch and a second call goes on; ``--seeds
N`` says how many times everything is trained, three by default. About five minutes a seed on one core of its own, with
bfloat16 products.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.compress.soft_targets import distillation_loss
from danlu.core.environment import describe_environment
from danlu.core.files import sha256_bytes, write_json
from danlu.data.load import load_data
from danlu.data.loader import Loader

__all__ = ["RESULTS", "source_hash"]

RESULTS = Path(__file__).with_name("distillation.json")
EPOCHS, BATCH, RATE, TRAINING = {"teacher": 15, "student": 10}, 256, 1e-3, 55_000
TEMPERATURE, HARD, ABSENT, MAX_NORM = 20.0, 0.1, 3, 3.0
NETWORKS = ("teacher", "labels", "distilled", "distilled_without_3")
PUBLISHED = {"teacher": 67, "labels": 146, "distilled": 74, "distilled_without_3": 206, "bias_corrected": 109}


def source_hash() -> str:
    """Return the hash of what the result depends on: this file and the loss."""
    files = (Path(__file__), Path(__file__).parent.parent / "danlu/compress/soft_targets.py")
    return sha256_bytes(b"\0".join(file.read_bytes() for file in files))


class Dropout(nn.Module):
    """Dropout whose masks are drawn as bytes: a tenth of the time of torch's own on a processor.

    The share dropped is rounded to whole 256ths.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.limit = round(256 * rate)
        self.draws = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values zero and the others scaled up; as it is in eval mode."""
        if not self.training or not self.limit:
            return x
        draws = torch.from_numpy(np.frombuffer(bytearray(self.draws.bytes(x.numel())), dtype=np.uint8)).view(x.shape)
        return x * (draws >= self.limit).to(x.dtype) * (256 / (256 - self.limit))


def perceptron(hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Return 784-hidden-hidden-10 with ReLU; dropout on pixels is a fifth, as in Srivastava et al. 2014."""
    return nn.Sequential(
        Dropout(0.2 if dropout else 0.0),
        nn.Linear(784, hidden),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(hidden, 10),
    )


def moved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures [B, 784], all moved by one draw of up to two pixels in each direction, zeros coming in."""
    down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
    wide = F.pad(pictures.view(-1, 28, 28), (2, 2, 2, 2))
    return wide[:, 2 - down : 30 - down, 2 - right : 30 - right].reshape(-1, 784)


def train(kind: str, seed: int, x: Tensor, y: Tensor, teacher: nn.Module | None, half: Path, end: float) -> nn.Module:
    """Train one of :data:`NETWORKS` on pictures [N, 784] and labels [N].

    Args:
        kind: which.
        seed: of everything random.
        x: pictures.
        y: labels.
        teacher: whose soft targets are learnt, if any.
        half: where an unfinished training is kept.
        end: when to stop, by ``time.monotonic``.

    Raises:
        TimeoutError: it is time; ``half`` holds what was done.
    """
    torch.manual_seed(1000 * seed + NETWORKS.index(kind))
    is_teacher = kind == "teacher"
    model = perceptron(1200, 0.5) if is_teacher else perceptron(800)
    if kind == "distilled_without_3":
        x, y = x[y != ABSENT], y[y != ABSENT]
    with torch.no_grad():
        soft = None if teacher is None else torch.cat([teacher(part) for part in torch.split(x, 1000)])
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    epochs, steps = EPOCHS["teacher" if is_teacher else "student"], len(x) // BATCH
    first = _resume(half, model, optimizer)
    for epoch in range(first, epochs):
        if time.monotonic() > end:
            torch.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, half)
            raise TimeoutError
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        for number, layer in enumerate(one for one in model if isinstance(one, Dropout)):
            layer.draws = np.random.default_rng((seed, epoch, number))
        order = torch.randperm(len(x), generator=generator)[: steps * BATCH]
        for step, part in enumerate(torch.split(order, BATCH)):
            done = (epoch + step / steps) / epochs
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * done)) / 2
            _step(model.train(), optimizer, moved(x[part], generator) if is_teacher else x[part], y[part], soft, part)
            if is_teacher:
                _constrain(model)
    half.unlink(missing_ok=True)
    return model.eval()


def _resume(half: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not half.exists():
        return 0
    kept = torch.load(half, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["epoch"])


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, soft: Tensor | None, part: Tensor
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    if soft is not None:
        loss = distillation_loss(logits.float(), soft[part], loss, TEMPERATURE, HARD)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _constrain(model: nn.Module) -> None:
    """Bring the incoming weights of every hidden unit back to the largest norm allowed."""
    for layer in (model[1], model[4]):  # type: ignore[index]
        norm = layer.weight.norm(dim=1, keepdim=True)
        layer.weight.mul_(MAX_NORM / norm.clamp(min=MAX_NORM))


def pictures_of(dataset: Any) -> tuple[Tensor, NDArray[np.int64]]:
    """Return pictures [N, 784] in [0, 1] and labels [N]."""
    pictures = np.asarray(Loader(dataset, (28, 28), 1).pictures(np.arange(len(dataset))))
    return torch.from_numpy(pictures.reshape(len(dataset), 784).astype(np.float32) / 255), np.asarray(dataset.labels)


def training_pictures(data: Any) -> tuple[Tensor, NDArray[np.int64], Tensor, NDArray[np.int64]]:
    """Return 55,000 pictures and labels to train with, then 5,000 to choose by."""
    parts = [pictures_of(data.train), pictures_of(data.validation)]
    x, y = torch.cat([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    order = np.random.default_rng(0).permutation(len(x))
    train_part, rest = order[:TRAINING], order[TRAINING:]
    return x[train_part], y[train_part], x[rest], y[rest]


@torch.no_grad()
def wrong(model: nn.Module, x: Tensor, y: NDArray[np.int64], bias: float = 0.0) -> tuple[int, int]:
    """Return how many are classified wrongly, of all and of the absent class, whose logit is raised by ``bias``."""
    logits = model(x)
    logits[:, ABSENT] += bias
    missed = logits.argmax(1).numpy() != y
    return int(missed.sum()), int(missed[y == ABSENT].sum())


def best_bias(model: nn.Module, x: Tensor, y: NDArray[np.int64]) -> float:
    """Return the least raise of the absent class's logit that makes the fewest errors on validation."""
    return min((wrong(model, x, y, 0.1 * step)[0], 0.1 * step) for step in range(150))[1]


def evaluate(work: Path, data: Any, seeds: int) -> dict[str, Any]:
    """Choose the biases on validation, then open the test set once for all networks."""
    _, _, vx, vy = training_pictures(data)
    tx, ty = pictures_of(data.test)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (*NETWORKS, "bias_corrected")}
    for seed in range(seeds):
        for kind in NETWORKS:
            model = load(work, kind, seed)
            errors, absent = wrong(model, tx, ty)
            rows[kind].append({"seed": seed, "errors": errors, "errors_on_3": absent})
            if kind == "distilled_without_3":
                bias = best_bias(model, vx, vy)
                errors, absent = wrong(model, tx, ty, bias)
                row = {"seed": seed, "errors": errors, "errors_on_3": absent, "bias": round(bias, 1)}
                rows["bias_corrected"].append(row)
    return {
        name: {
            "seeds": found,
            "errors": float(np.mean([row["errors"] for row in found])),
            "std": float(np.std([row["errors"] for row in found], ddof=1)) if seeds > 1 else None,
            "published": PUBLISHED[name],
            "of": len(ty),
        }
        for name, found in rows.items()
    }


def load(work: Path, kind: str, seed: int) -> nn.Module:
    """Return a network trained before, in eval mode."""
    model = perceptron(1200, 0.5) if kind == "teacher" else perceptron(800)
    model.load_state_dict(safetensors.torch.load_file(work / f"{kind}-{seed}.safetensors"))
    return model.eval()


def main(arguments: list[str]) -> int:
    """Train what is missing, then evaluate; return 1 where more is left to do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    begin, data = time.monotonic(), load_data("mnist", seed=0)
    x, labels, _, _ = training_pictures(data)
    for seed in range(options.seeds):
        for kind in NETWORKS:
            file = options.work / f"{kind}-{seed}.safetensors"
            if file.exists():
                continue
            started = time.monotonic()
            teacher = load(options.work, "teacher", seed) if kind.startswith("distilled") else None
            half, end = file.with_suffix(".half"), begin + options.seconds
            try:
                model = train(kind, seed, x, torch.from_numpy(labels), teacher, half, end)
            except TimeoutError:
                return 1
            safetensors.torch.save_file(model.state_dict(), file)
            sys.stderr.write(f"{kind} {seed}: {time.monotonic() - started:.0f} s\n")
    document = {
        "schema": 1,
        "source": source_hash(),
        "environment": describe_environment(),
        "settings": {"epochs": EPOCHS, "temperature": TEMPERATURE, "hard": HARD, "max_norm": MAX_NORM, "batch": BATCH},
        "rows": evaluate(options.work, data, options.seeds),
    }
    write_json(RESULTS, document)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
