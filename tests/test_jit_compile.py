import io
from dataclasses import dataclass, replace

import pytest

from striate.errors import ArgumentError, CompileError
from striate.ir.runner import Runner
from striate.jit import compile as compiler
from striate.jit import load, target
from striate.jit.target import machine, reference_machine
from striate.kernels.direct import DirectConv
from striate.kernels.epilogue import NONE
from tests.kernel_call import calls, runnable
from tests.native_steps import Count

ISAS = ("avx512", "avx2", "sse2", "neon")

BROKEN = {
    "no IR at all": "this is not LLVM IR",
    "an unknown instruction": "define void @f() {\nentry:\n  frobnicate i32 1\n  ret void\n}",
    "types that do not fit": (
        "define i32 @f(float %x) {\nentry:\n  %y = add i32 %x, 1\n  ret i32 %y\n}"
    ),
    "a value used before it is made": (
        "define float @f(i1 %c) {\nentry:\n  br i1 %c, label %a, label %b\n"
        "a:\n  %x = fadd float 1.0, 2.0\n  br label %b\n"
        "b:\n  ret float %x\n}"
    ),
    "a block without an end": "define void @f() {\nentry:\n  %x = fadd float 1.0, 2.0\n}",
    "a phi without its incoming edge": (
        "define i32 @f(i1 %c) {\nentry:\n  br i1 %c, label %a, label %b\n"
        "a:\n  br label %b\nb:\n  %x = phi i32 [ 1, %a ]\n  ret i32 %x\n}"
    ),
}


@dataclass(frozen=True)
class Broken:
    """A kernel whose text is not valid."""

    text: str

    def emit(self, _):
        return self.text


# -- text that is not valid ------------------------------------------------------------------------


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_invalid_code_is_an_error_and_not_the_end(text):
    for translate in (compiler.object_code, compiler.assembly):
        with pytest.raises(CompileError, match="generated code is not valid LLVM IR") as caught:
            translate(text, machine())
        assert "\n" not in str(caught.value)


def test_a_kernel_that_does_not_compile_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("STRIATE_CACHE", str(tmp_path))
    before = load.cache_info()
    for _ in range(2):
        with pytest.raises(CompileError):
            load.address(Broken(BROKEN["a value used before it is made"]))
    assert load.cache_info() == before
    assert list(tmp_path.iterdir()) == []
    assert load.address(Count()) > 0


# -- targets ---------------------------------------------------------------------------------------


def test_an_unknown_target(monkeypatch):
    monkeypatch.setenv("STRIATE_TARGET", "mips")
    with pytest.raises(ArgumentError, match="STRIATE_TARGET='mips' is not a target; known: avx2"):
        machine()


def test_a_target_that_cannot_run_here(monkeypatch):
    native = runnable()[0]
    for isa in set(ISAS) - set(runnable()):
        monkeypatch.setenv("STRIATE_TARGET", isa)
        with pytest.raises(
            ArgumentError, match=f"'{isa}' cannot run here: this machine has {native}"
        ):
            machine()
    assert set(ISAS) - set(runnable())


@pytest.mark.parametrize("isa", runnable())
def test_a_forced_target(isa, monkeypatch):
    monkeypatch.setenv("STRIATE_TARGET", f" {isa.upper()} ")
    assert machine().isa == isa
    monkeypatch.delenv("STRIATE_TARGET")
    assert machine().isa == runnable()[0]


@pytest.mark.parametrize("isa", ISAS)
def test_the_shape_of_another_machine(isa, monkeypatch):
    """Its vectors and register tiles, with the instructions of this one."""
    monkeypatch.delenv("STRIATE_TARGET", raising=False)
    host, other = machine(), reference_machine(isa)
    monkeypatch.setenv("STRIATE_TARGET", f"{isa}-shape")
    if other.fma and not host.fma:
        with pytest.raises(ArgumentError, match=f"{host.isa}, without fused multiply-add"):
            machine()
        return
    got = machine()
    for field in ("isa", "lanes", "registers", "fma"):
        assert getattr(got, field) == getattr(other, field)
    for field in ("triple", "cpu", "features", "l1_bytes", "l2_bytes", "l3_bytes"):
        assert getattr(got, field) == getattr(host, field)


@pytest.mark.parametrize("word", ["-shape", "mips-shape", "avx2-shape-shape"])
def test_no_such_shape(word, monkeypatch):
    monkeypatch.setenv("STRIATE_TARGET", word)
    with pytest.raises(ArgumentError, match=r"is not a target; known: .*, each also with '-shape'"):
        machine()


def test_the_baseline(monkeypatch):
    if "sse2" not in runnable():
        pytest.skip("not an x86 machine")
    monkeypatch.setenv("STRIATE_TARGET", "baseline")
    assert machine().isa == "sse2"


def test_machine_facts():
    facts = {isa: reference_machine(isa) for isa in ISAS}
    assert [(m.lanes, m.registers, m.fma) for m in facts.values()] == [
        (16, 32, True), (8, 16, True), (4, 16, False), (4, 32, True),
    ]  # fmt: skip
    for m in facts.values():
        # accumulators, one row of weights and one broadcast fit the registers, one row more not
        assert m.rows * m.cols + m.cols + 1 <= m.registers < (m.rows + 1) * m.cols + m.cols + 1
        assert m.block(1) == m.block(m.lanes) == m.lanes
        assert m.block(m.lanes + 1) == m.block(1000) == 2 * m.lanes
    native = machine()
    assert native.cpu
    assert native.l1_bytes >= 8 * 1024
    assert native.l2_bytes >= native.l1_bytes


AVX512 = ("avx512f", "avx512vl", "avx512bw", "avx512dq")


@pytest.mark.parametrize(
    ("features", "triple", "isa"),
    [
        ((*AVX512, "avx2", "fma"), "x86_64-unknown-linux-gnu", "avx512"),
        (("avx512f", "avx2", "fma"), "x86_64-unknown-linux-gnu", "avx2"),
        ((*AVX512, "avx2"), "x86_64-pc-windows-msvc", "sse2"),
        (("avx2", "fma"), "x86_64-apple-darwin", "avx2"),
        (("avx",), "x86_64-unknown-linux-gnu", "sse2"),
        ((), "aarch64-unknown-linux-gnu", "neon"),
        ((), "arm64-apple-darwin23", "neon"),
    ],
)
def test_the_instruction_set_that_is_there(features, triple, isa):
    assert target._native_isa(dict.fromkeys(features, True), triple) == isa


@pytest.mark.parametrize(
    ("text", "size"),
    [("48K\n", 48 * 1024), ("2M", 2 * 2**20), ("512", 512), ("", 7), ("many", 7), (None, 7)],
)
def test_cache_sizes(monkeypatch, text, size):
    def fake_open(path):
        if text is None:
            raise FileNotFoundError(path)
        return io.StringIO(text)

    monkeypatch.setattr(target, "open", fake_open, raising=False)
    assert target._cache_bytes("index0", 7) == size


# -- code for machines that are not here -----------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("futex", [True, False])
def test_the_runner_compiles_for_every_machine(isa, futex):
    runner, facts = Runner(futex), reference_machine(isa)
    text = compiler.assembly(runner.emit(facts), facts)
    assert all(f"\n{name}:" in text for name in runner.functions)
    outside = {name.removesuffix("@PLT") for name in calls(text)} - {"advance"}
    kernels = {name for name in outside if name.startswith(("*", "x"))}  # through a register
    assert kernels
    assert outside - kernels <= ({"syscall", "sched_yield"} if futex else {"sched_yield"})


@pytest.mark.parametrize("triple", ["x86_64-pc-windows-msvc", "arm64-apple-darwin23"])
def test_the_portable_runner_compiles_for_other_systems(triple):
    isa = "neon" if triple.startswith("arm64") else "avx2"
    facts = replace(reference_machine(isa), triple=triple)
    assert len(compiler.object_code(Runner(futex=False).emit(facts), facts)) > 500
    text = compiler.assembly(Runner(futex=False).emit(facts), facts)
    assert ("sched_yield" in text) == ("windows" not in triple)


@pytest.mark.parametrize("isa", ISAS)
def test_object_code_for_every_machine(isa):
    spec = DirectConv(3, 10, 1, (3, 3), (1, 1), (1, 1), (1, 1), NONE)
    facts = reference_machine(isa)
    content = compiler.object_code(spec.emit(facts), facts)
    assert content == compiler.object_code(spec.emit(facts), facts)
    assert len(content) > 1000
