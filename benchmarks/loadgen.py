"""Our scenarios beside MLCommons' load generator on the same system under test: do they measure the same?

    python -m benchmarks.loadgen [--pairs N] [--artifact FILE | --sleep]

Each pair runs both on one network in ONNX Runtime, ours first in every second pair. Compared are the median latency of
the single stream, pictures a second offline, and the median latency of a server at half the rate it can hold. The ratio
is taken pair by pair; its median has to lie within 5 %. Both ask the same function, and both run for about as long.
The load generator's Python binding takes about 0.1 ms for each query, which it counts as latency: the network compared
takes several milliseconds, so that this is no difference between the two. With ``--sleep`` the system under test is one
whose times are known, which sleeps 8 ms and 2 ms for each picture: that comparison also holds on a busy machine.
Writes ``loadgen.json``. Needs ``mlcommons_loadgen``, which is a dependency of tests alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.deploy.intervals import median_interval
from danlu.deploy.scenarios import offline, poisson_arrivals, server, single_stream

RESULTS = Path(__file__).with_name("loadgen.json")
PAIRS = 15
SECONDS = 0.4
BATCH = 8
ALLOWED = 0.05

Pictures = NDArray[np.uint8]
Answer = Callable[[Pictures], Any]


def theirs(answer: Answer, pictures: Pictures, scenario: str, guess: float, seconds: float, seed: int) -> float:
    """Let the load generator ask ``answer``; return its median latency in seconds, offline its pictures a second."""
    import mlperf_loadgen as lg

    def issue(samples: list[Any]) -> None:
        # What a system under test does: one picture, or all there are in batches; each sample is completed by its id.
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            answer(pictures[[sample.index for sample in batch]])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in batch])

    settings = lg.TestSettings()
    kinds = {"single-stream": "SingleStream", "offline": "Offline", "server": "Server"}
    settings.scenario = getattr(lg.TestScenario, kinds[scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1000 * seconds)
    settings.min_query_count = 1 if scenario == "offline" else 16
    settings.offline_expected_qps = guess
    settings.server_target_qps = guess
    settings.server_target_latency_ns = 10**9
    settings.schedule_rng_seed = settings.sample_index_rng_seed = seed + 1
    settings.single_stream_expected_latency_ns = 10**6
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        outputs = lg.LogOutputSettings()
        outputs.outdir, outputs.copy_summary_to_stdout = folder, False
        log.log_output, log.enable_trace = outputs, False
        system = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(len(pictures), len(pictures), lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(system, library, settings, log)
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    figures = dict(line.split(":", 1) for line in summary.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in figures.items()}
    if scenario == "offline":
        return float(named["Samples per second"])
    return int(named["50.00 percentile latency (ns)"]) / 1e9


def ours(answer: Answer, pictures: Pictures, scenario: str, guess: float, seconds: float, seed: int) -> float:
    """Measure the same with :mod:`danlu.deploy.scenarios`, for as long: a longer stretch is interrupted more often."""
    if scenario == "offline":
        # Theirs asks for a tenth more than it expects to answer.
        return offline(answer, pictures, int(1.1 * max(16, guess * seconds)), BATCH, seed)
    if scenario == "server":
        # Theirs takes every arrival as a query of its own.
        arrivals = poisson_arrivals(guess, max(16, int(guess * seconds)), seed)
        return float(np.median(server(answer, pictures, arrivals, 1).latencies))
    times: list[NDArray[np.float64]] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 4:
        times.append(single_stream(answer, pictures, 16, seed + len(times)))
    return float(np.median(np.concatenate(times)))


def compare(answer: Answer, pictures: Pictures, scenario: str, pairs: int, seconds: float) -> dict[str, Any]:
    """Return the ratios theirs / ours of ``pairs`` pairs, their median with its interval, and both medians."""
    for _ in range(3):
        answer(pictures[:BATCH])
    alone = float(np.median(single_stream(answer, pictures, 20)))
    guess = {
        "single-stream": 1 / alone,
        "server": 0.5 / alone,
        "offline": offline(answer, pictures, 4 * BATCH, BATCH),
    }[scenario]
    found = np.empty((pairs, 2))
    for pair in range(pairs):
        for place in (0, 1) if pair % 2 else (1, 0):
            answer(pictures[:1])
            if place:
                found[pair, place] = theirs(answer, pictures, scenario, guess, seconds, pair)
            else:
                found[pair, place] = ours(answer, pictures, scenario, guess, seconds, pair)
    median, low, high = median_interval(found[:, 1] / found[:, 0])
    mine, other = np.median(found, axis=0).tolist()
    return {"median": median, "low": low, "high": high, "pairs": pairs, "ours": mine, "theirs": other}


def system(artifact: Path | None, folder: Path) -> tuple[Answer, Pictures, str]:
    """Return an artifact in ONNX Runtime on one thread, pictures for it, and its name; a ResNet-18 if none is given."""
    from danlu.deploy.opening import open_artifact

    if artifact is None:
        from benchmarks.best import synthetic_run

        synthetic_run(folder, "resnet18", 112)
        export = [sys.executable, "-m", "danlu", "export", str(folder / "run"), "--no-int8", "--quiet"]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        artifact = folder / "run/model.onnx"
    runtime, info = open_artifact(artifact, threads=1)
    what = f"{info.model}, {info.precision}, ONNX Runtime, 1 thread"
    shape = (64, *info.picture_size, info.channels)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return lambda chosen: runtime.predict(chosen, ["probabilities"]), pictures, what


def main() -> None:
    """Compare all three scenarios and write what was found."""
    from danlu.core.environment import describe_environment
    from danlu.core.files import write_json
    from danlu.deploy.machine import Watch, load_average

    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--sleep", action="store_true")
    asked = parser.parse_args()
    load, watch = load_average(), Watch()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        answer, pictures, what = sleeper() if asked.sleep else system(asked.artifact, Path(folder))
        for name in ("single-stream", "offline", "server"):
            row = rows[name] = compare(answer, pictures, name, asked.pairs, SECONDS)
            row["agrees"] = abs(row["median"] - 1) <= ALLOWED
            print(f"{name:<14} theirs / ours {row['median']:.3f} ({row['low']:.3f}–{row['high']:.3f})", flush=True)
    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"systems": {}}
    told = {"what": what, "rows": rows, "load": load, "other_cores": watch.others()}
    systems = {**document["systems"], "sleep" if asked.sleep else "network": told}
    settings = {"seconds": SECONDS, "batch": BATCH, "allowed": ALLOWED}
    write_json(RESULTS, {"schema": 1, "environment": describe_environment(), **settings, "systems": systems})


def sleeper() -> tuple[Answer, Pictures, str]:
    """Return a system whose times are known."""

    def answer(pictures: Pictures) -> None:
        time.sleep(0.008 + 0.002 * len(pictures))

    return answer, np.zeros((64, 1, 1, 1), np.uint8), "sleeps 8 ms, and 2 ms for each picture"


if __name__ == "__main__":
    main()
