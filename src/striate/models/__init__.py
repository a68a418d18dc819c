"""Networks by name: `create("resnet18", num_classes=10, in_channels=3)`, `list("res*")`."""

from striate.models.lenet import LeNet, LeNetBN
from striate.models.registry import create, options, register
from striate.models.registry import list_models as list  # noqa: A004 - st.models.list("res*")
from striate.models.resnet import ResNet
from striate.models.vgg import VGG

__all__ = ["VGG", "LeNet", "LeNetBN", "ResNet", "create", "list", "options", "register"]
