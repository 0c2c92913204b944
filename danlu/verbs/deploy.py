"""The verbs of a trained network: eval, compress quantize, export, parity, bench, predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.verbs.common import Common, Flag, Output, parity_lines

__all__ = ["bench", "evaluate", "export", "parity", "predict", "quantize"]


def evaluate(
    model: Path,
    data: str,
    /,
    *,
    split: str = "test",
    seed: int = 0,
    tta: str | None = None,
    common: Common | None = None,
) -> Output:
    """Measure a run or an artifact on a data set.

    Parameters
    ----------
    model
        A run folder or an .onnx artifact.
    data
        A named data set or a folder.
    split
        train, validation or test.
    seed
        Of the split; the one the run was trained with.
    tta
        Also measure with test-time augmentation: flip, or flip+shift (mirrored, and shifted by one pixel).
    """
    from danlu.pipeline import evaluate_any

    document = evaluate_any(model, data, split, seed=seed, tta=tta)
    return Output(document, _metrics(document, split))


def quantize(
    run: Path, /, *, out: Path | None = None, threads: int | None = None, common: Common | None = None
) -> Output:
    """Write an INT8 artifact and deliver it if it holds its accuracy on validation; exit 1 if it does not.

    Parameters
    ----------
    run
        The run folder.
    out
        A folder or the name of the FP32 file, NAME.onnx; by default the run folder.
    threads
        Processor threads.
    """
    return _export(run, True, out, threads)


def export(
    run: Path,
    /,
    *,
    to: str = "onnx",
    int8: bool | None = None,
    bf16: Flag = False,
    out: Path | None = None,
    package: Path | None = None,
    download: Flag = False,
    threads: int | None = None,
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
    out
        A folder, for onnx also the name of the FP32 file, NAME.onnx; by default beside the run's other files.
    package
        For web: the .tgz of onnxruntime-web, where it was fetched before.
    download
        For web: fetch onnxruntime-web from npm if it is not at hand.
    threads
        Processor threads.
    """
    return _export(run, int8, out, threads, to=to, bf16=bf16, package=package, download=download)


def parity(
    a: Path, b: Path, data: str, /, *, seed: int = 0, threads: int | None = None, common: Common | None = None
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

    document = compare(a, b, load_data(data, seed=seed), threads=threads)
    return Output(document, _proof(document), int(not document["passed"]))


def bench(run: Path, /, *, threads: int | None = None, common: Common | None = None) -> Output:
    """Measure latency and throughput of PyTorch and of the run's artifacts, interleaved, at batch 1 and 32.

    Parameters
    ----------
    run
        The run folder.
    threads
        Processor threads of every runtime; those the training measured as the fastest when not given.
    """
    from danlu.pipeline import bench_run

    document = bench_run(run, threads=threads)
    ratios = [{**r, "median": f"{r['median']:.2f}× ({r['low']:.2f}–{r['high']:.2f})"} for r in document["ratios"]]
    ratios = [{key: row[key] for key in ("a", "b", "batch", "median")} for row in ratios]
    return Output(document, terminal.rows(document["rows"]) + "\n\n" + terminal.rows(ratios))


def predict(
    artifact: Path, /, *pictures: Path, top: int = 3, threads: int | None = None, common: Common | None = None
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
            "class": row["class"],
            "probability": row["probability"],
            "then": ", ".join(f"{other['class']} {other['probability']:.3f}" for other in row["top"][1:]),
        }
        for row in rows
    ]
    return Output(rows, terminal.rows(shown))


def _export(run: Path, int8: bool | None, out: Path | None, threads: int | None, **more: Any) -> Output:
    from danlu.pipeline import export_run

    record = export_run(run, int8=int8, out=out, threads=threads, **more)
    rows = [
        {"precision": name, "file": facts["file"], "bytes": facts["bytes"]}
        for name, facts in record["artifacts"].items()
        if facts["file"]
    ]
    return Output(
        {"artifacts": record["artifacts"], "parity": record["parity"]},
        terminal.rows(rows) + "\n" + parity_lines(record),
    )


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
