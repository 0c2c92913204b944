"""A model folder for the Triton inference server: ``config.pbtxt`` and ``1/model.onnx``. Torch-free.

``config.pbtxt`` is protobuf's text form of Triton's ``ModelConfig``. Pictures of one request must have one size;
Triton joins requests of equal size into batches. Labels are given by the classification extension from ``labels.txt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.core.files import slug
from danlu.deploy.artifact import INPUT, ArtifactInfo

__all__ = ["MAX_BATCH", "triton_contents"]

MAX_BATCH = 64
_QUEUE_MICROSECONDS = 2000
_OF_CLASSES = ("logits", "probabilities")


def triton_contents(info: ArtifactInfo, model: bytes) -> dict[str, bytes]:
    """Return the files of the model's folder by their path in it."""
    labels = "".join(" ".join(name.splitlines()) + "\n" for name in info.classes)
    return {
        "config.pbtxt": _config(info).encode("utf-8"),
        "labels.txt": labels.encode("utf-8"),
        "1/model.onnx": model,
    }


def _config(info: ArtifactInfo) -> str:
    outputs = ",\n".join(_output(output) for output in info.outputs)
    return f"""# Written by danlu {info.version}. Copy this folder into Triton's model repository
# as {slug(info.model)}/: the name of the folder has to be the name below.
name: "{slug(info.model)}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [
  {{
    name: "{INPUT}"
    data_type: TYPE_UINT8
    dims: [ -1, -1, {info.channels} ]
  }}
]
output [
{outputs}
]
dynamic_batching {{
  max_queue_delay_microseconds: {_QUEUE_MICROSECONDS}
}}
instance_group [
  {{
    count: 1
    kind: KIND_CPU
  }}
]
"""


def _output(output: Mapping[str, Any]) -> str:
    # The first side is the batch, which Triton counts itself; a side that is not fixed is -1.
    sides = ", ".join(str(side) if isinstance(side, int) else "-1" for side in output["shape"][1:])
    labels = '    label_filename: "labels.txt"\n' if output["name"] in _OF_CLASSES else ""
    return f'  {{\n    name: "{output["name"]}"\n    data_type: TYPE_FP32\n    dims: [ {sides} ]\n{labels}  }}'
