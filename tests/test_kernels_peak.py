import pytest

from striate.jit import target
from striate.kernels.peak import Peak
from tests.kernel_call import assembly, calls
from tests.machine_code import fmas, inner_loops, on_stack


@pytest.mark.parametrize("name", ["avx512", "avx2", "sse2", "neon"])
def test_the_loop_is_multiply_adds_on_registers(name):
    machine = target.reference_machine(name)
    spec = Peak(machine.registers * 3 // 4)
    text = assembly(spec, name)
    assert calls(text) == []
    (function,) = [line[:-1] for line in text.splitlines() if line.startswith("peak_")]
    (loop,) = inner_loops(text, function)
    assert fmas(loop) == spec.chains
    assert on_stack(loop) == []
    assert len(loop) <= (1 if machine.fma else 3) * spec.chains + 3


def test_operations():
    machine = target.reference_machine("avx2")
    assert Peak(12).flops(machine, 1000) == 2 * 12 * 8 * 1000
