"""Export for runtimes that have no single file, and for what serves files: OpenVINO, ncnn, a web page, Triton.

Each is built beside its place, opened there as a user would, compared with the trained network on the whole validation
and test split, and takes its place only when it agrees: what differs leaves no folder behind.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core import files
from danlu.core.errors import CheckFailed, InputError, nearest_names
from danlu.core.log import logger
from danlu.deploy.artifact import ArtifactInfo, sealed
from danlu.deploy.capture import torch_threads
from danlu.deploy.card import model_card
from danlu.deploy.convert import Converted, to_ncnn, to_openvino
from danlu.deploy.export import check_data, info_of, network_graph, summary
from danlu.deploy.folder import MANIFEST, write_folder
from danlu.deploy.graph import IR_VERSION, OPSET, describe
from danlu.deploy.graph_parts import without_fitting
from danlu.deploy.job import ExportJob
from danlu.deploy.parity import TOLERANCE
from danlu.deploy.subjects import ArtifactSubject, FolderSubject, Subject, threads_of
from danlu.tasks.trained import Trained, open_trained

if TYPE_CHECKING:
    import onnx

    from danlu.data.load import Data

__all__ = ["TARGETS", "export_to"]

_TITLES = {"openvino": "OpenVINO", "ncnn": "ncnn", "web": "ONNX Runtime in the browser", "triton": "Triton"}
TARGETS = ("onnx", *_TITLES)
_CONVERTERS: dict[str, Callable[[onnx.ModelProto, ArtifactInfo], Converted]] = {
    "openvino": to_openvino,
    "ncnn": to_ncnn,
}
_PRECISIONS = {
    "openvino": ("fp32", "bf16", "int8"),
    "ncnn": ("fp32", "bf16"),
    "web": ("fp32", "int8"),
    "triton": ("fp32", "int8"),
}
_WHY_NOT = {
    ("ncnn", "int8"): "ncnn's calibration tools are not part of its Python package",
    ("web", "bf16"): "ONNX Runtime has no bfloat16 kernels in the browser",
    ("triton", "bf16"): "ONNX Runtime has no bfloat16 kernels on the processor",
    ("onnx", "bf16"): "ONNX Runtime has no bfloat16 kernels on the processor",
}


@dataclass(frozen=True)
class _Wanted:
    """What is exported: for which runtime, how precise, where to, and the web runtime's package."""

    to: str
    precision: str
    path: Path
    package: Path | None
    download: bool

    @property
    def name(self) -> str:
        """What the record calls it."""
        return self.to if self.precision == "fp32" else f"{self.to} {self.precision}"


def export_to(
    run: Path | str | Trained,
    data: Data,
    to: str,
    *,
    precision: str = "fp32",
    out: Path | None = None,
    threads: int | None = None,
    package: Path | None = None,
    download: bool = False,
) -> dict[str, Any]:
    """Write the folder of a runtime and prove that it answers as the run does.

    Args:
        run: a run folder, or the network of one that is already open.
        data: the data it was trained on, split as it was then.
        to: ``openvino``, ``ncnn``, ``web`` or ``triton``.
        precision: ``fp32``, ``bf16`` or ``int8``; what a runtime has not is refused with the reason.
        out: the folder to write; ``RUN/model.<to>`` when not given (``RUN/model.<to>.<precision>``).
        threads: of PyTorch and of the runtime; those training found best when not given.
        package: the ``.tgz`` of onnxruntime-web, for ``web``.
        download: whether it may be fetched where it is not at hand.

    Returns:
        ``artifacts``, ``parity`` and ``export`` as they stand in the run's ``record.json``.

    Raises:
        InputError: no such runtime or precision, no such run, other data, or a package that is not installed.
        CheckFailed: it cannot be converted, or is out of tolerance: the first stage that differs is named and no folder
            is left.
    """
    _check_wanted(to, precision)
    trained = run if isinstance(run, Trained) else open_trained(run)
    check_data(trained, data)
    ending = to if precision == "fp32" else f"{to}.{precision}"
    path = out if out is not None else trained.run.path / f"model.{ending}"
    if path.exists() and not _ours(path):
        raise InputError("is there and is no folder of an earlier export", where=str(path), mend="give another --out")
    files.check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = _Wanted(to, precision, path, package, download)
    job = ExportJob.open(trained, data, threads_of(trained, threads), trained.run.path / "model.onnx")
    with torch_threads(job.threads):
        return _export(job, wanted)


def _check_wanted(to: str, precision: str) -> None:
    if to not in TARGETS:
        raise InputError(f"--to {to}", nearest=nearest_names(to, TARGETS), allowed=list(TARGETS))
    if (to, precision) in _WHY_NOT:
        allowed = [f"--{name}" for name in _PRECISIONS.get(to, ("fp32", "int8"))[1:]]
        raise InputError(f"--{precision} with --to {to}: {_WHY_NOT[to, precision]}", allowed=allowed)
    if to == "onnx" or precision not in _PRECISIONS[to]:
        raise ValueError(f"no export to {to} in {precision}")


def _ours(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))


def _export(job: ExportJob, wanted: _Wanted) -> dict[str, Any]:
    logger.info("export: translating %s for %s", job.trained.model_name, _TITLES[wanted.to])
    with job.timed("capture"):
        model = network_graph(job.trained)
    info = info_of(job, model)
    try:
        with job.timed("build"), files.whole_folder(wanted.path) as folder:
            found = _build(job, wanted, model, info, folder)
    except (CheckFailed, InputError) as error:
        # Also one of an earlier export must not be taken for what this run gives.
        if isinstance(error, CheckFailed):
            job.leave_out(wanted.name, wanted.path, str(error).partition("\n")[0])
            job.record(**_facts(job))
        raise
    job.parity[wanted.name] = found
    size = sum(file.stat().st_size for file in wanted.path.rglob("*") if file.is_file())
    job.list_artifact(wanted.name, wanted.path, size, files.sha256_file(wanted.path / MANIFEST))
    relative, n = found["validation"]["relative"], found["validation"]["n"]
    logger.info("export: %s agrees with PyTorch: %.2g of the largest logit, %d pictures", wanted.path, relative, n)
    return job.record(**_facts(job))


def _facts(job: ExportJob) -> dict[str, Any]:
    # What is known of the ONNX artifacts, which stay, stays on record too.
    before = job.trained.run.read_record().get("export") or {}
    facts = {"opset": OPSET, "ir_version": IR_VERSION, "tolerance": TOLERANCE, "checkpoint": job.trained.which}
    return {**{key: value for key, value in before.items() if key not in ("threads", "seconds")}, **facts}


def _build(job: ExportJob, wanted: _Wanted, model: onnx.ModelProto, info: ArtifactInfo, folder: Path) -> dict[str, Any]:
    """Fill ``folder`` with what agrees, or raise."""
    if wanted.to in _CONVERTERS:
        return _build_converted(job, wanted, model, info, folder)
    data, info, found = _build_onnx(job, wanted, model, info)
    if wanted.to == "triton":
        from danlu.deploy.triton import triton_contents

        contents = triton_contents(info, data)
    else:
        from danlu.deploy.web import web_contents

        contents = web_contents(info, data, wanted.package, wanted.download)
    contents["README.md"] = model_card(info, wanted.path.name, _TITLES[wanted.to]).encode()
    write_folder(folder, wanted.to, contents, info, settings={"precision": wanted.precision})
    return found


def _build_onnx(
    job: ExportJob, wanted: _Wanted, model: onnx.ModelProto, info: ArtifactInfo
) -> tuple[bytes, ArtifactInfo, dict[str, Any]]:
    """Return the bytes of the ONNX artifact a folder holds; an INT8 one is that of an export that stands."""
    if wanted.precision == "int8":
        if not job.int8.is_file():
            mend = f"danlu export {job.trained.run.path} --int8"
            raise InputError("has no INT8 artifact", where=str(job.trained.run.path), mend=mend)
        artifact = ArtifactSubject(job.int8.read_bytes(), job.int8.name, job.threads)
        found = _compare(job, artifact, wanted)
        return job.int8.read_bytes(), artifact.info, found
    artifact = ArtifactSubject(sealed(describe(model, info)), f"{job.trained.model_name}.onnx", job.threads)
    found = _compare(job, artifact, wanted)
    info = replace(info, parity=summary(found), golden=job.golden(artifact))
    return sealed(describe(model, info)), info, found


def _build_converted(
    job: ExportJob, wanted: _Wanted, model: onnx.ModelProto, info: ArtifactInfo, folder: Path
) -> dict[str, Any]:
    info = replace(info, precision=wanted.precision)
    describe(model, info)
    if wanted.precision == "int8":
        converted, digest = _quantised(job, model)
        info = replace(info, hashes={**info.hashes, "calibration": digest})
    else:
        converted = _CONVERTERS[wanted.to](model, info)

    def write(told: ArtifactInfo) -> None:
        contents = {**converted.contents, "README.md": model_card(told, wanted.path.name, _TITLES[wanted.to]).encode()}
        settings = {"precision": wanted.precision}
        write_folder(
            folder,
            wanted.to,
            contents,
            told,
            outside=converted.outside,
            tensors=converted.tensors,
            settings=settings,
        )

    write(info)
    subject = FolderSubject(folder, wanted.path.name, job.threads)
    found = _compare(job, subject, wanted)
    found["executed"] = subject.runtime.describe()
    told = found["executed"]["precision"]
    if wanted.precision == "fp32" and told != "fp32":
        raise CheckFailed(f"{_TITLES[wanted.to]} does not compute in fp32 as it was told, but in {told}")
    write(replace(info, parity=summary(found), golden=job.golden(subject)))
    return found


def _compare(job: ExportJob, subject: Subject, wanted: _Wanted) -> dict[str, Any]:
    found, _ = job.compare(subject)
    if found["validation"]["passed"]:
        return {**found, "delivered": True, "reason": None}
    job.parity[wanted.name] = found
    validation, place = found["validation"], found["first_bad_stage"]
    relative = "not finite" if validation["relative"] is None else f"{validation['relative']:.2g} of the largest logit"
    at = f"; it differs first at stage {place!r}" if place else ""
    cause = found.get("finding") or {}
    told = f"\n  likely cause: {cause['cause']}" if cause.get("cause") else ""
    raise CheckFailed(
        f"{job.trained.model_name}: the form for {_TITLES[wanted.to]} does not answer as PyTorch does{at}{told}\n"
        f"  largest logit difference over {validation['n']:,} validation pictures: {relative}; accuracy "
        f"{100 * validation['accuracy_difference']:+.2f} points\n  no artifact is left in {wanted.path}"
    )


def _quantised(job: ExportJob, model: onnx.ModelProto) -> tuple[Converted, str]:
    """Quantise the float32 form with OpenVINO's own tool; training pictures calibrate, their hash is returned too."""
    from danlu.deploy.export import CALIBRATION_BATCH, CALIBRATION_PICTURES

    try:
        quantize = importlib.import_module("danlu.compress.quantize_openvino").quantize_openvino
    except ModuleNotFoundError as error:
        if error.name != "danlu.compress.quantize_openvino":
            raise
        raise InputError("INT8 for OpenVINO is not part of this version", allowed=["fp32", "--bf16"]) from None
    with tempfile.TemporaryDirectory(prefix="danlu-int8-") as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "int8"
        source.write_bytes(without_fitting(model).SerializeToString())
        report = quantize(source, job.calibration(CALIBRATION_PICTURES, CALIBRATION_BATCH), target)
        contents = {
            name: next(iter(sorted(target.rglob(f"*{Path(name).suffix}")))).read_bytes()
            for name in ("model.xml", "model.bin")
        }
        shutil.rmtree(target)
    return Converted(contents, ("fitting",), {}), str(report.calibration_hash)
