"""The verbs of a trained network: eval, compress quantize, export, parity, predict, serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.core.errors import InputError
from danlu.verbs.common import Common, Flag, Output, Pairs, Whole, WholeOrNone, parity_lines

__all__ = ["evaluate", "export", "parity", "predict", "quantize", "serve"]


def evaluate(
    model: Path,
    data: str,
    /,
    *,
    split: str = "test",
    seed: WholeOrNone = None,
    tta: str | None = None,
    common: Common | None = None,
) -> Output:
    """Measure a run or an artifact on a data set.

    Parameters
    ----------
    model
        A run folder or an artifact, a file or a folder.
    data
        A named data set or a folder.
    split
        train, validation or test.
    seed
        Of the split; the one the run was trained with.
    tta
        Also measure with test-time augmentation: flip, or flip+shift (mirrored, and shifted by one pixel).
    """
    from danlu.single import evaluate_any

    document = evaluate_any(model, data, split, seed=seed, tta=tta)
    return Output(document, _metrics(document, split))


def quantize(
    run: Path,
    /,
    *,
    max_drop: float | None = None,
    set: Pairs = None,
    out: Path | None = None,
    threads: WholeOrNone = None,
    common: Common | None = None,
) -> Output:
    """Write an INT8 artifact and deliver it if it holds its accuracy on validation; exit 1 if it does not.

    Parameters
    ----------
    run
        The run folder.
    max_drop
        Points of accuracy on validation it may cost; the layers that hurt most stay in float until it holds.
    set
        Set one setting: calibration=auto, min-max, percentile, entropy or mse; pictures=N.
    out
        A folder or the name of the FP32 file, NAME.onnx; by default the run folder.
    threads
        Processor threads.
    """
    from danlu.core.settings import parse_overrides

    return _export(run, True, out, threads, {**parse_overrides(set or []), **_drop(max_drop)})


def export(
    run: Path,
    /,
    *,
    to: str = "onnx",
    int8: bool | None = None,
    bf16: Flag = False,
    best: Flag = False,
    max_drop: float | None = None,
    batch: WholeOrNone = None,
    out: Path | None = None,
    package: Path | None = None,
    download: Flag = False,
    threads: WholeOrNone = None,
    common: Common | None = None,
) -> Output:
    """Write one ONNX file, or the folder of another runtime, with preprocessing inside; prove that it answers alike.

    Parameters
    ----------
    run
        The run folder.
    to
        onnx, openvino, ncnn, web (a static folder whose page classifies in the browser), or triton.
    int8
        --int8 demands an INT8 artifact, --no-int8 leaves it out; by default ONNX delivers it where it holds.
        A file that is left out is removed where it stands from before, so that files and record agree.
    bf16
        bfloat16, where the runtime has it.
    best
        Try every runtime, precision and number of threads, and choose the fastest that holds its accuracy.
    max_drop
        Points of accuracy on validation INT8 may cost; the layers that hurt most stay in float until it holds. With
        --best, points that a form may lose to be chosen; by default 0.3.
    batch
        For --best: pictures in one call; by default 32, 1 is the single stream.
    out
        A folder, for onnx also the name of the FP32 file, NAME.onnx; by default beside the run's other files.
    package
        For web: the .tgz of onnxruntime-web, where it was fetched before.
    download
        For web: fetch onnxruntime-web from npm if it is not at hand.
    threads
        Processor threads.
    """
    if best:
        from danlu.verbs.speed import export_best

        others: dict[str, Any] = {"--to": to != "onnx", "--int8": int8, "--no-int8": int8 is False, "--bf16": bf16}
        others |= {"--package": package, "--download": download}
        return export_best(run, others, max_drop=max_drop, batch=batch, out=out, threads=threads)
    if batch is not None:
        raise InputError("is for --best", where="--batch", mend="add --best")
    for option, given in {"--package": package, "--download": download}.items():
        if given and to != "web":
            raise InputError("is for --to web", where=option, mend="leave it out")
    if max_drop is not None and (to != "onnx" or bf16 or int8 is False):
        raise InputError("is for INT8 in ONNX, and for --best", where="--max-drop", mend="leave it out")
    return _export(run, int8, out, threads, _drop(max_drop), to=to, bf16=bf16, package=package, download=download)


def parity(
    a: Path,
    b: Path,
    data: str,
    /,
    *,
    seed: WholeOrNone = None,
    threads: WholeOrNone = None,
    common: Common | None = None,
) -> Output:
    """Compare two models on a data set, from the file to the metric; exit 1, the first stage that differs, and why.

    Parameters
    ----------
    a
        The reference: a run folder or an artifact.
    b
        A run folder, an artifact (a file or a folder), or any ONNX file of one picture input.
    data
        A named data set or a folder.
    seed
        Of the split; the one the run was trained with.
    threads
        Processor threads.
    """
    from danlu.data.load import load_data
    from danlu.deploy.parity import parity as compare

    document = compare(a, b, data if seed is None else load_data(data, seed=seed), threads=threads)
    return Output(document, _proof(document), int(not document["passed"]))


def predict(
    artifact: Path, /, *pictures: Path, top: Whole = 3, threads: WholeOrNone = None, common: Common | None = None
) -> Output:
    """Name the classes of pictures. Needs onnxruntime, numpy and pillow; no torch.

    Parameters
    ----------
    artifact
        An .onnx file that `danlu export` wrote.
    pictures
        Picture files.
    top
        How many classes to list for each.
    threads
        Processor threads; all when not given.
    """
    from danlu.deploy.predict import predict as classify

    rows = classify(artifact, list(pictures), top=top, threads=threads)
    shown = [
        {
            "file": row["file"],
            "class": "; ".join(row["classes"]) or "–" if "classes" in row else row["class"],
            "probability": row["probability"],
            "then": ", ".join(f"{other['class']} {other['probability']:.3f}" for other in row["top"][1:]),
        }
        for row in rows
    ]
    return Output(rows, terminal.rows(shown))


def serve(
    artifact: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: Whole = 8000,
    token_file: Path | None = None,
    allow_host: list[str] | None = None,
    threads: WholeOrNone = None,
    common: Common | None = None,
) -> Output:
    """Answer over HTTP, with a web page to try it; until Ctrl-C. Needs no torch.

    Parameters
    ----------
    artifact
        An .onnx file that `danlu export` wrote.
    host
        The address to bind; any but loopback needs a token.
    port
        0 takes a free one.
    token_file
        A file that holds the token clients must show; by default the environment variable DANLU_TOKEN.
    allow_host
        A further name the server is reached under; may be given again.
    threads
        Processor threads; all when not given.
    """
    from danlu.core.log import logger
    from danlu.deploy.serve.server import serve as answer

    def told(address: str) -> None:
        logger.info("serving %s at %s (Ctrl-C ends it)", artifact, address)

    answer(
        artifact,
        host=host,
        port=port,
        token_file=token_file,
        allow_hosts=allow_host or [],
        threads=threads,
        started=told,
    )
    return Output({"artifact": str(artifact)}, f"{artifact}: the server has ended")


def _drop(max_drop: float | None) -> dict[str, Any]:
    return {} if max_drop is None else {"max_drop": max_drop}


def _export(
    run: Path, int8: bool | None, out: Path | None, threads: int | None, quantising: Mapping[str, Any], **more: Any
) -> Output:
    from danlu.single import export_run

    record = export_run(run, int8=int8, quantising=quantising, out=out, threads=threads, **more)
    rows = [
        {"precision": name, "file": facts["file"], "bytes": facts["bytes"]}
        for name, facts in record["artifacts"].items()
        if facts["file"]
    ]
    quantised = (record.get("export") or {}).get("quantisation")
    return Output(
        {"artifacts": record["artifacts"], "parity": record["parity"], "quantisation": quantised},
        "\n".join([terminal.rows(rows), parity_lines(record), *_quantised_lines(quantised)]),
    )


def _quantised_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Return what a person wants to know of a quantisation: the rule, the layers in float and why, whether it pays."""
    if not found:
        return []
    if "bits" in found:
        bits = sorted({tuple(pair) for pair in found["bits"].values()})
        kinds = ", ".join(f"{weight} bits with inputs of {read}" for weight, read in bits)
        return [f"integers: {len(found['layers'])} layers of {kinds}; ONNX Runtime runs them as {found['executed']}"]
    lines = [f"INT8: {len(found['layers'])} layers, ranges by {found['method']}, {found['pictures']} pictures"]
    rules = ", ".join(f"{row['rule']} {100 * row['accuracy']:.2f} %" for row in found.get("rules", ()))
    lines += [f"  rules tried: {rules}"] if rules else []
    lines += [f"  {row['layer']} stays in float: {row['reason']}" for row in found.get("float", ())]
    if speed := found.get("speed"):
        word = "slower" if speed["high"] < 1 else "as fast" if speed["low"] <= 1 else "faster"
        lines.append(
            f"  {word} than float32 here: {speed['int8_ms']:.3f} ms against {speed['fp32_ms']:.3f} ms a picture, "
            f"{speed['speedup']:.2f}× ({speed['low']:.2f}–{speed['high']:.2f})"
        )
    return lines


def _metrics(document: Mapping[str, Any], split: str) -> str:
    figures, evaluation = document["results"][split], document["evaluation"]
    rows = [{k: row[k] for k in ("class", "precision", "recall", "f1", "support")} for row in evaluation["per_class"]]
    told = f"{split} accuracy {terminal.percent(figures['accuracy'])}"
    if more := figures.get("accuracy_tta"):
        told += f"\nwith {more['tta']} {terminal.percent(more)}"
    return f"{told}\n\n{terminal.rows(rows)}"


def _proof(document: Mapping[str, Any]) -> str:
    lines = [f"a  {document['a']}", f"b  {document['b']}", ""]
    for split in ("validation", "test"):
        found = document[split]
        lines.append(
            f"{split:<11}largest logit difference {terminal.figure(found['max_abs_logit_difference'])} "
            f"({terminal.figure(found['relative'])} of the largest logit) over {found['n']:,} pictures, "
            f"{found['flips']} flips, accuracy {100 * found['accuracy_difference']:+.2f} points"
        )
    stages = [{key: stage[key] for key in ("stage", "max_abs", "relative")} for stage in document["stages"]]
    first = document["first_bad_stage"]
    verdict = "agree" if document["passed"] else f"do not agree; the first stage that differs: {first or 'none'}"
    told = [f"by the {document['precision']} rule they {verdict}"]
    finding = document["finding"]
    if finding:
        layer = f" (layer {finding['layer']})" if finding["layer"] else ""
        told.append(f"likely cause: {finding['cause'] or 'none of those known explains the values'}{layer}")
    if document["matched"] == "by value":
        told.append("b names no stages: its tensors were matched by their values")
    return "\n".join([*lines, "", terminal.rows(stages), "", *told])
