"""Weights by path, from torchvision's server and from the hub: what is asked for, what is refused, what is checked."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest
import torch

from danlu.core import fetch
from danlu.core.errors import InputError
from danlu.models import MODELS, create_model
from danlu.models.hub import find_weights
from danlu.models.weights import load_weights, save_weights
from danlu.proof import randomise


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DANLU_OFFLINE", raising=False)
    return tmp_path / "home"


def test_our_weights_go_to_the_reference_and_back(tmp_path: Path) -> None:
    import torchvision

    ours = randomise(create_model("resnet18")).eval()
    save_weights(ours, tmp_path / "theirs.safetensors", reference=True)
    save_weights(ours, tmp_path / "ours.safetensors")
    from safetensors.torch import load_file

    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(load_file(tmp_path / "theirs.safetensors"))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    x = torch.randn(2, 3, 64, 64)
    for name in ("theirs.safetensors", "ours.safetensors", "theirs.pth"):
        again = create_model("resnet18", weights=tmp_path / name).eval()
        with torch.no_grad():
            assert torch.equal(again(x), ours(x))
            assert torch.allclose(again(x), theirs.eval()(x), rtol=1e-5)


def test_torchvision_weights_by_name(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(url: str, target: Path, *, checksum: str, limit: int, title: str | None = None) -> Path:
        asked.append((url, checksum))
        save_weights(randomise(create_model("resnet18")), target)
        return target

    monkeypatch.setattr(fetch, "download", download)
    create_model("resnet18", weights="torchvision:IMAGENET1K_V1")
    (url, checksum), *_ = asked
    assert url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert checksum == "sha256:f37072fd"
    with pytest.raises(InputError, match=r"no weights 'IMAGENET1K_V7'.*\n  did you mean: IMAGENET1K_V1"):
        create_model("resnet18", weights="torchvision:IMAGENET1K_V7")
    with pytest.raises(InputError, match="torchvision's weights do not fit"):
        create_model("resnet20", weights="torchvision:DEFAULT")


def test_a_published_beginning_of_a_checksum_counts(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    fetch.verify_checksum(file, f"sha256:{digest[:8]}")
    for wrong in (f"sha256:{digest[:7]}{'0' if digest[7] != '0' else '1'}", "sha256:"):
        with pytest.raises(InputError, match="sha256 is"):
            fetch.verify_checksum(file, wrong)


def test_weights_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def hf_hub_download(repository: str, name: str, local_dir: Path) -> str:
        asked.append((repository, name))
        if "missing" in repository:
            raise RuntimeError("404 Client Error\nmore")
        file = Path(local_dir) / name
        save_weights(randomise(create_model("lenet5")), file)
        return str(file)

    client = types.ModuleType("huggingface_hub")
    client.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    create_model("lenet5", weights="hf:someone/lenet")
    create_model("lenet5", weights="hf:someone/lenet")
    for name, tag in (("resnet50d", "resnet50d.ra2_in1k"), ("resnet50", "resnet50.a1_in1k")):
        find_weights(f"timm:{tag}", MODELS.get(name))
    named = ["someone/lenet", "timm/resnet50d.ra2_in1k", "timm/resnet50.a1_in1k"]
    assert asked == [(repository, "model.safetensors") for repository in named]
    with pytest.raises(InputError, match="cannot be fetched \\(404 Client Error\\)"):
        create_model("lenet5", weights="hf:someone/missing")
    for wrong in ("hf:../../etc", "hf:one", "hf:a/b/c", "timm:a/b"):
        with pytest.raises(InputError, match="is no repository"):
            find_weights(wrong, MODELS.get("resnet50"))
    asked.clear()
    for name, wrong, said in (
        ("lenet5", "timm:lenet.mnist", "lenet5 has no form in timm: it is compared with"),
        ("resnet20", "timm:resnet20.in1k", "resnet20 has no form in timm: it is compared with"),
        ("resnet50", "timm:resnet18.a1_in1k", "is of 'resnet18', resnet50 is 'resnet50' there"),
        ("resnet50d", "timm:resnet50.a1_in1k", "give timm:resnet50d.TAG"),
    ):
        with pytest.raises(InputError, match=said):
            find_weights(wrong, MODELS.get(name))
    assert asked == []
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'danlu\[hub\]'"):
        create_model("lenet5", weights="hf:someone/other")
    monkeypatch.setenv("DANLU_OFFLINE", "1")
    with pytest.raises(InputError, match="DANLU_OFFLINE"):
        create_model("lenet5", weights="hf:someone/another")


def test_what_is_no_weights() -> None:
    for wrong in ("nothing.pth", "ftp:weights"):
        with pytest.raises(InputError, match="no such file or weights"):
            find_weights(wrong, MODELS.get("lenet5"))


def test_a_network_without_a_reference_keeps_its_names(tmp_path: Path) -> None:
    model = create_model("lenet5")
    model.mapping = None
    with pytest.raises(InputError, match="has no reference implementation"):
        save_weights(model, tmp_path / "x.safetensors", reference=True)
    load_weights(model, _saved(model, tmp_path))


def _saved(model: torch.nn.Module, folder: Path) -> Path:
    save_weights(model, folder / "x.safetensors")  # type: ignore[arg-type]
    return folder / "x.safetensors"
