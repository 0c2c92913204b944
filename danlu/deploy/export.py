"""Export: one ONNX file that takes pictures and gives probabilities, delivered only after it was proved to agree.

``RUN/model.onnx`` is float32, ``RUN/model.int8.onnx`` quantised. Each is measured as the graph that is then written:
over the whole validation split, which decides, and the test split, which reports.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.compress.quantize import layer_errors
from danlu.core import files
from danlu.core.errors import CheckFailed, InputError
from danlu.core.log import logger
from danlu.core.records import RunFolder
from danlu.core.version import __version__
from danlu.data.load import Data, opened_data
from danlu.deploy.activation import MAPS, MEANING, add_activation_maps
from danlu.deploy.artifact import ArtifactInfo, sealed
from danlu.deploy.capture import STAGE_PREFIX, capture, torch_threads
from danlu.deploy.card import licence_of
from danlu.deploy.graph import IR_VERSION, OPSET, add_fitting, describe
from danlu.deploy.int8 import Int8Settings, compare_speed, quantise_job
from danlu.deploy.job import ExportJob
from danlu.deploy.parity import TOLERANCE, compare_resize
from danlu.deploy.quantised import Rounding, roundings, with_roundings, without_rounding
from danlu.deploy.subjects import LOGITS, ArtifactSubject, threads_of
from danlu.tasks.trained import Trained, open_trained

if TYPE_CHECKING:
    import onnx

__all__ = ["CALIBRATION_BATCH", "CALIBRATION_PICTURES", "check_data", "export", "info_of", "network_graph", "summary"]

CALIBRATION_PICTURES = Int8Settings().pictures
CALIBRATION_BATCH = 64
_ERROR_PICTURES = 16
# Where INT8 holds, the errors of single layers are worth this many seconds.
_ERROR_SECONDS = 2.0
_NAMED_LAYERS = 3


def export(
    run: Path | str | RunFolder | Trained,
    data: Data | Path | str,
    *,
    int8: bool | None = None,
    quantising: Int8Settings | None = None,
    out: Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Write the artifacts of a run and prove that they answer as it does.

    Args:
        run: a run folder (its path, or what training returned), or the network of one that is already open.
        data: the data it was trained on, split as it was then; a name or folder is split so.
        int8: ``None`` delivers INT8 where it holds its accuracy, ``True`` demands it, ``False`` leaves it out.
        quantising: how INT8 is made and what it may cost.
        out: a folder, or the name of the float32 file (``NAME.onnx``; INT8 becomes ``NAME.int8.onnx``); the run folder
            when not given.
        threads: of PyTorch and ONNX Runtime; those training found best when not given.

    Returns:
        ``artifacts``, ``parity`` and ``export`` as they stand in the run's ``record.json``.

    Raises:
        InputError: no such run, other data than it was trained on, or a place that cannot be written.
        CheckFailed: float32 is out of tolerance (the first stage that differs is named and no artifact is left), or
            INT8 was demanded and does not hold (float32 is delivered).
    """
    trained = run if isinstance(run, Trained) else open_trained(run)
    target = _target(trained, out)
    files.check_writable(target.parent)
    data = opened_data(data, trained.config["effective"]["data"].get("seed"))
    check_data(trained, data)
    target.parent.mkdir(parents=True, exist_ok=True)
    job = ExportJob.open(trained, data, threads_of(trained, threads), target)
    with torch_threads(job.threads):
        found = _export(job, int8, quantising or Int8Settings())
    if int8 and not job.parity["int8"]["delivered"]:
        raise CheckFailed(f"INT8 is not delivered: {job.parity['int8']['reason']}")
    return found


def _export(job: ExportJob, int8: bool | None, quantising: Int8Settings) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "tolerance": TOLERANCE,
        "checkpoint": job.trained.which,
        "quantisation": None,
    }
    rounding = roundings(job.trained.model)
    if rounding:
        return _export_rounded(job, facts, rounding)
    artifact = _export_fp32(job, facts)
    job.leave_out("int8", job.int8, "not asked for" if int8 is False else "not finished")
    job.parity["in_graph_resize"] = None
    job.record(**facts)  # what is delivered is on record, whatever happens to the rest
    if int8 is not False:
        _export_int8(job, facts, quantising)
    with job.timed("resize"):
        size, picture = job.trained.preprocess.settings.picture_size, job.data.picture
        same = picture.uniform and (picture.height, picture.width) == size
        job.parity["in_graph_resize"] = None if same else compare_resize(artifact, job.data.validation)
    return job.record(**facts)


def check_data(trained: Trained, data: Data) -> None:
    """Refuse data that is not the run's own, or whose validation split it was partly trained on."""
    used = trained.config["effective"]["data"]
    if used.get("hash") != data.hash:
        raise InputError(
            "is not the data this run was trained on: the hashes differ",
            where=data.source,
            mend=f"give {used.get('source', 'the data it was trained on')}",
        )
    if used.get("seed", data.seed) != data.seed:
        raise InputError(
            f"is split by seed {data.seed}, this run was trained on the split by seed {used['seed']}",
            where=data.source,
            mend=f"give --seed {used['seed']}",
        )


def _target(trained: Trained, out: Path | None) -> Path:
    if out is None:
        return trained.run.artifact_path
    target = out if out.suffix == ".onnx" else out / "model.onnx"
    if target.is_dir() or target.name.endswith(".int8.onnx"):
        what = "is a folder" if target.is_dir() else "is the name of an INT8 file"
        raise InputError(what, where=str(target), mend="give a folder, or the float32 file's name: NAME.onnx")
    return target


def _export_fp32(job: ExportJob, facts: dict[str, Any]) -> ArtifactSubject:
    """Translate, compare, deliver; return the artifact as it runs."""
    logger.info("export: translating %s to ONNX", job.trained.model_name)
    with job.timed("capture"):
        model = network_graph(job.trained)
    info = info_of(job, model)
    artifact = ArtifactSubject(sealed(describe(model, info)), job.fp32.name, job.threads)
    found, _ = job.compare(artifact)
    job.parity["fp32"] = found
    if not found["validation"]["passed"]:
        _refuse(job, found, facts)
    info = replace(info, parity=summary(found), golden=job.golden(artifact))
    job.deliver("fp32", job.fp32, sealed(describe(model, info)), artifact)
    relative, n = found["validation"]["relative"], found["validation"]["n"]
    logger.info("export: %s agrees with PyTorch: %.2g of the largest logit over %d pictures", job.fp32, relative, n)
    return artifact


def network_graph(trained: Trained) -> onnx.ModelProto:
    """Return the whole graph: fitting, preprocessing, network, decoding. Stages are tensors of it, no outputs."""
    settings = trained.preprocess.settings
    model = add_fitting(capture(trained), settings.picture_size, settings.channels)
    outputs = [value for value in model.graph.output if not value.name.startswith(STAGE_PREFIX)]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    add_activation_maps(model, STAGE_PREFIX + trained.model.stages[-1].name)
    return model


def info_of(job: ExportJob, model: onnx.ModelProto) -> ArtifactInfo:
    """Return what the float32 artifact with the graph ``model`` says about itself, without its proof."""
    trained, settings = job.trained, job.trained.preprocess.settings
    meanings = {
        LOGITS: f"score of each class before the {'sigmoid' if trained.task.name == 'multilabel' else 'softmax'}",
        "probabilities": "probability of each class",
        MAPS: MEANING,
    }
    tensors = [name for node in model.graph.node for name in node.output if name.startswith(STAGE_PREFIX)]
    return ArtifactInfo(
        task=trained.task.name,
        model=trained.model_name,
        precision="fp32",
        classes=trained.classes,
        picture_size=settings.picture_size,
        channels=settings.channels,
        outputs=tuple(
            {"name": value.name, "shape": _shape(value), "meaning": meanings.get(value.name, "")}
            for value in model.graph.output
        ),
        stages={name.removeprefix(STAGE_PREFIX): name for name in tensors},
        hashes={"data": job.data.hash, "weights": trained.weights_hash},
        version=__version__,
        split=_split(job),
        opset=OPSET,
        licence=licence_of(job.data.name),
    )


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]


def _split(job: ExportJob) -> dict[str, Any]:
    split = {"seed": job.data.seed, "test_given": job.data.test_given}
    return split if job.trained.trained_on == "train" else {**split, "trained_on": job.trained.trained_on}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return what an artifact's metadata says about its parity."""
    kept = ("n", "max_abs_logit_difference", "relative", "flips", "ties", "accuracy_b", "accuracy_difference", "passed")
    return {split: {key: _short(found[split][key]) for key in kept} for split in ("validation", "test")}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _refuse(job: ExportJob, found: dict[str, Any], facts: dict[str, Any]) -> None:
    """Leave no artifact behind, also none of an earlier export, and say what differs first."""
    reason = "float32 is out of tolerance"
    job.leave_out("fp32", job.fp32, reason)
    job.leave_out("int8", job.int8, reason)
    job.parity["in_graph_resize"] = None
    job.record(**facts)
    validation = found["validation"]
    relative = validation["relative"]
    size = "not finite" if relative is None else f"{relative:.2g} of the largest logit (allowed: {TOLERANCE:g})"
    finding = found["finding"] or {}
    cause = f"\n  likely cause: {finding['cause']}" if finding.get("cause") else ""
    raise CheckFailed(
        f"{job.trained.model_name}: the ONNX form does not answer as PyTorch does; it differs first at stage "
        f"{found['first_bad_stage']!r}{cause}\n  largest logit difference over {validation['n']:,} validation "
        f"pictures: "
        f"{size}; {validation['flips']} flips that are no ties\n  no artifact is left in {job.fp32.parent}"
    )


def _export_rounded(job: ExportJob, facts: dict[str, Any], layers: dict[str, Rounding]) -> dict[str, Any]:
    """Deliver a network that was trained to be rounded; held to its accuracy, as its inputs may fall either way."""
    logger.info("export: %s with its integers", job.trained.model_name)
    with job.timed("capture"):
        model = with_roundings(network_graph(without_rounding(job.trained)), layers)
    info = replace(info_of(job, model), precision="int8")
    artifact = ArtifactSubject(sealed(describe(model, info)), job.int8.name, job.threads)
    found, _ = job.compare(artifact)
    passed = bool(found["validation"]["passed"])
    job.leave_out("fp32", job.fp32, "the network rounds its inputs: it has no float32 form")
    job.parity["int8"] = {**found, "layers": [], "delivered": passed, "reason": None}
    job.parity["in_graph_resize"] = None
    facts["quantisation"] = {
        "method": "trained",
        "layers": [*layers],
        "bits": {name: [one.bits, one.input_bits] for name, one in layers.items()},
        "executed": artifact.runtime.describe()["precision"],
    }
    if passed:
        job.deliver(
            "int8",
            job.int8,
            sealed(describe(model, replace(info, parity=summary(found), golden=job.golden(artifact)))),
            artifact,
        )
    else:
        job.leave_out("int8", job.int8, _why_not(found, None))
    return job.record(**facts)


def _export_int8(job: ExportJob, facts: dict[str, Any], settings: Int8Settings) -> None:
    """Quantise, compare, and deliver if the accuracy holds."""
    logger.info("export: quantising to INT8")
    with job.timed("quantise"):
        try:
            made = quantise_job(job, settings, CALIBRATION_BATCH)
        except InputError as error:
            job.leave_out("int8", job.int8, error.what)
            return
    model = made.model
    facts["quantisation"] = made.to_record(settings.max_drop)
    info = ArtifactInfo.from_metadata({entry.key: entry.value for entry in model.metadata_props}, job.int8.name)
    info = replace(
        info,
        precision="int8",
        stages=_int8_stages(info.stages, model),
        hashes={**info.hashes, "calibration": made.report.calibration_hash},
        parity={},
        golden=None,
    )
    artifact = ArtifactSubject(sealed(describe(model, info)), job.int8.name, job.threads)
    found, telling = job.compare(artifact)
    if settings.max_drop is not None:
        held = -100 * found["validation"]["accuracy_difference"] <= settings.max_drop + 1e-9
        found["validation"]["passed"] = held and found["validation"]["relative"] is not None
    passed = bool(found["validation"]["passed"])
    with job.timed("layers"):
        rows = layer_errors(
            job.fp32.read_bytes(),
            model.SerializeToString(deterministic=True),
            telling[:_ERROR_PICTURES],
            output=LOGITS,
            seconds=_ERROR_SECONDS if passed else None,
        )
    found["layers"] = [{"layer": row.layer, "error": row.error} for row in rows]
    job.parity["int8"] = {**found, "delivered": passed, "reason": None}
    if not passed:
        job.leave_out("int8", job.int8, _why_not(found, settings.max_drop))
        logger.warning("export: INT8 is not delivered: %s", job.parity["int8"]["reason"])
        return
    job.deliver(
        "int8",
        job.int8,
        sealed(describe(model, replace(info, parity=summary(found), golden=job.golden(artifact)))),
        artifact,
    )
    with job.timed("speed"):
        facts["quantisation"]["speed"] = compare_speed(job, artifact)
    validation = found["validation"]
    lost = validation["accuracy_difference"]
    logger.info(
        "export: %s holds its accuracy: %+.2f points on validation, %+d of %d pictures",
        job.int8,
        100 * lost,
        round(lost * validation["n"]),
        validation["n"],
    )


def _int8_stages(stages: dict[str, str], model: onnx.ModelProto) -> dict[str, str]:
    """Return the tensors that later layers see: rounded to their integers, and clipped where a ReLU was folded in."""
    made = {name for node in model.graph.node for name in node.output}
    rounded = {stage: f"{tensor}_DequantizeLinear_Output" for stage, tensor in stages.items()}
    seen = {stage: rounded[stage] if rounded[stage] in made else tensor for stage, tensor in stages.items()}
    return {stage: tensor for stage, tensor in seen.items() if tensor in made}


def _why_not(found: dict[str, Any], max_drop: float | None) -> str:
    validation = found["validation"]
    lost = f"falls by {-100 * validation['accuracy_difference']:.2f} points"
    if validation["accuracy_a"] is not None:
        lost = f"falls from {100 * validation['accuracy_a']:.2f} % to {100 * validation['accuracy_b']:.2f} %"
    layers = ", ".join(f"{row['layer']} ({row['error']:.2g})" for row in found["layers"][:_NAMED_LAYERS])
    allowed = "the larger of 0.5 points and two pictures" if max_drop is None else f"{max_drop:g} points"
    return (
        f"accuracy on {validation['n']:,} validation pictures {lost}, by more than {allowed}; layers that "
        f"move the logits most when quantised alone, as a share of the largest logit: {layers}"
    )
