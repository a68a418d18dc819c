"""Networks by name: `create("resnet18", num_classes=10, in_channels=3)`, `list("res*")`."""

from striate.models.alexnet import AlexNet
from striate.models.convnext import ConvNeXt
from striate.models.densenet import DenseNet
from striate.models.efficientnet import EfficientNet, EfficientNetLite
from striate.models.googlenet import GoogLeNet
from striate.models.head import head, replace_head
from striate.models.lenet import LeNet, LeNetBN
from striate.models.mobilenet import MobileNetV2
from striate.models.mobilenet_v1 import MobileNetV1
from striate.models.mobilenet_v3 import MobileNetV3
from striate.models.nin import NiN
from striate.models.registry import canonical, create, options, register
from striate.models.registry import list_models as list  # noqa: A004 - st.models.list("res*")
from striate.models.regnet import RegNet
from striate.models.resnet import ResNet
from striate.models.shufflenet import ShuffleNetV2
from striate.models.squeezenet import SqueezeNet
from striate.models.vgg import VGG

__all__ = [
    "VGG",
    "AlexNet",
    "ConvNeXt",
    "DenseNet",
    "EfficientNet",
    "EfficientNetLite",
    "GoogLeNet",
    "LeNet",
    "LeNetBN",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "NiN",
    "RegNet",
    "ResNet",
    "ShuffleNetV2",
    "SqueezeNet",
    "canonical",
    "create",
    "head",
    "list",
    "options",
    "register",
    "replace_head",
]
