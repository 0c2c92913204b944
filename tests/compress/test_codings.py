"""Each coding gives back what it was given, bit for bit, and refuses what it did not write."""

from __future__ import annotations

import builtins
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.compress.codings import CODERS, Hint, _coding, decode_tensor, encode_tensor
from danlu.compress.codings.huffman import entries_of
from danlu.compress.codings.prefix import LONGEST, encode_symbols, lengths_of
from danlu.compress.codings.reader import Reader, varint
from danlu.core.errors import InputError


def shared(shape: tuple[int, ...], keep: float, levels: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a tensor of ``levels`` values, the first ones more often, with zeros."""
    rng = np.random.default_rng(seed)
    values = np.zeros(shape, dtype=np.float32)
    is_kept = rng.random(shape) < keep
    book = rng.standard_normal(levels).astype(np.float32)
    values[is_kept] = book[np.minimum(levels - 1, rng.geometric(0.3, int(is_kept.sum())) - 1)]
    return values


CASES = {
    "sparse": shared((300, 784), 0.03, 8),
    "columns": np.where(np.arange(300) % 9 == 0, shared((200, 300), 0.9, 4), np.float32(0)),
    "dense": shared((64, 32, 3, 3), 0.9, 256),
    "one row": shared((300,), 0.4, 5),
    "no row at all": np.zeros((0, 3), np.float32),
    "zeros": np.zeros((5, 7), np.float32),
    "one value": np.full((4, 4), 3.25, np.float32),
    "a zero of the other sign": np.array([[-0.0, 0, 1, 0, 0, 0, 0, 0]], np.float32),
    "nothing shared": np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32),
    "pruned only": np.where(shared((90, 70), 0.1, 1) != 0, shared((90, 70), 1.0, 6300, 1), np.float32(0)),
    "long gaps": np.concatenate([np.zeros(100_000), [1], np.zeros(70_000), [2], np.zeros(9)]).astype("f4"),
    "too many rows for places": shared((70_000, 3), 0.2, 6),
    "a count": np.array(5),
    "counts": np.arange(-5, 300),
    "double": np.array([1.5, -2.25]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("coding", CODERS["auto"])
def test_round_trip(case: str, coding: str) -> None:
    values = CASES[case]
    coded = _coding(coding).encode(values, None)
    if coded is None:
        assert coding != "raw"
        return
    assert sum(coded.split.values()) == len(coded.payload)
    found = decode_tensor(coded.number, memoryview(coded.payload), values.dtype, values.shape, "here")
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert found.tobytes() == values.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    keep=st.floats(0, 1),
    levels=st.integers(1, 60),
    seed=st.integers(0, 9),
)
def test_any_shared_tensor_comes_back(shape: list[int], keep: float, levels: int, seed: int) -> None:
    values = shared(tuple(shape), keep, levels, seed)
    for coder in ("huffman", "range"):
        coded = encode_tensor(values, coder=coder)
        found = decode_tensor(coded.number, memoryview(coded.payload), values.dtype, values.shape, "here")
        assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_scaled_integers_need_no_codebook(axis: int) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-7, 8, (12, 40)) * (rng.random((12, 40)) < 0.4)
    scales = rng.random(integers.shape[axis]).astype(np.float32) + np.float32(0.1)
    values = integers.astype(np.float32) * (scales[:, None] if axis == 0 else scales[None, :])
    values += np.float32(0)
    hint = Hint(scales, axis)
    for coder in ("huffman", "range"):
        coded = encode_tensor(values, hint, coder)
        assert coded.split["codebooks"] <= 4 * len(scales) + 12
        found = decode_tensor(coded.number, memoryview(coded.payload), values.dtype, values.shape, "here")
        assert found.tobytes() == values.tobytes()
    # Scales that the values are no multiples of are no use, and no harm.
    wrong = encode_tensor(values, Hint(scales * np.float32(1.01), axis))
    assert (
        decode_tensor(wrong.number, memoryview(wrong.payload), values.dtype, values.shape, "x").tobytes()
        == values.tobytes()
    )


def test_filler_zeros_stand_where_a_gap_is_too_long() -> None:
    places = np.array([3, 4, 300, 301, 305, 306, 307, 310, 311, 2000])
    bits, gaps, is_filler = entries_of(places)
    reached = np.cumsum(gaps + 1) - 1
    assert gaps.max() < 1 << bits
    assert reached[~is_filler].tolist() == places.tolist()
    assert is_filler.sum() == sum((np.diff(places, prepend=-1) - 1) >> bits)


def test_huffman_lengths_are_those_of_the_textbook() -> None:
    # Cormen et al., Introduction to Algorithms, figure 16.3: a 45, b 13, c 12, d 16, e 9, f 5.
    assert lengths_of(np.array([45, 13, 12, 16, 9, 5])).tolist() == [1, 3, 3, 3, 4, 4]
    assert lengths_of(np.array([0, 7, 0])).tolist() == [0, 0, 0]
    # Fibonacci's numbers make the longest codes; they are cut to what the table takes, and still a complete code.
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = lengths_of(np.array(fibonacci)).astype(np.int64)
    assert lengths.max() <= LONGEST
    assert sum(2.0**-lengths) == 1.0


def test_huffman_is_within_a_bit_of_the_entropy() -> None:
    symbols = np.minimum(30, np.random.default_rng(0).geometric(0.4, 50_000) - 1)
    counts = np.bincount(symbols)
    share = counts[counts > 0] / len(symbols)
    entropy = -(share * np.log2(share)).sum() * len(symbols) / 8
    _, stream = encode_symbols(symbols, 31)
    assert entropy <= len(stream) <= 1.05 * entropy + 2 * len(symbols) / 1024


def test_range_coding_learns_which_columns_are_used() -> None:
    values = CASES["columns"]
    sizes = {coder: len(encode_tensor(values, coder=coder).payload) for coder in ("huffman", "range")}
    # Where a column is used or not, a place costs Huffman's indices bits, and the range coder next to nothing.
    assert sizes["range"] < 0.85 * sizes["huffman"]


def test_no_constriction(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "constriction":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"danlu\[compress\]"):
        encode_tensor(CASES["one row"], coder="range")
    # Who lets the writer choose gets what there is.
    assert encode_tensor(CASES["one row"]).facts["coding"] == "huffman"


def test_unknown_coder_and_coding() -> None:
    with pytest.raises(InputError, match="unknown coder 'zip'"):
        encode_tensor(CASES["zeros"], coder="zip")
    with pytest.raises(InputError, match=r"coding number 9 is not known(?s:.)*newer version"):
        decode_tensor(9, memoryview(b""), np.dtype("f4"), (1,), "here")


def test_numbers_of_any_length() -> None:
    for value in (0, 127, 128, 300, 2**32, 2**62):
        assert Reader(memoryview(varint(value)), "x").number(2**63) == value
    with pytest.raises(InputError, match="at most 5"):
        Reader(memoryview(varint(6)), "x").number(5)
    with pytest.raises(InputError, match="more than 64 bits"):
        Reader(memoryview(b"\xff" * 20), "x").number(2**70)
    with pytest.raises(InputError, match="ends too early"):
        Reader(memoryview(b"\x80"), "x").number(5)


@pytest.mark.parametrize("coding", ["huffman", "range"])
@pytest.mark.parametrize("case", ["sparse", "dense", "one row", "pruned only"])
def test_a_damaged_payload_gives_an_error_or_a_tensor(coding: str, case: str) -> None:
    """Without the checksums of a file around it: no crash, no hang, no memory beyond the tensor's."""
    values = CASES[case]
    coded = _coding(coding).encode(values, None)
    if coded is None:
        return
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(25):
        data = bytearray(coded.payload)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(min(len(data), 300)))] = int(rng.integers(256))
        with contextlib.suppress(InputError):
            found = decode_tensor(coded.number, memoryview(bytes(data)), values.dtype, values.shape, "here")
            assert found.shape == values.shape
            continue
        refused += 1
    assert refused or coding == "range"


def test_the_recorded_speed_is_what_was_promised() -> None:
    """At least 50 MB/s of original weights each way on one core, in at most twice the network's memory; synthetic."""
    record = json.loads((Path(__file__).parents[2] / "benchmarks/codec.json").read_text(encoding="utf-8"))
    assert record["what"].startswith("synthetic")
    assert {"alexnet huffman", "vgg16 huffman"} <= set(record["rows"])
    for row in record["rows"].values():
        for measured in (row["sparse"], row.get("dense", row["sparse"])):
            assert min(measured["encode_mb_s"], measured["decode_mb_s"]) >= 50
        assert row["memory"]["networks"] <= 2


@pytest.mark.parametrize("coder", ["huffman", "range", "auto"])
def test_zeros_keep_their_sign(coder: Any) -> None:
    values = np.array([-0.0, 0.5, 1.0, 0.0, -0.5] * 50, dtype=np.float32)
    coded = encode_tensor(values, Hint([0.5]), coder)
    assert decode_tensor(coded.number, coded.payload, values.dtype, values.shape, "x").tobytes() == values.tobytes()
