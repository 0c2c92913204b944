"""Nothing phones home: libraries that report their use to their makers are told not to, before their first import.

OpenVINO and NNCF do so unless they are told otherwise. Both look for a module ``openvino_telemetry`` and fall back to a
stub where it cannot be imported; an entry ``None`` in ``sys.modules`` is how Python says that it cannot. Whoever
imports one of them calls :func:`silence` first, in the same function; a test reads the sources for it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["silence"]

# What other libraries of this field ask before they report; what the user has set stays.
_ASKED = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def silence() -> None:
    """Switch all telemetry off in this process and in those it starts by ``danlu``. Cheap; may be called often."""
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    for name, value in _ASKED.items():
        os.environ.setdefault(name, value)
