"""Coded files nobody has to trust: what was changed in one is refused, with place and reason, soon, in little memory.

Rows B5 to B11 of the table of faults, for ``.dlz``: truncated, a flipped byte, hostile lengths, values that are not
finite, another structure, a newer schema, another format under this name.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.compress import compress
from danlu.compress.base import Compressed, subject_of
from danlu.compress.codings import Coded, encode_tensor
from danlu.compress.codings.reader import varint
from danlu.compress.container import _WORDS, MAGIC, pack, parse
from danlu.compress.dlz import _structure, open_dlz, write_dlz
from danlu.compress.edits import EDITS, Edit, apply_edits
from danlu.core.errors import InputError
from danlu.models import create_model
from danlu.tasks.trained import Trained, is_coded, open_trained
from tests.compress.networks import few_digits, network_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return network_run("lenet5", tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def file(trained: Trained) -> Path:
    overrides = {"prune.epochs": 0, "share.epochs": 0, "coder": "auto"}
    return Path(compress(trained, "deep", overrides=overrides, data=few_digits(), threads=1)["path"])


def changed(data: bytes, change: Callable[[dict[str, Any], list[Coded]], None]) -> bytes:
    """Return a file that was changed by somebody who knows the format: all checksums are right."""
    parsed = parse(data, "x")
    tensors = [Coded(coding, bytes(payload), {}) for coding, payload, _ in parsed.tensors]
    change(parsed.header, tensors)
    return pack(parsed.header, tensors)


def refuses(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "坏 file.dlz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=match) as found:
        open_trained(path)
    assert str(path) in str(found.value)


def test_ten_thousand_mutations_are_refused(file: Path) -> None:
    """Truncations, flipped bits, bytes put in, taken out and moved: none is read, none takes long."""
    whole, rng, slowest = file.read_bytes(), np.random.default_rng(0), 0.0
    for number in range(10_000):
        data = bytearray(whole)
        at, kind = int(rng.integers(len(data))), number % 5
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            end = at + int(rng.integers(1, 9))
            data[at:end] = b"\xff" * (end - at)
        else:
            del data[at : at + int(rng.integers(1, 9))]
        if bytes(data) == whole:
            continue
        begin = time.perf_counter()
        with pytest.raises(InputError, match=r"here\.dlz"):
            parse(bytes(data), "here.dlz")
        slowest = max(slowest, time.perf_counter() - begin)
    assert slowest < 5.0


def test_hostile_files_with_right_checksums_are_refused_or_read_in_bounds(file: Path, tmp_path: Path) -> None:
    """Payloads changed by somebody who mends the checksums: an error that names the tensor, or a finite network."""
    whole, rng, refused = file.read_bytes(), np.random.default_rng(1), 0
    path = tmp_path / "hostile.dlz"

    def spoil(header: dict[str, Any], tensors: list[Coded]) -> None:
        place = int(rng.integers(len(tensors)))
        payload = bytearray(tensors[place].payload)
        for _ in range(int(rng.integers(1, 4))):
            payload[int(rng.integers(min(len(payload), 64)))] = int(rng.integers(256))
        tensors[place] = Coded(
            int(rng.integers(5)) if rng.random() < 0.2 else tensors[place].number, bytes(payload), {}
        )

    for _ in range(60):
        path.write_bytes(changed(whole, spoil))
        try:
            model = open_dlz(path).model
        except InputError:
            refused += 1
            continue
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert refused > 5


def test_truncated(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for length in (0, 5, 8, 20, 39, len(data) // 2, len(data) - 1):
        refuses(tmp_path, data[:length], "truncated|ends too early|is no coded file|damaged|empty")


def test_a_flipped_byte_names_the_tensor_it_is_in(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    at = parse(bytes(data), "x").tensors[4][2] + 100
    data[at] ^= 1
    refuses(tmp_path, bytes(data), "tensor 4, bytes .* was changed or damaged")
    data[at] ^= 1
    data[-1] ^= 1
    refuses(tmp_path, bytes(data), "its SHA-256 is not the one it ends with")


def test_not_finite(file: Path, tmp_path: Path) -> None:
    def spoil(header: dict[str, Any], tensors: list[Coded]) -> None:
        tensors[1] = encode_tensor(np.array([1, 2, np.nan, 4, 5, 6], np.float32), coder="none")

    refuses(tmp_path, changed(file.read_bytes(), spoil), r"c1.bias \(from byte .*not finite")


DATA = {"name": "x", "source": "x", "hash": "x", "classes": ["a"]}


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("build", {"name": "lenet5", "num_classes": 10**9, "in_channels": 1}, "num_classes = 1000000000 disagrees"),
        ("build", {"name": "lenet5_1998", "num_classes": 10, "in_channels": 1}, "another structure"),
        ("build", {"name": "os.system", "num_classes": 10}, "unknown model 'os.system'"),
        ("build", {"name": "lenet5", "_target_": "os.system"}, "says its network is made by"),
        ("build", ["lenet5"], "no section 'build'"),
        ("structure", 5, "another structure"),
        ("edits", [["resize", {"layers": {"c1": {"out_channels": 10**9}}}]], "c1.out_channels = 1000000000"),
        ("edits", [["resize", {"layers": {"c9": {}}}]], "'c9' is no layer"),
        ("edits", [["resize", {"nothing": 1}]], "edit resize does not fit LeNet5"),
        ("edits", [["os.system", {}]], "unknown edit 'os.system'"),
        ("edits", ["rm"], "'rm' is no edit"),
        ("edits", {}, "no list of edits"),
        ("data", {"classes": []}, "no list of names"),
        ("data", {**DATA, "classes": ["a", "b", "c"]}, "disagrees"),
        ("data", {**DATA, "classes": ["a"] * 3}, "names a class twice"),
        ("data", {"classes": ["a"], "name": "x", "hash": "x"}, "data.source is no text"),
        ("data", {**DATA, "hash": 7}, "data.hash is no text"),
        ("data", {**DATA, "seed": "x"}, "data.seed is no number"),
        ("edits", [["keep_channels", {"layers": {"c3": {"groups": 0}}}]], "edit keep_channels"),
        ("preprocess", {"picture_size": [200_000, 200_000]}, "preprocess"),
        ("train", ["augment"], "no section 'train'"),
        ("preprocess", {"picture_size": [0, 0]}, "preprocess"),
        ("task", "segmentation", "unknown task"),
        ("label_smoothing", "much", "label_smoothing"),
        ("seed", [], "seed"),
    ],
)
def test_hostile_headers(file: Path, tmp_path: Path, key: str, value: Any, match: str) -> None:
    refuses(tmp_path, changed(file.read_bytes(), lambda header, tensors: header.update({key: value})), match)


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def test_newer_schema(file: Path, tmp_path: Path) -> None:
    body = bytearray(file.read_bytes()[:-32])
    body[len(MAGIC)] = 2
    refuses(tmp_path, sealed(bytes(body)), r"schema 2 is newer than 1(?s:.)*newer version of danlu")


def test_bombs(file: Path, tmp_path: Path) -> None:
    """A header that unpacks to gigabytes; lengths and counts of 2^60; few bytes that claim a large network."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _WORDS)
    packed = deflate.compress(b'{"a":"' + b"x" * (64 << 20) + b'"}') + deflate.flush()
    section = varint(len(packed)) + zlib.crc32(packed).to_bytes(4, "little") + packed
    refuses(tmp_path, sealed(MAGIC + b"\1" + section + b"\0"), "the header unpacks to more than")
    huge = MAGIC + b"\1" + varint(2**60) + b"\0\0\0\0" + b"x" * 100
    refuses(tmp_path, sealed(huge), "1,152,921,504,606,846,976 bytes are announced")

    def claim(header: dict[str, Any], tensors: list[Coded]) -> None:
        header["build"] = {"name": "vit_b_16", "num_classes": 10, "in_channels": 1}

    refuses(tmp_path, changed(file.read_bytes(), claim), "another structure")


def test_few_bytes_are_no_large_network(tmp_path: Path) -> None:
    """A right file of a network of zeros, 86 million of them in 2 kB: refused before any of them is made."""
    with torch.device("meta"):
        fresh = create_model("vit_b_16", num_classes=10, in_channels=1).state_dict()
    zeros = {
        shape: encode_tensor(np.zeros(shape, np.float32), coder="huffman") for shape in map(_shape, fresh.values())
    }
    header = {
        "build": {"name": "vit_b_16", "num_classes": 10, "in_channels": 1},
        "edits": [],
        "structure": _structure((name, value.shape, value.dtype) for name, value in fresh.items()),
        "preprocess": {"picture_size": [8, 8], "input_size": [8, 8], "fit": "none"}
        | {"channels": 1, "mean": [0.5], "std": [0.5]},
        "data": {"name": "a", "source": "a", "hash": "a", "classes": [str(k) for k in range(10)]},
        "task": "classification",
    }
    data = pack(header, [zeros[_shape(value)] for value in fresh.values()])
    assert len(data) < 4000
    refuses(tmp_path, data, "bytes claim to be 8[0-9],[0-9]{3},[0-9]{3} weights")


def _shape(value: torch.Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def test_other_formats_under_this_name(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    for data in (stream.getvalue(), pickle.dumps({"a": 1}), b"", b"\x93NUMPY", b"PK\3\4", b"<html>"):
        refuses(tmp_path, data, "is no coded file")


def test_told_by_its_first_bytes(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights.bin"
    other.write_bytes(file.read_bytes())
    assert is_coded(other)
    assert open_trained(other).model_name == "lenet5"
    assert not is_coded(tmp_path)
    with pytest.raises(InputError, match="is no run folder"):
        open_trained(tmp_path / "nothing.dlz")


def test_it_says_what_it_is_made_of(file: Path, trained: Trained) -> None:
    header = parse(file.read_bytes(), "x").header
    assert header["build"] == {"name": "lenet5", "num_classes": 10, "in_channels": 1}
    assert header["method"] == {
        "name": "deep",
        "settings": {"prune": {"epochs": 0}, "share": {"epochs": 0}, "coder": "auto"},
        "seed": 0,
    }
    assert header["data"]["hash"] == few_digits().hash
    assert open_trained(file).preprocess.settings == trained.preprocess.settings


def test_edits_are_carried_out_again(trained: Trained, tmp_path: Path) -> None:
    """A network whose layers were made narrower comes back as it was."""
    subject = subject_of(trained, few_digits(), device="cpu")
    edit = Edit("resize", {"layers": {"c5": {"out_features": 7}, "f6": {"in_features": 7}}})
    apply_edits(subject.model, [edit])
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.normal_()
    path = tmp_path / "narrow.dlz"
    write_dlz(path, subject, Compressed(subject.model, (edit,)), "test", {})
    opened = open_trained(path)
    assert opened.edits == (edit,)
    for name, value in opened.model.state_dict().items():
        assert torch.equal(value, subject.model.state_dict()[name])
    pictures = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    assert opened.picture_model(pictures).shape == (2, 10)
    with pytest.raises(InputError, match="the edits do not make the structure"):
        write_dlz(path, subject, Compressed(subject.model, ()), "test", {})


def test_every_edit_is_registered_with_a_title() -> None:
    assert all(facts["title"] for facts in EDITS.index.values())


def test_nothing_not_finite_is_written(trained: Trained, tmp_path: Path) -> None:
    subject = subject_of(trained, few_digits(), device="cpu")
    with torch.no_grad():
        next(subject.model.parameters())[0] = torch.inf
    with pytest.raises(InputError, match=r"c1\.weight holds values that are not finite"):
        write_dlz(tmp_path / "x.dlz", subject, Compressed(subject.model, ()), "test", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config", "record"])
def test_a_report_replaces_no_other_file(trained: Trained, tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.json").write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(InputError, match=f"would replace {name}.json"):
        compress(trained, "prune", out=tmp_path / f"{name}.dlz", data=few_digits(), threads=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json"]


def test_a_coded_file_is_trained_on_as_its_run_was(trained: Trained, tmp_path: Path) -> None:
    own = {"batch_size": 24, "augment": [{"name": "flip"}], "loss": {"class_weights": "inverse"}}
    effective = {**trained.config["effective"], "train": own}
    source = replace(trained, config={**trained.config, "effective": effective})
    overrides = {"rounds": 1, "epochs": 0}
    compress(source, "prune", overrides=overrides, out=tmp_path / "a.dlz", data=few_digits(), threads=1)
    for one in (source, open_dlz(tmp_path / "a.dlz")):
        subject = subject_of(one, few_digits(), threads=1)
        assert subject.settings.batch_size == 24
        assert len(subject.settings.augment) == 1
        assert subject.task.weights is not None
        assert subject.task.weights.std() > 0


def test_whole_numbers_are_not_compressed_again(trained: Trained, tmp_path: Path) -> None:
    found = compress(trained, "qat", overrides={"epochs": 0}, out=tmp_path / "q.dlz", data=few_digits(), threads=1)
    assert found["ratio"] > 2, "the ratio is to the float32 network"
    for method in ("distill", "entropy", "qat"):
        with pytest.raises(InputError, match="is quantised already"):
            compress(tmp_path / "q.dlz", method, data=few_digits(), threads=1)
