"""From the ONNX form of an artifact to the files of another runtime. No torch; the converters are optional packages."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.core.errors import CheckFailed, InputError
from danlu.core.silence import silence
from danlu.deploy.folder import FITTING
from danlu.deploy.graph_parts import floats_first, without_fitting

if TYPE_CHECKING:
    import onnx

    from danlu.deploy.artifact import ArtifactInfo

__all__ = ["Converted", "to_ncnn", "to_openvino"]

_SECONDS = 600.0


@dataclass(frozen=True)
class Converted:
    """The files of a runtime.

    Attributes:
        contents: file name -> bytes.
        outside: what the runtime does not do; see :mod:`danlu.deploy.folder`.
        tensors: name of an output or stage -> what the runtime calls it.
    """

    contents: dict[str, bytes]
    outside: tuple[str, ...]
    tensors: dict[str, str] = field(default_factory=dict)


def to_openvino(model: onnx.ModelProto, info: ArtifactInfo) -> Converted:
    """Return OpenVINO's intermediate representation, float32 as it is.

    Raises:
        InputError: openvino is not installed.
        CheckFailed: OpenVINO does not know an operator of the network.
    """
    silence()
    try:
        import openvino
    except ModuleNotFoundError:
        raise InputError("openvino is not installed", mend="pip install 'danlu[openvino]'") from None
    with tempfile.TemporaryDirectory(prefix="danlu-openvino-") as folder:
        try:
            read = openvino.Core().read_model(without_fitting(model).SerializeToString())
            openvino.save_model(read, str(Path(folder) / "model.xml"), compress_to_fp16=False)
        except RuntimeError as error:
            raise CheckFailed(f"{info.model} cannot be converted to OpenVINO: {_short(error)}") from None
        contents = {name: (Path(folder) / name).read_bytes() for name in ("model.xml", "model.bin")}
    return Converted(contents, (FITTING,), {})


def to_ncnn(model: onnx.ModelProto, info: ArtifactInfo) -> Converted:
    """Return ncnn's two files, float32, with every stage as an output that costs nothing until it is asked for.

    Raises:
        InputError: pnnx, ncnn's converter, is not installed.
        CheckFailed: pnnx fails, or leaves an operator that ncnn does not know.
    """
    names = [*(output["name"] for output in info.outputs), *info.stages.values()]
    try:
        network = floats_first(model, names)
    except ValueError as error:
        raise CheckFailed(f"{info.model} cannot be converted to ncnn: {error}") from None
    shape = [entry.dim_value for entry in network.graph.input[0].type.tensor_type.shape.dim]
    with tempfile.TemporaryDirectory(prefix="danlu-ncnn-") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(network.SerializeToString())
        sides = ",".join(map(str, shape))
        command = [_pnnx(), "model.onnx", f"inputshape=[{sides}]", "fp16=0", "optlevel=2"]
        try:
            ended = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise CheckFailed(
                f"{info.model} cannot be converted to ncnn: pnnx gave up after {_SECONDS:.0f} s"
            ) from None
        made = {"model.param": source.with_suffix(".ncnn.param"), "model.bin": source.with_suffix(".ncnn.bin")}
        if ended.returncode or not all(path.is_file() for path in made.values()):
            raise CheckFailed(f"{info.model} cannot be converted to ncnn: {_telling(ended.stderr + ended.stdout)}")
        contents = {name: path.read_bytes() for name, path in made.items()}
    _check_known(contents["model.param"].decode("utf-8"), info)
    stages = {tensor: f"out{names.index(tensor)}" for tensor in names}
    return Converted(contents, (FITTING, "layout", "batch"), stages)


def _pnnx() -> str:
    try:
        import pnnx
    except ModuleNotFoundError:
        raise InputError("pnnx, ncnn's converter, is not installed", mend="pip install 'danlu[ncnn]'") from None
    return str(pnnx.EXEC_PATH)


def _telling(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if any(word in line.lower() for word in ("error", "fail", "unsupported", "not "))]
    return " / ".join((wrong or lines)[-3:])[:300] or "pnnx says nothing"


def _check_known(param: str, info: ArtifactInfo) -> None:
    """Refuse a graph in which pnnx left operators of its own: ncnn would stop, or worse, when it loads them."""
    kinds = {line.split()[0] for line in param.splitlines()[2:] if line.strip()}
    if foreign := sorted(kind for kind in kinds if "." in kind or "::" in kind or not kind[:1].isupper()):
        raise CheckFailed(f"{info.model} cannot be converted to ncnn: it has no {', '.join(foreign[:5])}")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[-300:]
