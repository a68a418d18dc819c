"""`Module`: a network or a part of one, made of layers, weights and statistics.

Outside `forward` a module takes arrays: it traces `forward` once for each input shape, builds the
graph and keeps the result. Inside another module's `forward` it takes symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from striate.engine.options import DEFAULT, Options
from striate.errors import ArgumentError
from striate.graph import Param, Value, current_trace
from striate.graph.symbol import Symbol
from striate.nn.freezing import Freezable
from striate.nn.notebook import html_tree
from striate.nn.state import LoadResult, Signature, load_state
from striate.nn.tracing import Program, Programs, call_on_symbols, forced_training, run_on_arrays

if TYPE_CHECKING:
    from typing_extensions import Self

Array = np.ndarray[Any, Any]
# A symbol, on which `forward` works; typed as loosely as what `striate.functional` gives.
Tensor: TypeAlias = Any

_serials = itertools.count()


class _Changes:
    """A number that is new whenever the structure or mode of any module has changed."""

    numbers = itertools.count(1)
    last = 0

    @classmethod
    def note(cls) -> None:
        cls.last = next(cls.numbers)


def Parameter(data: npt.ArrayLike, trainable: bool = True) -> Param:  # noqa: N802 - torch's name
    """A weight for use as an attribute of a module; `data` is copied, as float32 or int32."""
    return Param("parameter", data, trainable)


class Module(Freezable):
    """Base class of layers and networks.

    Assign layers, `Parameter`s and plain values as attributes in `__init__` and write `forward`
    with layers, `striate.functional`, `+`, `*`, `striate.concat`, `.reshape`, `.mean((2, 3))` …

    `net(x)` takes arrays: float32; float16, float64, integers and bool are converted to float32,
    and so are arrays that are not contiguous or have another byte order. Pictures of bytes which
    the net is to normalise are given as `st.Pixels`. It gives new float32 arrays (one, or a tuple
    if `forward` returns several), and may be called from several threads. Images are (N, C, H, W).

    Attributes:
        training: what `Dropout` and `BatchNorm2d` go by; True at first.
        kernel_options: how `net(x)` computes convolutions, as `plan` has set it.
        arch: `{"name", "arguments"}` for a net made by `striate.models.create`, else None.
    """

    arch: dict[str, Any] | None
    kernel_options: Options
    programs: Programs[Program]
    forward: Callable[..., Any]
    _parameters: dict[str, Param]
    _buffers: dict[str, Param]
    _modules: dict[str, Module]
    _transient: set[str]
    _training: bool
    _serial: int
    _version: int
    _signed: tuple[int, Hashable, Hashable]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004
        """Set up the registers, so that a forgotten `super().__init__()` does no harm."""
        self = super().__new__(cls)
        self.__dict__.update(
            arch=None,
            kernel_options=DEFAULT,
            programs=Programs[Program](),
            _parameters={},
            _buffers={},
            _modules={},
            _transient=set(),
            _training=True,
            _serial=next(_serials),
            _version=0,
            _signed=(-1, None, None),
        )
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _serial=next(_serials), _signed=(-1, None, None))

    # ------------------------------------------------------------------ attributes

    def __setattr__(self, name: str, value: object) -> None:
        registers = (self._parameters, self._buffers, self._modules)
        held = self._parameters.get(name, self._buffers.get(name))
        if held is not None and not (value is None or isinstance(value, (Param, Module))):
            raise ArgumentError(
                f"{name!r} of {type(self).__name__} is {held!r}; to change its numbers write "
                f".{name}.assign(array)"
            )
        target: dict[str, Any] | None = None
        if isinstance(value, Module):
            target = self._modules
        elif isinstance(value, Param):
            target = self._buffers if name in self._buffers else self._parameters
        for register in registers:
            if register is not target:
                register.pop(name, None)
        if target is not None:
            target[name] = value
        if isinstance(value, Param):
            value.name = name
        if name == "features" and target is self._modules:
            self.__dict__.pop(name, None)  # the method goes on to be reachable, and calls it
        else:
            object.__setattr__(self, name, value)
        self._changed()

    def __delattr__(self, name: str) -> None:
        for register in (self._parameters, self._buffers, self._modules):
            register.pop(name, None)
        if name in self.__dict__ or name != "features":
            object.__delattr__(self, name)
        self._changed()

    def _changed(self) -> None:
        if current_trace() is None:  # what `forward` itself stores does not change the net
            self.__dict__["_version"] += 1
            _Changes.note()

    def register_buffer(self, name: str, data: npt.ArrayLike, persistent: bool = True) -> None:
        """Make `self.<name>` an array that is not trained, such as a running mean.

        Args:
            name: the attribute.
            data: its first contents; floats become float32, integers int32.
            persistent: whether it is part of `state_dict`.
        """
        self._buffers[name] = Param(name, data, trainable=False)
        if not persistent:
            self._transient.add(name)
        setattr(self, name, self._buffers[name])

    def add_module(self, name: str, module: Module) -> None:
        """Make `module` a part of this one under `name`; as the assignment of an attribute."""
        setattr(self, name, module)

    def signature(self, modes: bool = True) -> Hashable:
        """Changes when a layer or attribute anywhere in the net does; with `modes` also a mode."""
        count = _Changes.last
        if self._signed[0] != count:
            structure = Signature(tuple((m._serial, m._version) for m in self.modules()))
            training = tuple(m._training for m in self.modules())
            self.__dict__["_signed"] = (count, structure, Signature((structure, training)))
        return self._signed[2] if modes else self._signed[1]

    # ------------------------------------------------------------------ walks

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Itself (under "") and every module inside with its path, each once, parents first."""
        seen: set[Module] = set()

        def walk(path: str, module: Module) -> Iterator[tuple[str, Module]]:
            if module in seen:
                return
            seen.add(module)
            yield path, module
            for name, child in module._modules.items():
                yield from walk(f"{path}.{name}" if path else name, child)

        return walk("", self)

    def modules(self) -> Iterator[Module]:
        """Itself and every module inside, each once."""
        return (module for _, module in self.named_modules())

    def get_submodule(self, path: str) -> Module:
        """The module under a path such as "layer1.0.conv1". Raises ArgumentError."""
        found = dict(self.named_modules()).get(path)
        if found is None:
            raise ArgumentError(f"{type(self).__name__} has no module {path!r}")
        return found

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one."""
        return iter(list(self._modules.items()))

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        return iter(list(self._modules.values()))

    def named_parameters(self) -> Iterator[tuple[str, Param]]:
        """Weights by path, each once, also if several layers share it."""
        return self._named(lambda module: module._parameters.items())

    def parameters(self) -> Iterator[Param]:
        """Weights, each once."""
        return (param for _, param in self.named_parameters())

    def named_buffers(self, transient: bool = False) -> Iterator[tuple[str, Param]]:
        """Statistics by path; with `transient` also what `state_dict` leaves out."""
        return self._named(
            lambda module: (
                (name, buffer)
                for name, buffer in module._buffers.items()
                if transient or name not in module._transient
            )
        )

    def buffers(self) -> Iterator[Param]:
        """Statistics."""
        return (buffer for _, buffer in self.named_buffers())

    def _named(
        self, items: Callable[[Module], Iterable[tuple[str, Param]]]
    ) -> Iterator[tuple[str, Param]]:
        seen: set[Param] = set()
        for path, module in self.named_modules():
            for name, param in items(module):
                if param not in seen:
                    seen.add(param)
                    yield (f"{path}.{name}" if path else name), param

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call `function` on every module inside and then on this one; returns itself."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def num_parameters(self, trainable: bool = False) -> int:
        """Number of weights, shared ones counted once; with `trainable` only those trained."""
        return sum(p.size for p in self.parameters() if p.trainable or not trainable)

    # ------------------------------------------------------------------ modes

    @property
    def training(self) -> bool:
        """Whether the module is in training mode."""
        forced = forced_training()
        return self._training if forced is None else forced

    def train(self, mode: bool = True) -> Self:
        """Put this module and all inside into training mode (or out of it); returns itself."""
        for module in self.modules():
            if module._training != mode:
                module.__dict__["_training"] = mode
                _Changes.note()
        return self

    def eval(self) -> Self:
        """Put this module and all inside into evaluation mode; returns itself."""
        return self.train(False)

    def requires_grad_(self, mode: bool = True) -> Self:
        """Say whether training changes the weights inside; returns itself."""
        for param in self.parameters():
            param.trainable = mode
        return self

    # ------------------------------------------------------------------ state

    def _state(self) -> Iterator[tuple[str, Param]]:
        """Every key of `state_dict`: of each module its weights, statistics, then its children."""

        def walk(path: str, module: Module) -> Iterator[tuple[str, Param]]:
            for name, param in [*module._parameters.items(), *module._buffers.items()]:
                if name not in module._transient:
                    yield path + name, param
            for name, child in module._modules.items():
                yield from walk(f"{path}{name}.", child)

        return walk("", self)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all weights and statistics under PyTorch's keys and shapes, in its order.

        float32; counts such as `num_batches_tracked` are int64, as in PyTorch.
        """
        return {
            key: np.array(param.data, np.int64 if param.dtype == "i32" else np.float32)
            for key, param in self._state()
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy weights and statistics in; other float types are converted to float32.

        Args:
            state: key → array, as `state_dict` gives it, or PyTorch's, timm's, torchvision's.
            strict: whether keys that only one side has are an error. A missing
                `num_batches_tracked` is none: files of old PyTorch lack it, and it becomes 0.

        Returns: the missing and the unexpected keys.

        Raises:
            ArgumentError: strict, and there are such keys.
            ShapeError: an array has another shape than the net's; nothing has been changed then.
        """
        return load_state(type(self).__name__, dict(self._state()), state, strict)

    # ------------------------------------------------------------------ calls

    @overload
    def __call__(self, *inputs: Symbol) -> Value: ...

    @overload
    def __call__(self, *inputs: npt.ArrayLike) -> Any: ...

    def __call__(self, *inputs: Any) -> Any:
        """Run the module: on symbols inside `forward`, on arrays outside.

        Raises ShapeError, DTypeError … that begin with the path of the layer that cannot go on.
        """
        if current_trace() is not None or any(isinstance(x, Symbol) for x in inputs):
            return call_on_symbols(self, inputs)
        outputs, single = run_on_arrays(self, inputs)
        return outputs[0] if single else outputs

    def plan(
        self,
        *,
        algorithm: str = "auto",
        max_relative_error: float | None = None,
        tune: bool | None = None,
    ) -> Self:
        """Say how this module computes convolutions when it is called on arrays; returns itself.

        It holds for `net(x)` and `net.features(x)` of this very module from the next call on, not
        for the layers inside when they are called by themselves, nor for `compile_step`, which
        takes the same arguments. Several threads may call the module meanwhile.

        Args:
            algorithm: of 3×3 convolutions of stride 1: "auto" for the fastest, "direct",
                "winograd-f2" or "winograd-f4".
            max_relative_error: bound for the largest error that is expected of a layer's outputs,
                relative to their RMS, such as 1e-5. Ways beyond it are left out.
            tune: whether ways of nearly equal cost are timed once on this machine, and the better
                one remembered beside the kernels. None: in evaluation mode.

        Raises: ArgumentError for an unknown algorithm or a bound that is not above 0. A bound that
            no way meets is an error of the call, naming the layer.
        """
        self.__dict__["kernel_options"] = Options(algorithm, max_relative_error, tune)
        return self

    def features(self, x: Any, names: Iterable[str] | None = None) -> Any:
        """The outputs of inner layers: the net as a backbone.

        Args:
            x: images (N, C, H, W).
            names: paths of layers as in `named_modules`, e.g. "layer3" or "layer3.0.conv1". Of a
                layer that runs several times, the last output is taken. None, in nets which have
                a layer called "features" as torchvision's VGG does: run that layer on x.

        Returns: path → float32 array. Layers that none of these needs are not computed.

        Raises: ArgumentError for a path that no layer has run under.
        """
        if names is None:
            if "features" not in self._modules:
                raise ArgumentError(f"{type(self).__name__}.features needs the names of layers")
            return self._modules["features"](x)
        paths = (names,) if isinstance(names, str) else tuple(names)
        outputs, _ = run_on_arrays(self, (x,), paths)
        return dict(zip(paths, outputs, strict=True))

    # ------------------------------------------------------------------ text

    def extra_repr(self) -> str:
        """The arguments of a layer, for `repr`."""
        return ""

    def _get_name(self) -> str:
        """What kind of layer it is, for `repr` and summaries."""
        return type(self).__name__

    def __repr__(self) -> str:
        lines = [
            f"  ({name}): {child!r}".replace("\n", "\n  ") for name, child in self._modules.items()
        ]
        if not lines:
            return f"{self._get_name()}({self.extra_repr()})"
        return "\n".join([f"{self._get_name()}({self.extra_repr()}", *lines, ")"])

    def _repr_html_(self) -> str:
        """The tree for notebooks; what is inside a module folds away."""
        return html_tree("", self)
