"""ncnn on the processor: one picture at a time, floats only. Needs ncnn and numpy; no torch.

ncnn may store and compute in half precision: float32 artifacts switch all of that off. Of the options that were set,
:meth:`Ncnn.describe` tells what the layers of the graph compute in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError, nearest_names
from danlu.deploy.folder import fit_outside, read_folder
from danlu.deploy.runtimes import RUNTIMES

__all__ = ["Ncnn"]

_LAYERS = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise", "InnerProduct", "Gemm")
_INPUT = "in0"


class Ncnn:
    """An artifact in ncnn. Make one with :meth:`load`.

    Attributes:
        name: ``ncnn``.
        threads: threads of one prediction.
        metadata: the artifact's metadata entries.
        outputs: the names of its outputs.
    """

    name = "ncnn"

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = read_folder(folder, self.name)
        self.metadata, self.threads, self._where = self._folder.metadata, threads, str(folder)
        self.outputs = tuple(output["name"] for output in self._folder.info.outputs)
        self._library = _library(self._where)
        self._precision = str(self._folder.settings.get("precision", "fp32"))
        if self._precision not in ("fp32", "bf16"):
            raise InputError(f"precision {self._precision!r}", where=self._where, allowed=["fp32", "bf16"])
        net = self._net = self._library.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        # Of the two ways to convolve, Winograd's is faster and loses two digits.
        net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = self._precision != "fp32"
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_int8_inference"):
            setattr(net.opt, name, False)
        net.opt.use_bf16_storage = self._precision == "bf16"
        if hasattr(net.opt, "use_bf16_packed"):
            net.opt.use_bf16_packed = self._precision == "bf16"
        if net.load_param(str(folder / "model.param")) or net.load_model(str(folder / "model.bin")):
            raise InputError("ncnn cannot load it", where=self._where, mend="export it again")

    @classmethod
    def load(cls, source: Path | bytes, *, threads: int | None = None) -> Ncnn:
        """Load an artifact's folder.

        Raises:
            InputError: it cannot be loaded, ncnn is not installed, or fewer threads than one.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads = {threads}", where="--threads", allowed=["1 and more"])
        if isinstance(source, bytes):
            what = "ncnn loads the folder that `danlu export --to ncnn` wrote"
            raise InputError(f"bytes were given; {what}", mend="give the folder")
        return cls(source, threads or usable_cores())

    def predict(self, pictures: NDArray[np.uint8], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return the named outputs (all when not given) for uint8 pictures [B, H, W, C], computed one by one."""
        info = self._folder.info
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != info.channels or not pictures.size:
            what = f"pictures of {pictures.dtype} {list(pictures.shape)}"
            raise InputError(what, where=self._where, allowed=[f"uint8 [B, H, W, {info.channels}]"])
        names, known = list(self.outputs if outputs is None else outputs), self._folder.tensors
        if unknown := [name for name in names if name not in known]:
            raise InputError(
                f"unknown output {unknown[0]!r}",
                where=self._where,
                nearest=nearest_names(unknown[0], known),
                allowed=list(known),
            )
        rows: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for picture in fit_outside(pictures, info.picture_size):
            planes = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
            with self._net.create_extractor() as extractor:
                # Without a copy of its own the extractor reads memory that numpy has given back.
                extractor.input(_INPUT, self._library.Mat(planes).clone())
                for name in names:
                    code, value = extractor.extract(known[name])
                    if code:
                        raise InputError(f"ncnn cannot compute {name!r} (code {code})", where=self._where)
                    rows[name].append(np.array(value, dtype=np.float32))
        return {name: np.stack(values) for name, values in rows.items()}

    def describe(self) -> dict[str, Any]:
        """Return what one prediction executes: the options in force, and per precision the number of layers."""
        options = self._net.opt
        bits = next((kind for kind in ("bf16", "fp16") if getattr(options, f"use_{kind}_storage", False)), "fp32")
        kinds = [layer.type for layer in self._net.layers()]
        layers = Counter({bits: sum(kind in _LAYERS for kind in kinds)})
        return {
            "runtime": self.name,
            "version": str(getattr(self._library, "__version__", "")),
            "provider": "CPU",
            "threads": self.threads,
            "precision": bits,
            "layers": dict(layers),
            "operators": dict(sorted(Counter(kinds).items())),
        }


def _library(where: str) -> Any:
    try:
        import ncnn
    except ModuleNotFoundError:
        raise InputError("ncnn is not installed", where=where, mend="pip install 'danlu[ncnn]'") from None
    return ncnn


RUNTIMES.register(Ncnn.name, Ncnn, __name__, title="ncnn", devices=["cpu"], artifacts=["folder"])
