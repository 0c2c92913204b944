"""From a trained network to one file that answers elsewhere as it does here, with the proof that it does.

Nothing is imported here, so that ``danlu.deploy.predict`` and ``danlu.deploy.runtimes`` stay free of torch.
"""

from __future__ import annotations

__all__: list[str] = []
