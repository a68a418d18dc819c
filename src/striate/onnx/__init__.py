"""ONNX: networks of other frameworks as modules of ours, and ours as files for other programs.

Needs `pip install 'striate[onnx]'`.

    net = st.onnx.load("resnet50.onnx")
    scores = net(images)
    st.onnx.export(net, "again.onnx", (3, 224, 224))
"""

from __future__ import annotations

import os

from striate.onnx.module import OnnxModule as OnnxModule
from striate.onnx.read import read
from striate.onnx.write import Exported as Exported
from striate.onnx.write import export as export


def load(source: str | os.PathLike[str] | bytes) -> OnnxModule:
    """Read an ONNX model: opset 7 to 28, IR 3 to 14.

    Args:
        source: the path of a file, or the bytes of one. Tensors in further files are found beside
            the path.

    Returns: a module in evaluation mode, whose `.input_names`, `.output_names` and `.metadata` say
        what the file says; see `OnnxModule`. Weights are converted to float32.

    Raises:
        FormatError: the file is damaged or no ONNX model.
        UnsupportedError: its version is not supported, or `onnx` is not installed. A node whose
            operator is not supported is an error when the module is called, and names it.
        OSError: the file cannot be opened.
    """
    return OnnxModule(read(source))
