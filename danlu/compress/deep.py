"""Deep Compression in one command: pruning with retraining, trained weight sharing, entropy coding.

Han, Mao, Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
Coding", ICLR 2016. The three steps are :mod:`danlu.compress.prune`, :mod:`danlu.compress.share` and the codings of
:mod:`danlu.compress.codings`; ``coder=huffman`` is the paper's third step, ``auto`` takes the smaller of it and the
range coder for each tensor.
"""

from __future__ import annotations

from typing import Literal

from danlu.compress import METHODS
from danlu.compress.base import Compressed, Method, Subject
from danlu.compress.prune import Prune, PruneSettings
from danlu.compress.share import Share, ShareSettings
from danlu.core.settings import Settings

__all__ = ["Deep", "DeepSettings"]


class DeepSettings(Settings):
    """The settings of the three steps.

    Attributes:
        prune: of the first; ``--set prune.keep=0.08``.
        share: of the second.
        coder: of the third: ``huffman``, ``range`` (needs the package constriction), ``auto`` or ``none``.
    """

    prune: PruneSettings = PruneSettings()
    share: ShareSettings = ShareSettings()
    coder: Literal["auto", "huffman", "range", "none"] = "huffman"


class Deep(Method[DeepSettings]):
    """Prune, share, code."""

    Settings = DeepSettings

    def apply(self, subject: Subject, settings: DeepSettings) -> Compressed:
        """Return the pruned network with shared weights, to be coded as ``coder`` says."""
        pruned = Prune().apply(subject, settings.prune)
        shared = Share().apply(subject, settings.share)
        report = {"prune": pruned.report, "share": shared.report}
        return Compressed(shared.model, subject.edits, report, coder=settings.coder)


METHODS.register("deep", Deep(), __name__, title="Deep Compression: prune, share, code", works_on="network")
