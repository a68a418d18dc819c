"""The settings of a training run: options, configuration files, defaults that depend on others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from striate.cli._app import Name, nearest
from striate.cli._kernels import KERNEL_OPTIONS
from striate.errors import ArgumentError, CheckpointError, FormatError
from striate.io.atomic import write_atomic

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = "config.toml"
CHECKPOINT = "last.ckpt"

# Learning rate, momentum (Adam: beta1) and weight decay where the user names none.
OPTIMIZER_DEFAULTS = {
    "sgd": (0.02, 0.9, 5e-4),
    "adam": (1e-3, 0.9, 0.0),
    "adamw": (1e-3, 0.9, 1e-2),
    "rmsprop": (1e-3, 0.0, 0.0),
}
FREE = {"threads", "recompute"}  # may be others when a run goes on
SCHEDULES = ("cosine", "onecycle", "step", "plateau", "constant")


@dataclass(frozen=True)
class Settings:
    """What a run does; the fields are the options' names. None: still to be worked out."""

    data: str
    model: str
    weights: str | None
    freeze: str | None
    stem: str | None
    image_size: tuple[int, int] | None
    channels: int | None
    resize: str | None
    val_split: float
    augment: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float | None
    momentum: float | None
    weight_decay: float | None
    schedule: str
    warmup: float
    label_smoothing: float
    class_weights: str
    clip_norm: float
    ema: float
    patience: int
    save_every: int
    recompute: bool
    seed: int
    threads: int
    algorithm: str
    max_relative_error: float | None

    def with_optimizer_defaults(self) -> Settings:
        """Fill in what depends on the optimiser alone."""
        given = (self.lr, self.momentum, self.weight_decay)
        pairs = zip(given, OPTIMIZER_DEFAULTS[self.optimizer], strict=True)
        lr, momentum, decay = (default if value is None else value for value, default in pairs)
        return replace(self, lr=lr, momentum=momentum, weight_decay=decay)


class ImageSize(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """`64` or `48x64` (height x width) → (height, width)."""

    name = "N|HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """The size as a pair; raises a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
            self.fail(f"{value!r} is no size; give 64, or 48x64 (height x width)", param, ctx)
        return int(sides[0]), int(sides[-1])


_POSITIVE = click.IntRange(min=1)
_COUNT = click.IntRange(min=0)
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_BELOW_ONE = click.FloatRange(0, 1, max_open=True)
_RATE = click.FloatRange(0, min_open=True)
_NOT_NEGATIVE = click.FloatRange(0)

_OPTIONS = (
    click.option("--model", default="lenet-bn", metavar="NAME",
                 help="alexnet, convnext_tiny, densenet121, densenet169, efficientnet_b0, "
                 "efficientnet_lite0, googlenet, lenet, lenet-bn, mobilenet_v1, mobilenet_v2, "
                 "mobilenet_v3_large, mobilenet_v3_small, nin, regnet_y_400mf, resnet18, resnet34, "
                 "resnet50, resnet101, resnet152, resnext50_32x4d, shufflenet_v2_x0_5, "
                 "shufflenet_v2_x1_0, squeezenet1_0, squeezenet1_1, vgg11, vgg13, vgg16, vgg19, "
                 "vgg11-bn, vgg13-bn, vgg16-bn, vgg19-bn or wide_resnet50_2."),
    click.option("--weights", metavar="FILE",
                 help="Weights to start from, as safetensors; with other classes all but the last "
                 "layer."),
    click.option("--freeze", metavar="PATTERN",
                 help='Weights and layers that training leaves alone, such as "conv1,layer[1-3]".'),
    click.option("--stem", type=Name(["32", "224"]),
                 help="First layers: for pictures of about 32 or 224 pixels. "
                 "[default: by the image size]"),
    click.option("--image-size", type=ImageSize(),
                 help="Size the pictures are brought to. [default: the size they share]"),
    click.option("--channels", type=click.IntRange(1, 3), metavar="N",
                 help="1 (grey) or 3 (colour). [default: as the pictures are]"),
    click.option("--resize", type=Name(["crop", "stretch", "none"]),
                 help="How pictures of another size are brought to it. [default: crop]"),
    click.option("--val-split", type=_SHARE, metavar="X", default=0.2,
                 help="Share set aside for validation where the folder has no val/."),
    click.option("--augment", default="none", metavar="TEXT",
                 help='"none", "light", "standard", "strong", or a list like "crop=4,flip".'),
    click.option("--epochs", type=_POSITIVE, metavar="N", default=8,
                 help="Passes through the pictures."),
    click.option("--batch-size", "-b", type=_POSITIVE, metavar="N", default=64,
                 help="Pictures a step."),
    click.option("--optimizer", type=Name(list(OPTIMIZER_DEFAULTS)), default="sgd"),
    click.option("--lr", type=_RATE, metavar="X",
                 help="Learning rate. [default: sgd 0.02, others 0.001]"),
    click.option("--momentum", type=_BELOW_ONE, metavar="X",
                 help="Momentum; beta1 of Adam. [default: 0.9, rmsprop 0]"),
    click.option("--weight-decay", type=_NOT_NEGATIVE, metavar="X",
                 help="[default: sgd 0.0005, adamw 0.01, others 0]"),
    click.option("--schedule", type=Name(SCHEDULES), default="cosine",
                 help="Course of the learning rate: " + ", ".join(SCHEDULES) + "."),
    click.option("--warmup", type=_NOT_NEGATIVE, metavar="X", default=0.0,
                 help="Epochs in which the rate rises first."),
    click.option("--label-smoothing", type=_BELOW_ONE, metavar="X", default=0.0),
    click.option("--class-weights", type=Name(["none", "balanced"]), default="none",
                 help='"balanced": rare classes weigh more.'),
    click.option("--clip-norm", type=_NOT_NEGATIVE, metavar="X", default=0.0,
                 help="Largest norm of the gradient; 0 is off."),
    click.option("--ema", type=_BELOW_ONE, metavar="X", default=0.0,
                 help="Decay of averaged weights, such as 0.999; 0 is off."),
    click.option("--patience", type=_COUNT, metavar="N", default=0,
                 help="Stop after so many epochs without a better validation loss; 0 is off."),
    click.option("--save-every", type=_COUNT, metavar="N", default=0,
                 help="Write a checkpoint every N steps, beside every epoch; 0 is off."),
    click.option("--recompute", is_flag=True,
                 help="Less memory, more time: keep little of the forward pass and compute it "
                 "again in the backward pass. The results are the same."),
    click.option("--seed", type=_COUNT, metavar="N", default=0),
    click.option("--threads", type=_COUNT, metavar="N", default=0,
                 help="0: as many as may be used."),
    *KERNEL_OPTIONS,
)  # fmt: skip


def training_options(command: F) -> F:
    """All options that are settings of a run, in the order of `Settings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def training_options_but(names: Container[str]) -> Callable[[F], F]:
    """The same without some of them, for a command that trains for another end."""

    def decorate(command: F) -> F:
        found: Any = training_options(command)
        found.__click_params__ = [p for p in found.__click_params__ if p.name not in names]
        return command

    return decorate


# ------------------------------------------------------------------ configuration files


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises FormatError (no TOML) or ArgumentError (unknown key)."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: this is no TOML: {error}") from error
    known = [field.name for field in fields(Settings)]
    for key, value in found.items():
        if key not in known:
            hint = nearest(key, known) or f"; known are {', '.join(known)}"
            raise ArgumentError(f"{path}: unknown setting {key}{hint}")
        if not isinstance(value, (str, int, float)):
            raise ArgumentError(f"{path}: {key} = {value!r} is neither a number nor a text")
    return found


def write_config(settings: Settings, folder: Path) -> None:
    """Write every setting of a run to `config.toml` in its folder."""
    import tomli_w

    values = {name: _canonical(name, value) for name, value in asdict(settings).items()}
    head = "# Every setting of this run. To repeat it: striate train --config THIS_FILE\n"
    written = {name: value for name, value in values.items() if value is not None}
    write_atomic(folder / CONFIG, [(head + tomli_w.dumps(written)).encode()])


def as_command(settings: Settings) -> str:
    """The command line that repeats a run, every setting spelt out."""
    import shlex

    words = ["striate", "train", str(_canonical("data", settings.data))]
    for name, value in asdict(settings).items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [option] * value
        elif value is not None and name != "data":
            words += [option, str(_canonical(name, value))]
    return shlex.join(words)


def _canonical(name: str, value: Any) -> Any:
    """The form in which a value stands in config.toml, so that equal settings compare equal."""
    if value is None:
        return None
    if name == "image_size":
        height, width = ImageSize().convert(value, None, None)
        return height if height == width else f"{height}x{width}"
    if name == "augment":
        from striate.data import Augment

        return str(Augment.parse(value))
    if name in {"data", "weights"}:
        return (
            str(Path(value).expanduser().resolve()) if Path(value).expanduser().exists() else value
        )
    return value


# ------------------------------------------------------------------ --config and --resume


def take_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Make the values of a configuration file the defaults of this command."""
    if value is not None:
        ctx.meta["config"] = read_config(value)
        _set_defaults(ctx)
    return value


def take_resume(ctx: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    """Make the settings of an earlier run the defaults of this command."""
    if value is None:
        return None
    for name in (CHECKPOINT, CONFIG):
        if not (value / name).is_file():
            raise CheckpointError(
                f"{value}: there is no {name} to resume from; nothing is started afresh by itself"
            )
    ctx.meta["resume"] = read_config(value / CONFIG)
    _set_defaults(ctx)
    return value


def _set_defaults(ctx: click.Context) -> None:
    ctx.default_map = {**ctx.meta.get("config", {}), **ctx.meta.get("resume", {})}


def refuse_contradictions(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Raise ArgumentError if what was given beside --resume differs from the run's settings.

    The number of threads may differ, and so may --recompute: the results do not depend on them.
    """
    config = ctx.meta.get("config", {})
    for name, stored in ctx.meta.get("resume", {}).items():
        if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            value = given[name]
        elif name in config:
            value = config[name]
        else:
            continue
        if name not in FREE and _canonical(name, value) != _canonical(name, stored):
            option = "DATA" if name == "data" else "--" + name.replace("_", "-")
            raise ArgumentError(
                f"--resume: the run has {option} {stored}, but {_canonical(name, value)} is asked "
                "for; leave the option out, or start a new run"
            )
