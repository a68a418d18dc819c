"""What is measured: single layers, whole networks, training steps; and the targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Section(NamedTuple):
    """A part of the tables: a short name for options, and a title."""

    name: str
    title: str


SECTIONS = (
    Section("conv3x3", "single layers, 3×3 of stride 1, at least 32 channels"),
    Section("layers", "single layers, all others"),
    Section("infer", "inference, whole networks"),
    Section("train", "training steps"),
    Section("memory", "peak resident memory of the training steps"),
    Section("accuracy", "time to an accuracy"),
)
TITLES = dict(SECTIONS)

# Peers without Winograd's method.
DIRECT_PEERS = ("torch", "torch-nhwc", "torch-compile", "onnxruntime", "openvino")


class Target(NamedTuple):
    """A geometric mean over a section, for one number of threads."""

    section: str
    what: str
    wanted: float
    peers: tuple[str, ...] | None = None  # None: all of them


TARGETS = (
    Target("conv3x3", "geometric mean", 1.2),
    Target("conv3x3", "geometric mean, PyTorch, ONNX Runtime, OpenVINO", 2.5, DIRECT_PEERS),
    Target("layers", "geometric mean", 1.05),
)
MEMORY_SHARE = 0.6  # of PyTorch's, at most
ACCURACY, ACCURACY_RATIO = 0.91, 2.5


@dataclass(frozen=True)
class Case:
    """One row: `arguments` of the net, or of the layer `conv` or `dense`; `shape` of its input."""

    section: str
    title: str
    work: str  # "layer", "infer", "train"
    net: str
    arguments: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    wanted: float

    @property
    def classes(self) -> int:
        """Width of the net's output."""
        return int(dict(self.arguments).get("num_classes", 1000))


# ---------------------------------------------------------------------------- single layers


def _conv(section: str, wanted: float) -> Callable[..., Case]:
    """conv(ci, h, co, k): a row of this section."""

    def conv(
        ci: int, h: int, co: int, k: int, s: int = 1, *, d: int = 1, g: int = 1, n: int = 1
    ) -> Case:
        title = f"{ci},{h},{h} → {co}, {k}×{k}" + f"/{s}" * (s > 1)
        if g > 1:
            title += " depthwise" if g == ci else f", {g} groups"
        title += f", dilation {d}" * (d > 1) + f", batch {n}" * (n > 1)
        arguments = (
            *(("in_channels", ci), ("out_channels", co), ("kernel_size", k), ("stride", s)),
            *(("padding", d * (k // 2)), ("dilation", d), ("groups", g)),
        )
        return Case(section, title, "layer", "conv", arguments, (n, ci, h, h), wanted)

    return conv


def _dense(k: int, m: int) -> Case:
    arguments = (("in_features", k), ("out_features", m))
    return Case("layers", f"dense {k} → {m}", "layer", "dense", arguments, (1, k), 0.95)


_three, _other = _conv("conv3x3", 1.0), _conv("layers", 0.95)
CONV3X3 = (
    _three(32, 112, 32, 3),
    _three(64, 112, 128, 3),  # VGG
    _three(256, 56, 256, 3),
    _three(512, 14, 512, 3),
    _three(64, 56, 64, 3),  # ResNet
    _three(128, 28, 128, 3),
    _three(256, 14, 256, 3),
    _three(512, 7, 512, 3),
    _three(128, 28, 32, 3),  # DenseNet
    _three(48, 27, 192, 3),  # SqueezeNet
    _three(32, 14, 64, 3, n=64),  # LeNet-BN
    _three(64, 32, 64, 3, n=16),  # small pictures
)
OTHERS = (
    _other(256, 56, 64, 1),  # 1×1: ResNet-50, MobileNetV2
    _other(64, 56, 256, 1),
    _other(512, 28, 128, 1),
    _other(1024, 14, 256, 1),
    _other(512, 7, 2048, 1),
    _other(96, 56, 24, 1),
    _other(576, 14, 96, 1),
    _other(320, 7, 1280, 1),
    _other(3, 224, 64, 7, 2),  # stems
    _other(3, 224, 32, 3, 2),
    _other(3, 224, 64, 3),
    _other(64, 56, 128, 3, 2),  # strided
    _other(256, 14, 512, 3, 2),
    _other(256, 56, 512, 1, 2),
    _other(144, 56, 144, 3, g=144),  # depthwise
    _other(384, 14, 384, 3, g=384),
    _other(96, 112, 96, 3, 2, g=96),
    _other(576, 14, 576, 3, 2, g=576),
    _other(240, 28, 240, 5, g=240),
    _other(960, 7, 960, 5, g=960),
    _other(72, 56, 72, 5, 2, g=72),
    _other(672, 14, 672, 5, 2, g=672),
    _other(128, 56, 128, 3, g=32),  # grouped: ResNeXt, ShuffleNet
    _other(240, 28, 60, 1, g=3),
    _other(256, 28, 256, 3, d=2),  # dilated
    _other(256, 28, 64, 3, d=6),
    _other(35, 35, 61, 1),  # odd channel counts
    _other(17, 29, 23, 3),
    _other(51, 28, 67, 5),
    _other(16, 28, 32, 5),
    _other(512, 2, 512, 3),  # tiny maps
    _other(256, 1, 128, 1),
    _dense(25088, 4096),
    _dense(4096, 1000),
    _dense(512, 1000),
    _dense(3136, 128),
)

# ---------------------------------------------------------------------------- whole networks

TEN = ("num_classes", 10)


def network(
    work: str,
    net: str,
    batch: int,
    size: int,
    wanted: float,
    arguments: tuple[tuple[str, Any], ...] = (),
) -> Case:
    """Inference ("infer") or training steps ("train") of a net on size × size pictures."""
    channels = dict(arguments).get("in_channels", 3)
    title = f"{net}, {size}×{size}, batch {batch}"
    return Case(work, title, work, net, arguments, (batch, channels, size, size), wanted)


WANTED = {  # at batch 1 and at batch 16
    "vgg11-bn": (1.25, 1.6),
    "resnet18": (1.35, 1.8),
    "resnet50": (1.2, 1.35),
    "squeezenet1_1": (1.2, 1.3),
    "densenet121": (1.2, 1.2),
    "mobilenet_v2": (1.1, 1.2),
}
TWINS = (*WANTED, "lenet-bn")  # the networks of bench/nets.py
INFERENCE = tuple(
    network("infer", net, batch, 224, ratios[i])
    for i, batch in enumerate((1, 16))
    for net, ratios in WANTED.items()
)
TRAINING = (
    network("train", "vgg11-bn", 64, 32, 1.8, (TEN, ("stem", "32"))),
    network("train", "resnet18", 64, 32, 2.0, (TEN, ("stem", "32"))),
    network("train", "resnet18", 32, 64, 2.0, (TEN,)),
    network("train", "mobilenet_v2", 32, 64, 2.5, (TEN,)),
    network("train", "lenet-bn", 64, 28, 2.5, (TEN, ("in_channels", 1))),
)
CASES = (*CONV3X3, *OTHERS, *INFERENCE, *TRAINING)
