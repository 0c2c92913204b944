"""The coder's speed, memory and round trip on tensors of AlexNet's and VGG-16's sizes. *synthetic*: no trained weights.

    python -m benchmarks.codec [--nets alexnet vgg16] [--dense]

Each tensor has the share of weights and the number of shared values that Han, Mao, Dally 2016 (tables 4 and 5) report
for the layer of its kind, at random places and of random values. Bytes are those of these random tensors; they say
nothing about a trained network and never stand beside the paper's. Time is processor time of one core; MB are 10^6
bytes of the original float32 weights. Memory is what decoding needs at most beside the file, measured by the kernel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_suffix(".json")
# Layer -> (shape, share kept, bits), tables 4 and 5 of the paper.
NETS = {
    "alexnet": {
        "conv1": ((96, 3, 11, 11), 0.84, 8),
        "conv2": ((256, 48, 5, 5), 0.38, 8),
        "conv3": ((384, 256, 3, 3), 0.35, 8),
        "conv4": ((384, 192, 3, 3), 0.37, 8),
        "conv5": ((256, 192, 3, 3), 0.37, 8),
        "fc6": ((4096, 9216), 0.09, 5),
        "fc7": ((4096, 4096), 0.09, 5),
        "fc8": ((1000, 4096), 0.25, 5),
    },
    "vgg16": {
        "conv1_1": ((64, 3, 3, 3), 0.58, 8),
        "conv1_2": ((64, 64, 3, 3), 0.22, 8),
        "conv2_1": ((128, 64, 3, 3), 0.34, 8),
        "conv2_2": ((128, 128, 3, 3), 0.36, 8),
        "conv3_1": ((256, 128, 3, 3), 0.53, 8),
        "conv3_2": ((256, 256, 3, 3), 0.24, 8),
        "conv3_3": ((256, 256, 3, 3), 0.42, 8),
        "conv4_1": ((512, 256, 3, 3), 0.32, 8),
        "conv4_2": ((512, 512, 3, 3), 0.27, 8),
        "conv4_3": ((512, 512, 3, 3), 0.34, 8),
        "conv5_1": ((512, 512, 3, 3), 0.35, 8),
        "conv5_2": ((512, 512, 3, 3), 0.29, 8),
        "conv5_3": ((512, 512, 3, 3), 0.36, 8),
        "fc6": ((4096, 25088), 0.04, 5),
        "fc7": ((4096, 4096), 0.04, 5),
        "fc8": ((1000, 4096), 0.23, 5),
    },
}


def synthetic(shape: tuple[int, ...], keep: float, bits: int, seed: int) -> Any:
    """Return float32 values of ``2^bits`` shared levels at random places; their frequencies are those of a Gaussian."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    # Gaps between weights at random places are geometric; so no random number is drawn for a zero.
    gaps = rng.geometric(keep, int(1.05 * keep * size) + 1000).astype(np.int64)
    places = np.cumsum(gaps) - 1
    places = places[places < size]
    book = np.sort(rng.standard_normal(1 << bits)).astype(np.float32)
    spread = (1 << bits) / 6
    level = np.clip(rng.standard_normal(len(places)) * spread + (1 << bits) / 2, 0, (1 << bits) - 1).astype(np.int64)
    values = np.zeros(size, dtype=np.float32)
    values[places] = book[level]
    return values.reshape(shape)


def measure(net: str, dense: bool, coder: str) -> dict[str, Any]:
    """Encode and decode all layers of one network; compare bit for bit."""
    from danlu.compress.codings import decode_tensor, encode_tensor

    original = coded_bytes = 0
    encode = decode = 0.0
    for seed, (shape, keep, bits) in enumerate(NETS[net].values()):
        values = synthetic(shape, 0.999 if dense else keep, bits, seed)
        begin = time.process_time()
        coded = encode_tensor(values, coder=coder)
        middle = time.process_time()
        found = decode_tensor(coded.number, memoryview(coded.payload), values.dtype, values.shape, net)
        decode += time.process_time() - middle
        encode += middle - begin
        assert found.tobytes() == values.tobytes(), (net, seed)
        original, coded_bytes = original + values.nbytes, coded_bytes + len(coded.payload)
    return {
        "weights": original // 4,
        "megabytes": round(original / 1e6, 1),
        "encode_seconds": round(encode, 2),
        "decode_seconds": round(decode, 2),
        "encode_mb_s": round(original / encode / 1e6, 1),
        "decode_mb_s": round(original / decode / 1e6, 1),
        "synthetic_bytes": coded_bytes,
    }


def memory(net: str, coder: str) -> dict[str, Any]:
    """Return the most memory of a process that only decodes, beside what it had before, in networks."""
    from danlu.compress.codings import decode_tensor, encode_tensor

    payloads = []
    for seed, (shape, keep, bits) in enumerate(NETS[net].values()):
        coded = encode_tensor(synthetic(shape, keep, bits, seed), coder=coder)
        payloads.append((shape, coded.number, coded.payload))
    original = 4 * sum(int(np.prod(shape)) for shape, _, _ in payloads)
    import os

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # A fresh peak: the parent's own peak is not inherited by ru_maxrss of a forked child on Linux.
        before = _resident()
        kept = [decode_tensor(number, memoryview(data), np.dtype("f4"), shape, net) for shape, number, data in payloads]
        os.write(writer, json.dumps([_peak() - before, len(kept)]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    peak, _ = json.loads(os.read(reader, 1000))
    return {"peak_bytes": peak, "networks": round(peak / original, 3)}


def _resident() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def _peak() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Measure what is asked for, one network a process, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--coders", nargs="+", default=["huffman", "range"])
    parser.add_argument("--one", help="measure one network in this process and print it")
    asked = parser.parse_args()
    if asked.one:
        coder = asked.coders[0]
        found = {"sparse": measure(asked.one, False, coder), "memory": memory(asked.one, coder)}
        if asked.one == "alexnet":
            found["dense"] = measure(asked.one, True, coder)
        print(json.dumps(found))
        return
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for net in asked.nets:
        for coder in asked.coders:
            command = [sys.executable, "-m", "benchmarks.codec", "--one", net, "--coders", coder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[f"{net} {coder}"] = json.loads(done.stdout)
            print(f"{net} {coder} (synthetic): {rows[f'{net} {coder}']}", flush=True)
    document = {
        "what": "synthetic tensors of full size; bytes are not those of any trained network",
        "cores": 1,
        "numpy": np.__version__,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
