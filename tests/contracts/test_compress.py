"""Every compression method, on a LeNet-5, a ResNet-20, a MobileNet and a ViT: what it promises, measured on its file.

Each network is compressed once by each method; all files are decoded once more by one fresh process. The export, which
takes longest, is done for each network by one method, and for each method that changes the structure on one network.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.compress import METHODS, compress
from danlu.compress.base import Method, subject_of
from danlu.compress.retrain import validate
from danlu.core.errors import InputError
from danlu.core.settings import Settings
from danlu.deploy.export import export
from danlu.evaluate import evaluate
from danlu.tasks.trained import open_trained
from tests.compress.networks import NETWORKS, few_digits, network_run, quick

METHODS_ON_NETWORKS = [name for name, facts in METHODS.index.items() if facts.get("works_on") == "network"]
EVERY = [(method, network) for network in NETWORKS for method in METHODS_ON_NETWORKS]
EXPORTED = [(method, "lenet5") for method in METHODS_ON_NETWORKS] + [("deep", name) for name in NETWORKS][1:]

FRESH = """
import hashlib, json, sys
from danlu.tasks.trained import open_trained
for path in sys.argv[1:]:
    state = open_trained(path).model.state_dict()
    print(json.dumps({name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}))
"""


def digests(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="danlu-compress-"))


@functools.cache
def source(network: str) -> Any:
    path = folder() / network
    path.mkdir()
    return network_run(network, path)


@functools.cache
def compressed(method: str, network: str) -> dict[str, Any]:
    """Compress once; return the document, with the hashes of the input before and after."""
    trained = source(network)
    before = digests(trained.model.state_dict())
    overrides = quick(METHODS.get(method).Settings)
    document = compress(trained, method, overrides=overrides, data=few_digits(), device="cpu", threads=1)
    return {**document, "before": before, "after": digests(trained.model.state_dict())}


@functools.cache
def decoded_elsewhere() -> dict[tuple[str, str], dict[str, str]]:
    """Return the hashes of all tensors of all files, as a fresh process decodes them."""
    paths = [compressed(*pair)["path"] for pair in EVERY]
    done = subprocess.run([sys.executable, "-c", FRESH, *paths], capture_output=True, text=True, check=True)
    return dict(zip(EVERY, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(("method", "network"), EVERY)
def test_the_input_is_untouched(method: str, network: str) -> None:
    found = compressed(method, network)
    assert found["before"] == found["after"]


@pytest.mark.parametrize(("method", "network"), EVERY)
def test_the_ratio_is_that_of_the_bytes_on_disk(method: str, network: str) -> None:
    found = compressed(method, network)
    size = Path(found["path"]).stat().st_size
    state = source(network).model.state_dict()
    dense = sum(4 * value.numel() for value in state.values() if value.is_floating_point())
    assert found["bytes"] == size == sum(found["split"].values())
    assert found["ratio"] == dense / size
    assert sum(layer["bytes"] for layer in found["layers"]) == size - found["split"]["header"]
    written = json.loads(Path(found["path"]).with_suffix(".json").read_text(encoding="utf-8"))
    assert written["bytes"] == size


@pytest.mark.parametrize(("method", "network"), EVERY)
def test_the_file_evaluates_as_the_compressed_network_did(method: str, network: str) -> None:
    found = compressed(method, network)
    opened = open_trained(found["path"])
    subject = subject_of(opened, few_digits(), device="cpu", threads=1)
    assert validate(subject, subject.model) == found["validation"]["after"]
    measured = evaluate(found["path"], few_digits(), "validation")
    assert measured["results"]["validation"]["accuracy"]["value"] == found["validation"]["after"]["accuracy"]


@pytest.mark.parametrize(("method", "network"), EVERY)
def test_a_fresh_process_decodes_the_same_bits(method: str, network: str) -> None:
    opened = open_trained(compressed(method, network)["path"])
    assert decoded_elsewhere()[method, network] == digests(opened.model.state_dict())


@pytest.mark.parametrize(("method", "network"), EXPORTED)
def test_it_exports_to_onnx_and_agrees(method: str, network: str) -> None:
    path = Path(compressed(method, network)["path"])
    opened = open_trained(path)
    if method != "deep" and not opened.edits:
        # The graph is the one that `deep` is exported as here, with other numbers in it.
        return
    record = export(opened, few_digits(), int8=False, threads=1)
    # A network that was trained to be rounded has no float form.
    precision = "int8" if method == "qat" else "fp32"
    assert record["parity"][precision]["validation"]["passed"]
    assert (path.parent / record["artifacts"][precision]["file"]).is_file()


@pytest.mark.parametrize("method", METHODS_ON_NETWORKS)
def test_settings_are_frozen_and_refuse_unknown_keys(method: str) -> None:
    thing = METHODS.get(method)
    assert isinstance(thing, Method)
    assert issubclass(thing.Settings, Settings)
    with pytest.raises(InputError, match="unknown key 'epoch_s'"):
        compress(source("lenet5"), method, overrides={"epoch_s": 1}, data=few_digits())
    with pytest.raises(ValueError, match="frozen"):
        thing.Settings().model_config_of_nothing = 1


def test_another_networks_layer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'c9.weight' is no weight this method works on(?s:.)*did you mean: c"):
        compress(source("lenet5"), "prune", overrides={"layers": {"c9.weight": 0.5}}, data=few_digits())


def test_a_network_that_nothing_can_be_taken_from_is_refused() -> None:
    from danlu.compress.base import weighted_layers

    with pytest.raises(InputError, match="Flatten: has no convolution and no linear layer"):
        weighted_layers(torch.nn.Flatten())


def test_a_coded_file_can_be_compressed_again(tmp_path: Path) -> None:
    first = compressed("prune", "lenet5")
    second = compress(first["path"], "share", overrides={"epochs": 0}, data=few_digits(), threads=1)
    assert second["bytes"] < first["bytes"]
    assert Path(second["path"]).name == "prune-share.dlz"
