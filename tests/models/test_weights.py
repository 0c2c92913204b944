"""Files of weights: what is read, what is refused, and that nothing in them ever runs."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from danlu.core.errors import InputError
from danlu.core.files import sha256_file
from danlu.core.records import RunFolder
from danlu.models import MODELS, create_model
from danlu.models.weights import checkpoint_folder, load_weights, read_verified, read_weights

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    return create_model("lenet5").state_dict()


class Evil:
    """A pickle that writes a file when it is opened."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (open, (str(self.witness), "w"))


def equal(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_safetensors_whatever_the_suffix(tmp_path: Path, state: State, suffix: str) -> None:
    path = tmp_path / f"权重 1{suffix}"
    path.write_bytes(safetensors.torch.save(state))
    assert equal(read_weights(path), state)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(tmp_path: Path, state: State, wrap: Any, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(
        wrap({f"module.{key}": value for key, value in state.items()}), path, _use_new_zipfile_serialization=zipped
    )
    assert equal(read_weights(path), state)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_b1_a_pickle_that_calls_something_is_refused(tmp_path: Path, state: State, zipped: bool, name: str) -> None:
    """B1, B2, B11: refused under every name, in both of torch's formats, and what it calls never runs."""
    witness = tmp_path / "witness"
    path = tmp_path / name
    torch.save({"state_dict": state, "extra": Evil(witness)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"wants more than tensors|calls itself safetensors"):
        read_weights(path)
    assert not witness.exists()


def test_b1_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"a": Evil(witness)}))
    with pytest.raises(InputError, match=r"refused|damaged"):
        read_weights(path)
    assert not witness.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("inside", ["call", "object"])
def test_b1_the_refusal_is_ours_alone(tmp_path: Path, protocol: int, inside: str) -> None:
    """No advice of torch's to load it without the check, and no warning beside it (warnings are errors here)."""
    path = tmp_path / "w.pth"
    thing = Evil(tmp_path / "witness") if inside == "call" else argparse.Namespace(lr=0.1)
    path.write_bytes(pickle.dumps({"a": thing}, protocol=protocol))
    with pytest.raises(InputError) as caught:
        read_weights(path)
    said = str(caught.value)
    assert "weights_only" not in said
    assert "torch" not in said
    assert "trusted" not in said
    assert said.splitlines()[-1] == "  mend: use a file that holds the state dict only, best as safetensors"


def test_b1_is_never_retried(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (calls.append(k), load(*a, **k))[1])
    path = tmp_path / "w.pth"
    torch.save({"a": Evil(tmp_path / "witness")}, path)
    with pytest.raises(InputError):
        read_weights(path)
    assert [call["weights_only"] for call in calls] == [True]


def test_b2_an_old_torch_reads_no_pickles(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(InputError, match=r"torch 2\.9\.1.*cannot read pickled weights safely"):
        read_weights(path)


def test_b2_the_tar_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match="is a tar archive"):
        read_weights(path)


def _numpy(path: Path) -> None:
    np.save(path, np.zeros(3))


def _npz(path: Path) -> None:
    np.savez(path, a=np.zeros(3))


def _script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"):
            archive.writestr(name, b"")


def _packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\0" * 10_000_000)


def _text(path: Path) -> None:
    path.write_text("<!doctype html><title>404</title>")


def _json(path: Path) -> None:
    path.write_text('{"_target_": "os.system"}')


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_numpy, "a NumPy array"),
        (_npz, "an archive that torch.save did not write"),
        (_script, "TorchScript, which is a program"),
        (_packed, "compressed entries"),
        (_text, "a text file"),
        (_json, "a text file"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(b"ftrt" + bytes(100)), "of a format that is not known"),
        (lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b"{}"), "of a format that is not known"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_b11_what_is_no_weights_is_named(tmp_path: Path, write: Any, words: str, suffix: str) -> None:
    path = tmp_path / "w"
    write(path)
    written = path if path.exists() else next(tmp_path.iterdir())
    written = written.rename(tmp_path / f"w{suffix}")
    with pytest.raises(InputError, match=words) as caught:
        read_weights(written)
    assert str(written) in str(caught.value)


@pytest.mark.parametrize("keep", [4, 12, 200, 5_000, -1])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_b5_b7_truncated(tmp_path: Path, state: State, keep: int, kind: str) -> None:
    path = tmp_path / "w"
    if kind == "safetensors":
        path.write_bytes(safetensors.torch.save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / "w")
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_b8_not_finite(tmp_path: Path, state: State, value: float, save: Any) -> None:
    state["f6.bias"][5] = value
    save(state, tmp_path / "w")
    with pytest.raises(InputError, match=r"not finite, in f6\.bias$|not finite, in f6\.bias\n"):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize("thing", [{}, [1, 2], {"a": 3}, {"a": {"b": torch.zeros(2)}}, {1: torch.zeros(2)}])
def test_no_flat_dictionary(tmp_path: Path, thing: Any) -> None:
    torch.save(thing, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"no dictionary of tensors|no plain tensors"):
        read_weights(tmp_path / "w.pth")


def test_b9_another_architecture(tmp_path: Path, state: State) -> None:
    safetensors.torch.save_file(state, tmp_path / "w")
    model = create_model("resnet20")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"does not fit CIFARResNet: missing stem_conv\.weight") as caught:
        load_weights(model, tmp_path / "w")
    message = str(caught.value)
    assert message.count("missing ") + message.count("unexpected ") == 10
    assert f"and {len(before) + len(state) - 10} more" in message
    assert "another architecture" in message
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"num_classes": 7}, "num_classes=7"),
        ({"in_channels": 3}, "pictures of 3 channels"),
    ],
)
def test_b9_another_count(tmp_path: Path, arguments: dict[str, int], hint: str) -> None:
    safetensors.torch.save_file(create_model("lenet5", **arguments).state_dict(), tmp_path / "w")
    with pytest.raises(InputError, match=r"(?s)shape of .* is .*, the model has .*" + hint):
        load_weights(create_model("lenet5"), tmp_path / "w")


def test_b9_another_variant(tmp_path: Path) -> None:
    safetensors.torch.save_file(create_model("resnet32").state_dict(), tmp_path / "w")
    with pytest.raises(InputError, match=r"(?s)unexpected stage1\.3.*another architecture or variant"):
        load_weights(create_model("resnet20"), tmp_path / "w")


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_reference_names_are_renamed(tmp_path: Path, name: str) -> None:
    mapping = MODELS.get(name).mapping
    source, target = create_model(name), create_model(name)
    torch.save(mapping.to_reference(source.state_dict()), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert equal(target.state_dict(), source.state_dict())
    bare = type(target)(**MODELS.get(name).arguments)  # built without its variant, it knows no other names
    with pytest.raises(InputError, match="another implementation"):
        load_weights(bare, tmp_path / "w.pth")
    load_weights(bare, tmp_path / "w.pth", mapping)
    assert equal(bare.state_dict(), source.state_dict())


def write_checkpoint(folder: Path, state: State) -> Path:
    folder.mkdir(parents=True)
    path = folder / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    manifest = {"schema": 1, "step": 1, "epoch": 1, "files": {path.name: sha256_file(path)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_verified(tmp_path: Path, state: State) -> None:
    write_checkpoint(tmp_path / "step-1", state)
    assert equal(read_verified(tmp_path / "step-1"), state)


def test_b6_a_flipped_byte_is_seen(tmp_path: Path, state: State) -> None:
    path = write_checkpoint(tmp_path / "step-1", state)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert not equal(read_weights(path), state)  # the format itself does not see it
    with pytest.raises(InputError, match=r"weights\.safetensors: was changed or damaged.*SHA-256"):
        read_verified(tmp_path / "step-1")


def test_verified_refuses(tmp_path: Path, state: State) -> None:
    path = write_checkpoint(tmp_path / "step-1", state)
    manifest = path.parent / "manifest.json"
    with pytest.raises(InputError, match=r"does not list 'optimizer\.safetensors'"):
        read_verified(path.parent, "optimizer.safetensors")
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        read_verified(path.parent)
    manifest.write_text('{"schema": 99}')
    with pytest.raises(InputError, match="schema 99 is newer"):
        read_verified(path.parent)
    manifest.unlink()
    with pytest.raises(InputError, match=r"manifest\.json: no such file"):
        read_verified(path.parent)


def test_b8_verified_names_the_tensor(tmp_path: Path, state: State) -> None:
    state["c1.weight"][0, 0, 0, 0] = float("nan")
    write_checkpoint(tmp_path / "step-1", state)
    with pytest.raises(InputError, match=r"not finite, in c1\.weight"):
        read_verified(tmp_path / "step-1")


def test_b1_verified_takes_no_pickle(tmp_path: Path, state: State) -> None:
    path = write_checkpoint(tmp_path / "step-1", state)
    torch.save(state, path)
    manifest = {"schema": 1, "files": {path.name: sha256_file(path)}}
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="no safetensors file"):
        read_verified(path.parent)


def test_checkpoint_folder(tmp_path: Path, state: State) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        checkpoint_folder(run)
    for step in (1, 2):
        write_checkpoint(run.checkpoints / f"step-00000{step}", state)
    pointers = run.checkpoints / "pointers.json"
    pointers.write_text('{"schema": 1, "best": "step-000001", "last": "step-000002"}')
    assert checkpoint_folder(run).name == "step-000001"
    assert checkpoint_folder(run, "last").name == "step-000002"
    assert checkpoint_folder(run, "step-000002").name == "step-000002"
    with pytest.raises(InputError, match=r"(?s)no checkpoint worst.*best, last, step-000001"):
        checkpoint_folder(run, "worst")


@pytest.mark.parametrize("name", ["../outside", "step-000009", "/etc", "step-1/../../x", 7, None])
def test_a_pointer_never_leads_out(tmp_path: Path, state: State, name: Any) -> None:
    run = RunFolder(tmp_path / "run")
    write_checkpoint(run.checkpoints / "step-000001", state)
    write_checkpoint(tmp_path / "outside", state)
    (run.checkpoints / "pointers.json").write_text(json.dumps({"schema": 1, "best": name, "last": name}))
    with pytest.raises(InputError, match="has no checkpoint best"):
        checkpoint_folder(run)
