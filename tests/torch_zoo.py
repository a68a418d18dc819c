"""Networks in `torch.nn` as torchvision writes them, so that weights load both ways."""

from functools import partial

import torch
from torch import nn


def cna(ci, co, k=1, s=1, g=1, act=nn.ReLU, **norm):
    layers = [nn.Conv2d(ci, co, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(co, **norm)]
    return nn.Sequential(*layers, *([act()] if act else []))


class SE(nn.Module):
    def __init__(self, channels, squeezed, act=nn.ReLU, scale=nn.Sigmoid):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.act, self.scale = act(), scale()

    def forward(self, x):
        return x * self.scale(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """The block of MobileNetV3 and EfficientNet."""

    def __init__(self, ci, hidden, co, k, s, conv, act, se):
        super().__init__()
        layers = [conv(ci, hidden, act=act)] if hidden != ci else []
        layers.append(conv(hidden, hidden, k, s, hidden, act))
        self.block = nn.Sequential(*layers, *([se] if se else []), conv(hidden, co, act=None))
        self.same = s == 1 and ci == co

    def forward(self, x):
        return x + self.block(x) if self.same else self.block(x)


class Mobile(nn.Module):
    def __init__(self, features, classifier):
        super().__init__()
        self.features, self.classifier = nn.Sequential(*features), nn.Sequential(*classifier)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v3_small(num_classes):
    conv = partial(cna, eps=0.001, momentum=0.01)
    re, hs = nn.ReLU, nn.Hardswish
    # kernel, hidden, out, squeezed, activation, stride
    rows = [
        (3, 16, 16, 8, re, 2), (3, 72, 24, 0, re, 2), (3, 88, 24, 0, re, 1),
        (5, 96, 40, 24, hs, 2), (5, 240, 40, 64, hs, 1), (5, 240, 40, 64, hs, 1),
        (5, 120, 48, 32, hs, 1), (5, 144, 48, 40, hs, 1), (5, 288, 96, 72, hs, 2),
        (5, 576, 96, 144, hs, 1), (5, 576, 96, 144, hs, 1),
    ]  # fmt: skip
    features, ci = [conv(3, 16, 3, 2, act=hs)], 16
    for k, hidden, co, squeezed, act, s in rows:
        se = SE(hidden, squeezed, nn.ReLU, nn.Hardsigmoid) if squeezed else None
        features.append(Inverted(ci, hidden, co, k, s, conv, act, se))
        ci = co
    features.append(conv(96, 576, act=hs))
    dense = (nn.Linear(576, 1024), nn.Hardswish(), nn.Dropout(0.0), nn.Linear(1024, num_classes))
    return Mobile(features, dense)


def efficientnet_b0(num_classes):
    stages = [
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
    ]  # fmt: skip
    features, ci = [cna(3, 32, 3, 2, act=nn.SiLU)], 32
    for t, k, stride, co, depth in stages:
        blocks = []
        for i in range(depth):
            se = SE(ci * t, ci // 4, nn.SiLU)
            blocks.append(Inverted(ci, ci * t, co, k, 1 if i else stride, cna, nn.SiLU, se))
            ci = co
        features.append(nn.Sequential(*blocks))
    features.append(cna(320, 1280, act=nn.SiLU))
    return Mobile(features, (nn.Dropout(0.0), nn.Linear(1280, num_classes)))


class Shuffle(nn.Module):
    def __init__(self, ci, co, stride):
        super().__init__()
        half = co // 2

        def depthwise(c):
            return nn.Conv2d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm2d(c)

        def pointwise(a, b):
            return nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()

        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride == 2:
            self.branch1 = nn.Sequential(*depthwise(ci), *pointwise(ci, half))
        first = pointwise(ci if stride == 2 else half, half)
        self.branch2 = nn.Sequential(*first, *depthwise(half), *pointwise(half, half))

    def forward(self, x):
        left, right = (x, x) if self.stride == 2 else x.chunk(2, 1)
        joined = torch.cat((self.branch1(left), self.branch2(right)), 1)
        return nn.functional.channel_shuffle(joined, 2)


class ShuffleNet(nn.Module):
    def __init__(self, num_classes, widths):
        super().__init__()
        self.conv1 = cna(3, 24, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        ci = 24
        for i, (co, depth) in enumerate(zip(widths, (4, 8, 4), strict=True), 2):
            blocks = [Shuffle(co if j else ci, co, 1 if j else 2) for j in range(depth)]
            setattr(self, f"stage{i}", nn.Sequential(*blocks))
            ci = co
        self.conv5 = cna(ci, 1024)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x):
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        return self.fc(self.conv5(x).mean((2, 3)))


def shufflenet_v2_x0_5(num_classes):
    return ShuffleNet(num_classes, (48, 96, 192))


class YBlock(nn.Module):
    def __init__(self, ci, co, stride):
        super().__init__()
        self.proj = None
        if stride == 2 or ci != co:
            self.proj = cna(ci, co, 1, stride, act=None)
        parts = {"a": cna(ci, co), "b": cna(co, co, 3, stride, co // 8), "se": SE(co, ci // 4)}
        self.f = nn.Sequential()
        for name, part in {**parts, "c": cna(co, co, act=None)}.items():
            self.f.add_module(name, part)

    def forward(self, x):
        return torch.relu(self.f(x) + (self.proj(x) if self.proj else x))


class RegNetY400(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = cna(3, 32, 3, 2)
        self.trunk_output = nn.Sequential()
        ci = 32
        for i, (co, depth) in enumerate(((48, 1), (104, 3), (208, 6), (440, 6)), 1):
            stage = nn.Sequential()
            for j in range(depth):
                stage.add_module(f"block{i}-{j}", YBlock(co if j else ci, co, 1 if j else 2))
            self.trunk_output.add_module(f"block{i}", stage)
            ci = co
        self.fc = nn.Linear(ci, num_classes)

    def forward(self, x):
        return self.fc(self.trunk_output(self.stem(x)).mean((2, 3)))


def regnet_y_400mf(num_classes):
    return RegNetY400(num_classes)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.ones(c, 1, 1))
        self.block = nn.Sequential(
            nn.Conv2d(c, c, 7, padding=3, groups=c), Permute(0, 2, 3, 1), nn.LayerNorm(c, 1e-6),
            nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c), Permute(0, 3, 1, 2),
        )  # fmt: skip

    def forward(self, x):
        return x + self.layer_scale * self.block(x)


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Norm(LayerNorm2d):
    def __init__(self, c):
        super().__init__(c, 1e-6)


def convnext_tiny(num_classes):
    features, ci = [nn.Sequential(nn.Conv2d(3, 96, 4, 4), Norm(96))], 96
    for co, depth in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if co > 96:
            features.append(nn.Sequential(Norm(ci), nn.Conv2d(ci, co, 2, 2)))
        features.append(nn.Sequential(*(ConvNeXtBlock(co) for _ in range(depth))))
        ci = co
    return ConvNeXt(features, (Norm(768), nn.Flatten(), nn.Linear(768, num_classes)))


class ConvNeXt(Mobile):
    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3), keepdim=True))
