"""Networks by name: `create("resnet18", num_classes=10, in_channels=3)`, `list("res*")`."""

from striate.models.densenet import DenseNet
from striate.models.lenet import LeNet, LeNetBN
from striate.models.mobilenet import MobileNetV2
from striate.models.registry import create, options, register
from striate.models.registry import list_models as list  # noqa: A004 - st.models.list("res*")
from striate.models.resnet import ResNet
from striate.models.squeezenet import SqueezeNet
from striate.models.vgg import VGG

__all__ = [
    "VGG",
    "DenseNet",
    "LeNet",
    "LeNetBN",
    "MobileNetV2",
    "ResNet",
    "SqueezeNet",
    "create",
    "list",
    "options",
    "register",
]
