"""One contender in a process of its own: no library's threads disturb another's.

`python -m bench.worker JOB` (JSON) prepares a call, stores its result as `NAME.npy` in the job's
folder and writes "ready". Then each line of standard input is a number of seconds: the call is
repeated that long, and the seconds a call are written. "rss" asks for the peak resident memory in
bytes. It ends with its input. Between lines it waits in `read`, where it takes no CPU time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Call = Callable[[], Any]
LR, MOMENTUM = 0.01, 0.9


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    peer: str
    work: str  # "infer" or "train"
    net: str
    arguments: dict[str, Any]
    threads: int
    folder: str

    def to_json(self) -> str:
        """As the command line takes it."""
        return json.dumps(asdict(self))

    def path(self, name: str) -> Path:
        """A file that the contenders of this job share."""
        return Path(self.folder, name)


def torch_net(job: Job) -> Any:
    """The twin in torch.nn with the shared weights."""
    import torch

    from bench import nets

    torch.set_num_threads(job.threads)
    net = getattr(nets, job.net.replace("-", "_"))(**job.arguments)
    with np.load(job.path("weights.npz")) as weights:
        net.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in weights.items()})
    return net


def striate(job: Job) -> tuple[Call, Array]:
    """Ours."""
    import striate as st

    st.set_num_threads(job.threads)
    net = st.models.create(job.net, **job.arguments)
    with np.load(job.path("weights.npz")) as weights:
        net.load_state_dict(dict(weights))
    x = np.load(job.path("x.npy"))
    if job.work == "infer":
        net.eval()
        return lambda: net(x), net(x)
    y = np.load(job.path("y.npy"))
    step = st.compile_step(net, optimizer=st.optim.SGD(lr=LR, momentum=MOMENTUM))
    return lambda: step(x, y), np.array([step(x, y)], np.float32)


def pytorch(job: Job, *, channels_last: bool) -> tuple[Call, Array]:
    """Eager PyTorch; the memory format is chosen by the name of the contender."""
    import torch

    net = torch_net(job)
    x = torch.from_numpy(np.load(job.path("x.npy")))
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if job.work == "infer":
        net.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return net(x)

        return infer, infer().numpy()
    y = torch.from_numpy(np.load(job.path("y.npy")))
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step, np.array([step()], np.float32)


def onnxruntime(job: Job) -> tuple[Call, Array]:
    """ONNX Runtime on the exported graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(job.path("net.onnx")), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": np.load(job.path("x.npy"))}

    def call() -> Any:
        return session.run(None, feed)[0]

    return call, call()


def openvino(job: Job) -> tuple[Call, Array]:
    """OpenVINO in float32, for the shortest time of a call."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "ENABLE_HYPER_THREADING": False,
    }
    request = core.compile_model(str(job.path("net.onnx")), "CPU", settings).create_infer_request()
    x = np.load(job.path("x.npy"))

    def call() -> Any:
        return request.infer([x], share_inputs=True, share_outputs=True)[0]

    return call, np.array(call())


def ncnn(job: Job) -> tuple[Call, Array]:
    """Ncnn in float32, one image after another: its nets have no batch axis."""
    import ncnn as library

    net = library.Net()
    option = net.opt
    option.num_threads = job.threads
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_packed = option.use_bf16_storage = False
    net.load_param(str(job.path("net.ncnn.param")))
    net.load_model(str(job.path("net.ncnn.bin")))
    images = [library.Mat(image).clone() for image in np.load(job.path("x.npy"))]

    def call() -> list[Any]:
        outs = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in0", image)
            outs.append(extractor.extract("out0")[1])
        return outs

    return call, np.stack([np.array(out).reshape(-1) for out in call()])


PEERS: dict[str, Callable[[Job], tuple[Call, Array]]] = {
    "striate": striate,
    "torch": lambda job: pytorch(job, channels_last=False),
    "torch-nhwc": lambda job: pytorch(job, channels_last=True),
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
}


def main() -> None:
    """Serve the job that the command line names."""
    from bench.timing import once

    job = Job(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")  # libraries may print on standard output
    os.dup2(2, 1)
    call, result = PEERS[job.peer](job)
    np.save(job.path(f"{job.peer}.npy"), result)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "rss":
            answer = str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        else:
            answer = repr(once(call, float(line)))
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
