"""How long a user waits before anything happens: ``danlu --help`` and the first answer of ``danlu predict``.

    python -m benchmarks.start

Whole processes, interleaved, after one warm-up; medians with the smallest and largest, and the most memory any of them
held. The second ``danlu predict`` opens a network of the size of ResNet-18 (11.7 M parameters, 224² pictures, random
weights), for which there is a bar: 1.0 s and 250 MB. Writes ``start.json``, where the row of ``start_serve`` stays.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_name("start.json")
REPEATS = 11
LARGE = "danlu predict, ResNet-18"
BAR = {"median_s": 1.0, "memory_mb": 250.0}


def timed(command: list[str]) -> tuple[float, float | None, float | None]:
    """Run a command; return its wall seconds, the most memory it held in MB and its processor seconds (POSIX)."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if not hasattr(os, "wait4"):
        code = process.wait()
        used = None
    else:
        _, status, used = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if code:
        raise subprocess.CalledProcessError(code, command)
    if used is None:
        return seconds, None, None
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return seconds, used.ru_maxrss / unit, used.ru_utime + used.ru_stime


def artifacts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Export a tiny trained network and one of the size of ResNet-18; return artifact and picture of each."""
    from PIL import Image

    from benchmarks.best import synthetic_run

    run, picture = folder / "run", folder / "picture.png"
    quick = [sys.executable, "-m", "danlu", "train", "digits", "--epochs", "1", "--out", str(run), "--quiet"]
    subprocess.run(quick, check=True, stdout=subprocess.DEVNULL)
    (folder / "large").mkdir()
    # In a process of its own: a child is charged with what its parent holds when it forks, and torch is large.
    maker = multiprocessing.get_context("spawn").Process(target=synthetic_run, args=(folder / "large", "resnet18", 224))
    maker.start()
    maker.join()
    for path in (run, folder / "large/run"):
        export = [sys.executable, "-m", "danlu", "export", str(path), "--no-int8", "--quiet"]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    large = next((folder / "large/data").rglob("*.png"))
    return {"danlu predict": (run / "model.onnx", picture), LARGE: (folder / "large/run/model.onnx", large)}


def main() -> None:
    """Make the artifacts, then time the commands."""
    from danlu.core.environment import describe_environment
    from danlu.core.files import read_json, write_json
    from danlu.deploy.machine import Watch, load_average

    with tempfile.TemporaryDirectory() as folder:
        danlu = [sys.executable, "-m", "danlu"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "danlu --help": [*danlu, "--help"],
            "danlu run --help": [*danlu, "run", "--help"],
        }
        for name, paths in artifacts(Path(folder)).items():
            commands[name] = [*danlu, "predict", *map(str, paths)]
        load, watch = load_average(), Watch()
        found: dict[str, list[tuple[float, float | None, float | None]]] = {name: [] for name in commands}
        for repeat in range(REPEATS + 1):
            for name, command in commands.items():
                measured = timed(command)
                if repeat:
                    found[name].append(measured)
        others = watch.others()
    kept = read_json(RESULTS)["rows"] if RESULTS.exists() else {}
    rows = {name: row(measured) for name, measured in found.items()}
    bar = {key: {"asked": asked, "met": (rows[LARGE][key] or 0.0) <= asked} for key, asked in BAR.items()}
    machine = {"load": load, "other_cores": others}
    document = {
        "environment": describe_environment(),
        "repeats": REPEATS,
        "rows": {**kept, **rows},
        "bar": bar,
        **machine,
    }
    write_json(RESULTS, {"schema": 1, **document})
    for name, figures in rows.items():
        memory = "" if figures["memory_mb"] is None else f", {figures['memory_mb']:.0f} MB"
        print(f"{name:<26} {figures['median_s']:.3f} s ({figures['min_s']:.3f}–{figures['max_s']:.3f}){memory}")


def row(measured: list[tuple[float, float | None, float | None]]) -> dict[str, float | None]:
    """Return the figures of one command."""
    seconds = [one[0] for one in measured]
    memory, processor = ([value for one in measured if (value := one[place]) is not None] for place in (1, 2))
    return {
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "max_s": round(max(seconds), 4),
        "processor_s": round(statistics.median(processor), 4) if processor else None,
        "memory_mb": round(max(memory), 1) if memory else None,
    }


if __name__ == "__main__":
    main()
