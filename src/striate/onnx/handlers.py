"""Every file of handlers, imported so that the table is full: one family of operators a file."""

from striate.onnx import (
    ops_activation,
    ops_constant,
    ops_conv,
    ops_eltwise,
    ops_norm,
    ops_pool,
    ops_reduce,
    ops_resize,
    ops_shape,
    ops_window,
)
from striate.onnx.handling import HANDLERS

FAMILIES = (
    ops_activation,
    ops_constant,
    ops_conv,
    ops_eltwise,
    ops_norm,
    ops_pool,
    ops_reduce,
    ops_resize,
    ops_shape,
    ops_window,
)

__all__ = ["FAMILIES", "HANDLERS"]
