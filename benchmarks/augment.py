"""Augmentation with a draw for each sample, pictures a second on one thread: ours in batches, torchvision's one by one.

    python -m benchmarks.augment

Both start from uint8 pictures of 32×32 pixels in memory (ours an array, torchvision's the PIL pictures its transforms
are made for) and end with uint8 ones; no decoding, no normalising. They take turns within each repetition. Processor
seconds are compared, which busy neighbours change least. Medians, and the ratio with its smallest and largest. Writes
``augment.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("augment.json")
REPEATS, BATCH, SIDE = 15, 512, 32
MUST = {"crop and flip": 4.0, "randaugment": 3.0}


def pairs() -> dict[str, tuple[list[dict[str, Any]], Any]]:
    """Return name -> (our augmentations, torchvision's transform of one PIL picture)."""
    from torchvision import transforms

    crop_flip = transforms.Compose([transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip()])
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    cifar = transforms.AutoAugmentPolicy.CIFAR10
    return {
        "crop and flip": ([{"name": "pad_crop", "padding": 4}, {"name": "flip"}], crop_flip),
        "randaugment": ([{"name": "randaugment"}], transforms.RandAugment()),
        "trivialaugment": ([{"name": "trivialaugment"}], transforms.TrivialAugmentWide()),
        "autoaugment": ([{"name": "autoaugment"}], transforms.AutoAugment(cifar)),
        "resized crop": ([{"name": "resized_crop"}], transforms.RandomResizedCrop(SIDE)),
        "colour jitter": ([{"name": "colour_jitter", **jitter}], transforms.ColorJitter(**jitter)),
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measure() -> dict[str, dict[str, float]]:
    """Return name -> pictures a second of both and their ratio."""
    import torch
    from PIL import Image

    from danlu.augment.base import Draws
    from danlu.augment.chain import make_chain

    torch.set_num_threads(1)
    # Smooth pictures with some noise, roughly as frequent in their levels as photographs.
    rng = np.random.default_rng(0)
    coarse = rng.normal(128, 50, (BATCH, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    array = (coarse + rng.normal(0, 12, coarse.shape)).clip(0, 255).astype(np.uint8)
    batch, single = torch.from_numpy(array), [Image.fromarray(one) for one in array]
    rows = {}
    for name, (augmentations, transform) in pairs().items():
        chain = make_chain(augmentations)
        ours, theirs = [], []
        for repeat in range(REPEATS + 1):
            draws = Draws(0, repeat, np.arange(BATCH))
            one = seconds(lambda chain=chain, draws=draws: chain.pictures(batch, draws))
            other = seconds(lambda transform=transform: [transform(picture) for picture in single])
            if repeat:
                ours.append(one)
                theirs.append(other)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        rows[name] = {
            "danlu_per_second": round(BATCH / statistics.median(ours)),
            "torchvision_per_second": round(BATCH / statistics.median(theirs)),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2),
        }
    return rows


def main() -> None:
    """Measure, write the results, print them."""
    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json

    rows = measure()
    setting = {"repeats": REPEATS, "batch": BATCH, "side": SIDE, "threads": 1, "must": MUST}
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), **setting, "rows": rows})
    for name, row in rows.items():
        wanted = f", must be {MUST[name]:g}" if name in MUST else ""
        print(
            f"{name:<15} {row['danlu_per_second']:>8,} /s   torchvision {row['torchvision_per_second']:>7,} /s   "
            f"ratio {row['ratio']:.1f} ({row['ratio_min']:.1f}–{row['ratio_max']:.1f}{wanted})"
        )


if __name__ == "__main__":
    main()
