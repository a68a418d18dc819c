"""ONNX files: `st.onnx.load` and `st.onnx.export`. Needs the extra `striate[onnx]`."""

from striate.onnx.export import Exported as Exported
from striate.onnx.export import export as export
