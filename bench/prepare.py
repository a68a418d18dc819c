"""The files that the contenders of a row share: weights, input, and the net in peers' formats."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import striate as st
from bench.cases import Case
from bench.job import Array, Job
from striate.nn.tracing import trace_module

EXPORTED = ("onnxruntime", "openvino", "ncnn")
OPSET, IR_VERSION = 17, 10  # of ONNX files: old enough for every reader
NCNN_MAGIC = 7767517
NCNN_RAW_FLOAT32 = 0  # what stands before weights that are stored as they are


def prepare(case: Case, job: Job, peers: list[str]) -> int:
    """Write them into the job's folder; the FLOPs of a call, of the direct convolution."""
    rng = np.random.default_rng(0)
    net = _layer(case) if case.work == "layer" else st.models.create(case.net, **job.arguments)
    weights = net.state_dict()
    np.savez(job.path("weights.npz"), **weights)
    x = rng.standard_normal(case.shape).astype(np.float32)
    np.save(job.path("x.npy"), x)
    np.save(job.path("y.npy"), rng.integers(0, case.classes, case.shape[0]))
    if set(EXPORTED) & set(peers):
        with silenced(job.path("prepare.log")):
            if case.work == "layer":
                _write_onnx_layer(job, weights, x)
                _write_ncnn_layer(job, weights)
            else:
                _export(job, x, "ncnn" in peers)
    if case.work == "train":
        return 0
    graph = trace_module(net.eval(), [case.shape], training=False).graph
    return 2 * sum(node.op.macs(*(v.type for v in node.inputs)) for node in graph.nodes())


def _layer(case: Case) -> st.nn.Module:
    layers: dict[str, Any] = {"conv": st.nn.Conv2d, "dense": st.nn.Linear}
    net: st.nn.Module = layers[case.net](**dict(case.arguments))
    return net


def _export(job: Job, x: Array, to_ncnn: bool) -> None:
    """Whole nets go through their twins in torch.nn."""
    import torch

    from bench.contenders.pytorch import twin

    net, images = twin(job).eval(), torch.from_numpy(x)
    torch.onnx.export(
        net,
        (images,),
        str(job.path("net.onnx")),
        dynamo=False,
        opset_version=OPSET,
        input_names=["x"],
        output_names=["y"],
    )
    if to_ncnn:
        import pnnx

        pnnx.export(net, str(job.path("net.pt")), (images[:1],), fp16=False)


def _write_onnx_layer(job: Job, weights: dict[str, Array], x: Array) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    a = job.arguments
    if job.net == "dense":
        node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    else:
        node = helper.make_node(
            "Conv",
            ["x", "weight", "bias"],
            ["y"],
            kernel_shape=[a["kernel_size"]] * 2,
            strides=[a["stride"]] * 2,
            pads=[a["padding"]] * 4,
            dilations=[a["dilation"]] * 2,
            group=a["groups"],
        )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.save(model, str(job.path("net.onnx")))


def _write_ncnn_layer(job: Job, weights: dict[str, Array]) -> None:
    """A net of one layer in ncnn's text and its weights; numbers are parameters of the layer."""
    a, elements = job.arguments, weights["weight"].size
    if job.net == "dense":
        kind, settings = "InnerProduct", f"0={a['out_features']} 1=1 2={elements}"
    else:
        kind = "Convolution" if a["groups"] == 1 else "ConvolutionDepthWise"
        settings = (
            f"0={a['out_channels']} 1={a['kernel_size']} 2={a['dilation']} 3={a['stride']} "
            f"4={a['padding']} 5=1 6={elements}" + f" 7={a['groups']}" * (a["groups"] > 1)
        )
    lines = [str(NCNN_MAGIC), "2 2", "Input in0 0 1 in0", f"{kind} layer 1 1 in0 out0 {settings}"]
    job.path("net.ncnn.param").write_text("\n".join(lines) + "\n")
    content = np.int32(NCNN_RAW_FLOAT32).tobytes()
    content += weights["weight"].tobytes() + weights["bias"].tobytes()
    job.path("net.ncnn.bin").write_bytes(content)


@contextmanager
def silenced(path: Path) -> Iterator[None]:
    """Converters print pages, from native code too: all of it goes to a file."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with path.open("w") as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            yield
        finally:
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)
