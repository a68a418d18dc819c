"""ONNX Runtime, OpenVINO and ncnn, on files that `bench.prepare` wrote."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.job import Array, Call, Job


def infer(job: Job) -> tuple[Call, Array]:
    """A call of the net, or of a layer."""
    return {"onnxruntime": _onnxruntime, "openvino": _openvino, "ncnn": _ncnn}[job.peer](job)


def _onnxruntime(job: Job) -> tuple[Call, Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(job.path("net.onnx")), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": job.load("x")}

    def call() -> Any:
        return session.run(None, feed)[0]

    return call, call()


def _openvino(job: Job) -> tuple[Call, Array]:
    """In float32, for the shortest time of a call."""
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "ENABLE_HYPER_THREADING": False,
    }
    model = ov.Core().compile_model(str(job.path("net.onnx")), "CPU", settings)
    request, x = model.create_infer_request(), job.load("x")

    def call() -> Any:
        return request.infer([x], share_inputs=True, share_outputs=True)[0]

    return call, np.array(call())


def _ncnn(job: Job) -> tuple[Call, Array]:
    """In float32, one image after another: its nets have no batch axis."""
    import ncnn

    net = ncnn.Net()
    option = net.opt
    option.num_threads = job.threads
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_packed = option.use_bf16_storage = False
    if net.load_param(str(job.path("net.ncnn.param"))) or net.load_model(
        str(job.path("net.ncnn.bin"))
    ):
        raise RuntimeError("ncnn cannot load the net")
    images = [ncnn.Mat(image).clone() for image in job.load("x")]

    def call() -> list[Any]:
        outs = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in0", image)
            outs.append(extractor.extract("out0")[1])
        return outs

    return call, np.stack([np.array(out).reshape(-1) for out in call()])
