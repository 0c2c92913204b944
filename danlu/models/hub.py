"""Published weights by name: from torchvision's server or the Hugging Face hub, only when they are asked for.

They are loaded through the network's weight mapping, so they must be of the implementation it is compared with.
"""

from __future__ import annotations

import re
from pathlib import Path

from danlu.core import fetch
from danlu.core.errors import InputError, nearest_names
from danlu.core.files import cache_home
from danlu.core.records import RunFolder
from danlu.models.base import Variant
from danlu.models.weights import checkpoint_folder

__all__ = ["check_weights", "find_weights"]

# torchvision's largest is 1.3 GB.
_LIMIT = 4_000_000_000
_FORMS = ["a .safetensors or .pth file", "a run folder", "torchvision:NAME", "timm:TAG", "hf:OWNER/REPOSITORY"]


def check_weights(weights: Path | str | None) -> None:
    """Refuse a path that is no file and no run; whether published weights exist is seen when they are fetched.

    Raises:
        InputError: no such file.
    """
    if weights is None or _is_published(weights) or _is_run(weights):
        return
    if not Path(weights).is_file():
        raise InputError("no such file or weights", where=str(weights), allowed=_FORMS)


def _is_published(weights: Path | str) -> bool:
    scheme, colon, _ = str(weights).partition(":")
    return bool(colon) and scheme in ("torchvision", "timm", "hf") and not Path(weights).is_file()


def _is_run(weights: Path | str) -> bool:
    return RunFolder(Path(weights)).config_path.is_file()


def find_weights(weights: Path | str, variant: Variant) -> Path:
    """Return the file of the weights that are asked for, fetching published ones.

    Args:
        weights: a file, or a run, whose best checkpoint is taken; ``torchvision:IMAGENET1K_V1`` (or
            ``torchvision:DEFAULT``); ``timm:resnet50.a1_in1k``, a model of timm's on the hub; or
            ``hf:owner/repository``, whose ``model.safetensors`` is taken.
        variant: what they are for.

    Raises:
        InputError: no such file or name, weights of another implementation, offline, or they cannot be fetched.
    """
    check_weights(weights)
    if _is_run(weights):
        return checkpoint_folder(RunFolder(Path(weights))) / "weights.safetensors"
    if not _is_published(weights):
        return Path(weights)
    scheme, _, name = str(weights).partition(":")
    folder = cache_home() / "weights" / scheme
    if scheme == "torchvision":
        return _from_torchvision(name, variant, folder)
    if scheme == "timm":
        _check_timm(name, variant)
    repository = f"timm/{name}" if scheme == "timm" else name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or ".." in repository:
        raise InputError(f"{repository!r} is no repository", where="--weights", allowed=["OWNER/NAME"])
    return _from_hub(repository, folder)


def _check_timm(name: str, variant: Variant) -> None:
    """Refuse weights of timm for a network that has no form in it, or another one, before any are fetched.

    Raises:
        InputError: see above; for the names of networks that timm has as torchvision has them, only the file can tell.
    """
    mapping = variant.mapping
    module, _, function = mapping.builder.partition(":") if mapping else ("", "", "")
    if module.partition(".")[0] not in ("timm", "torchvision"):
        reference = mapping.reference if mapping else "no other implementation"
        what = f"{variant.name} has no form in timm: it is compared with {reference}"
        raise InputError(what, where="--weights", allowed=[form for form in _FORMS if not form.startswith("timm")])
    if "/" not in name and name.partition(".")[0] != function:
        what = f"timm:{name} is of {name.partition('.')[0]!r}, {variant.name} is {function!r} there"
        raise InputError(what, where="--weights", mend=f"give timm:{function}.TAG")


def _from_torchvision(name: str, variant: Variant, folder: Path) -> Path:
    builder = variant.mapping.builder if variant.mapping else ""
    module, _, function = builder.partition(":")
    if module != "torchvision.models":
        reference = variant.mapping.reference if variant.mapping else "no other implementation"
        what = f"{variant.name} is compared with {reference}, torchvision's weights do not fit it"
        raise InputError(what, where="--weights", allowed=_FORMS)
    try:
        from torchvision.models import get_model_weights
    except ModuleNotFoundError:
        raise InputError("torchvision is not installed", where="--weights", mend="pip install torchvision") from None
    known = get_model_weights(function)
    names = [*known.__members__]
    if name not in names:
        raise InputError(f"{function} has no weights {name!r}", nearest=nearest_names(name, names), allowed=names)
    url: str = known[name].url
    file = url.rpartition("/")[2]
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", file)
    if digits is None:
        raise InputError(f"{file} carries no checksum in its name and is not fetched", where=url)
    folder.mkdir(parents=True, exist_ok=True)
    return fetch.download(url, folder / file, checksum=f"sha256:{digits[1]}", limit=_LIMIT, title=file)


def _from_hub(repository: str, folder: Path) -> Path:
    target = folder / repository.replace("/", "--")
    file = target / "model.safetensors"
    if not file.is_file():
        target.mkdir(parents=True, exist_ok=True)
        file = fetch.hub_file(repository, "model.safetensors", target)
    return file
