"""Where a network's parameters, multiply-adds, bytes and milliseconds are."""

from __future__ import annotations

from danlu.analyze.analysis import Analysis, Layer, analyze, analyze_run
from danlu.analyze.counting import Count, count
from danlu.analyze.timing import measure
from danlu.core.callable_module import make_callable

__all__ = ["Analysis", "Count", "Layer", "analyze", "analyze_run", "count", "measure"]

make_callable(__name__)
