"""What the steps of one export share: the network, its pictures, the reference's answers, and what was found so far."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core import files
from danlu.core.errors import CheckFailed, InputError
from danlu.core.seeds import permutation
from danlu.data.load import Data
from danlu.data.loader import Loader
from danlu.deploy.artifact import read_artifact
from danlu.deploy.card import GOLDEN_PICTURES, card_of, model_card, pack_golden
from danlu.deploy.finding import find
from danlu.deploy.parity import compare_logits, labels_for, logits_of, sources_of, telling_pictures
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from danlu.deploy.subjects import LOGITS, ArtifactSubject, EagerSubject, Subject
from danlu.tasks.trained import Trained

__all__ = ["NOTHING", "ExportJob"]

# How a record describes an artifact that was not delivered.
NOTHING: dict[str, Any] = {"file": None, "bytes": None, "sha256": None}
_SPLITS = ("validation", "test")
_VERIFIED_PICTURES = 8

Pictures = NDArray[np.uint8]


@dataclass
class ExportJob:
    """One export at work. Make one with :meth:`open`.

    Attributes:
        trained: the network.
        data: its data; validation decides, test reports, training pictures calibrate.
        threads: of ONNX Runtime.
        fp32: the float32 file to write.
        int8: the quantised file to write.
        eager: the reference.
        loaders: the pictures of both splits.
        reference: the reference's logits [N, K] on each split.
        seconds: wall time of each step.
        parity: the record's section.
        artifacts: the record's section.
    """

    trained: Trained
    data: Data
    threads: int
    fp32: Path
    int8: Path
    eager: EagerSubject
    loaders: dict[str, Loader]
    reference: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, trained: Trained, data: Data, threads: int, fp32: Path) -> ExportJob:
        """Prepare an export to ``fp32`` and, beside it, ``<name>.int8.onnx``; nothing is computed yet."""
        settings = trained.preprocess.settings
        loaders = {
            split: Loader(data.split(split), settings.picture_size, settings.channels, threads=threads)
            for split in _SPLITS
        }
        return cls(trained, data, threads, fp32, fp32.with_suffix(".int8.onnx"), EagerSubject(trained), loaders)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the block's wall time to ``seconds[step]``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - begin, 3)

    def compare(self, artifact: Subject) -> tuple[dict[str, Any], Pictures]:
        """Compare an artifact with the reference on both splits, and stage by stage.

        Returns:
            ``validation``, ``test``, ``stages``, ``finding`` and ``first_bad_stage``; and the validation pictures that
            differ most together with the first ones, on which the stages were compared.
        """
        found: dict[str, Any] = {}
        answers = {}
        with self.timed("parity"):
            for split in _SPLITS:
                if split not in self.reference:
                    self.reference[split] = logits_of(self.eager, self.loaders[split], f"parity {split}, PyTorch")
                labels = labels_for(self.eager, self.data.split(split))
                title = f"parity {split}, {artifact.kind} {artifact.precision}"
                answers[split] = logits_of(artifact, self.loaders[split], title)
                reference, precision = self.reference[split], artifact.precision
                found[split] = compare_logits(reference, answers[split], labels, precision=precision)
            if self.trained.trained_on != "train":
                # How two forms differ on pictures they were trained on says something; how good they are does not.
                found["validation"] |= {"accuracy_a": None, "accuracy_b": None}
            chosen = telling_pictures(self.reference["validation"], answers["validation"])
            pictures = self.loaders["validation"].pictures(chosen)
            found["stages"], finding = find(self.eager, artifact, pictures, sources_of(self.data.validation))
        exact, validation = artifact.precision == "fp32", found["validation"]
        if exact and finding is not None and finding.serious:
            validation["passed"] = False
        held = validation["passed"]
        found["finding"] = None if finding is None or held else finding.to_record()
        found["first_bad_stage"] = None if held or not exact else finding.stage if finding is not None else LOGITS
        return found, pictures

    def calibration(self, count: int, batch: int) -> Iterator[Pictures]:
        """Yield batches of up to ``count`` training pictures, chosen by the data's seed."""
        settings = self.trained.preprocess.settings
        chosen = permutation(len(self.data.train), "calibrate", self.data.seed)[:count]
        loader = Loader(self.data.train, settings.picture_size, settings.channels, threads=self.threads, cache_bytes=0)
        for _, pictures in loader.prefetch(chosen[start : start + batch] for start in range(0, len(chosen), batch)):
            yield pictures

    def deliver(self, name: str, path: Path, model: bytes, measured: ArtifactSubject) -> None:
        """Write an artifact whole, open it as a user would, and see that it is what was measured.

        Raises:
            CheckFailed: the file cannot be opened, or does not answer like the graph that was measured; it is removed.
        """
        files.write_whole(path, model)
        card_of(path).unlink(missing_ok=True)
        count = min(_VERIFIED_PICTURES, len(self.reference["validation"]))
        pictures = self.loaders["validation"].pictures(np.arange(count, dtype=np.int64))
        try:
            info = read_artifact(path)
            opened = OnnxRuntime.load(path, threads=self.threads)
        except InputError as error:
            path.unlink(missing_ok=True)
            raise CheckFailed(f"{path} cannot be opened after it was written ({error.what}); it was removed") from error
        if not np.array_equal(opened.predict(pictures, [LOGITS])[LOGITS], measured.logits(pictures)):
            path.unlink()
            raise CheckFailed(f"{path} does not answer like the graph that was measured; it was removed")
        files.write_whole(card_of(path), model_card(info, path.name))
        self.list_artifact(name, path, path.stat().st_size, files.sha256_file(path))

    def list_artifact(self, name: str, path: Path, size: int, digest: str) -> None:
        """Put a delivered artifact into the record's section; its path is relative where it lies in the run."""
        inside = path.parent.resolve() == self.trained.run.path.resolve()
        self.artifacts[name] = {"file": path.name if inside else str(path.resolve()), "bytes": size, "sha256": digest}

    def leave_out(self, name: str, path: Path, reason: str) -> None:
        """Record that an artifact is not delivered; one of an earlier export is removed, so that nobody ships it."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
            card_of(path).unlink(missing_ok=True)
        self.artifacts[name] = dict(NOTHING)
        self.parity[name] = {**self.parity.get(name, {}), "delivered": False, "reason": reason}

    def golden(self, artifact: Subject) -> dict[str, Any]:
        """Return pictures of the validation split with the answers of the artifact that was measured."""
        count = min(GOLDEN_PICTURES, len(self.reference["validation"]))
        pictures = self.loaders["validation"].pictures(np.arange(count, dtype=np.int64))
        return pack_golden(pictures, artifact.logits(pictures))

    def record(self, **export: Any) -> dict[str, Any]:
        """Write the sections ``artifacts``, ``parity`` and ``export`` and return them.

        What was delivered before for a runtime that this export leaves alone stays on record.
        """
        seconds = {**self.seconds, "total": round(sum(self.seconds.values()), 3)}
        before = self.trained.run.read_record()
        kept = {n: f for n, f in (before.get("artifacts") or {}).items() if n not in self.artifacts}
        proofs = {n: p for n, p in (before.get("parity") or {}).items() if n not in self.parity}
        sections = {
            "artifacts": {**kept, **self.artifacts},
            "parity": {**proofs, **self.parity},
            "export": {**export, "threads": self.threads, "seconds": seconds},
        }
        self.trained.run.update_record(**sections)
        return sections
