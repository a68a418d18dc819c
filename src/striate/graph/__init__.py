"""What operations mean: values, nodes, parameters, tracing, gradients, and a NumPy evaluator."""

from striate.graph.evaluate import evaluate as evaluate
from striate.graph.grad import gradients as gradients
from striate.graph.trace import Trace as Trace
from striate.graph.trace import current_trace as current_trace
from striate.graph.value import Graph as Graph
from striate.graph.value import Node as Node
from striate.graph.value import Op as Op
from striate.graph.value import Param as Param
from striate.graph.value import TensorType as TensorType
from striate.graph.value import Value as Value
from striate.graph.value import typecheck as typecheck
