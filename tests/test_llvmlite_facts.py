"""What the generators and the compiler rely on in llvmlite 0.50; a new release shows here first."""

import ctypes
import re
import threading

import numpy as np
import pytest
from llvmlite import ir

from striate.jit.target import llvm, reference_machine
from tests.kernel_call import instructions

F32, I32, I64, PTR = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
V16 = ir.VectorType(F32, 16)
SIGNATURE = ir.FunctionType(ir.VoidType(), [PTR, PTR, PTR])


def function(body):
    """A module with void f(ptr a, ptr b, ptr out); `body(module, builder, a, b, out)` fills it."""
    module = ir.Module(name="facts")
    f = ir.Function(module, SIGNATURE, name="f")
    builder = ir.IRBuilder(f.append_basic_block())
    body(module, builder, *f.args)
    builder.ret_void()
    return str(module)


def target_machine(isa):
    machine = reference_machine(isa)
    target = llvm().Target.from_triple(machine.triple)
    return target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="small"
    )


def verified(text):
    module = llvm().parse_assembly(text)
    module.verify()
    return module


def mnemonics(text, isa="avx512"):
    assembly = target_machine(isa).emit_assembly(verified(text))
    return [m for m, _ in instructions(assembly)]


def on_two_vectors(combine):
    def body(module, b, x, y, out):
        loads = [b.load(p, typ=V16) for p in (x, y)]
        for load in loads:
            load.align = 4
        b.store(combine(module, b, *loads), out).align = 4

    return function(body)


def add(module, b, x, y):
    return b.fadd(x, y)


def multiply_and_add(module, b, x, y):
    return b.fadd(b.fmul(x, y), y)


def intrinsic(module, name, result, *args):
    return ir.Function(module, ir.FunctionType(result, list(args)), name=name)


def test_initialize_is_gone_and_the_native_parts_are_enough():
    with pytest.raises(RuntimeError):
        llvm().initialize()
    llvm().initialize_native_target()
    llvm().initialize_native_asmprinter()


def test_the_host_can_be_targeted_by_name_and_features():
    binding = llvm()
    binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )


def test_pointers_are_opaque():
    def body(_, b, x, y, out):
        there = b.gep(x, [ir.Constant(I64, 3)], source_etype=F32)
        b.store(b.load(there, typ=F32), out)

    text = function(body)
    assert str(PTR) == "ptr"
    assert "getelementptr float, ptr" in text
    assert "load float, ptr" in text
    verified(text)


def test_passes_of_the_new_manager_can_be_chosen_one_by_one():
    binding, target = llvm(), target_machine("avx2")

    def body(_, b, x, y, out):
        slot = b.alloca(F32)
        b.store(b.load(x, typ=F32), slot)
        b.store(b.load(slot, typ=F32), out)

    module = verified(function(body))
    options = binding.create_pipeline_tuning_options(speed_level=1)
    manager = binding.create_new_module_pass_manager()
    manager.add_sroa_pass()
    assert "alloca" in str(module)
    manager.run(module, binding.create_pass_builder(target, options))
    assert "alloca" not in str(module)


def test_the_builder_has_no_vector_fma_but_a_declared_one_is_an_instruction():
    def by_builder(module, b, x, y):
        return b.fma(x, y, y)

    with pytest.raises(TypeError):
        on_two_vectors(by_builder)
    module = ir.Module()
    with pytest.raises((NotImplementedError, TypeError, AttributeError)):
        module.declare_intrinsic("llvm.fma", [V16])

    def by_hand(module, b, x, y):
        return b.call(intrinsic(module, "llvm.fma.v16f32", V16, V16, V16, V16), [x, y, y])

    assert sum(m.startswith("vfm") for m in mnemonics(on_two_vectors(by_hand))) == 1


def test_sixteen_lanes_are_a_zmm_register_without_attributes():
    text = on_two_vectors(add)
    assert "zmm" in target_machine("avx512").emit_assembly(verified(text))
    assert mnemonics(text).count("vaddps") == 1
    assert mnemonics(text, "avx2").count("vaddps") == 2
    assert mnemonics(text, "sse2").count("addps") == 4
    assert mnemonics(text, "neon").count("fadd") == 4


def test_masked_loads_become_masked_instructions():
    mask = ir.VectorType(ir.IntType(1), 16)

    def body(module, b, x, y, out):
        index = b.load(y, typ=ir.VectorType(I32, 16))
        on = b.icmp_signed("<", index, ir.Constant(ir.VectorType(I32, 16), [7] * 16))
        load = intrinsic(module, "llvm.masked.load.v16f32.p0", V16, PTR, mask, V16)
        store = intrinsic(module, "llvm.masked.store.v16f32.p0", ir.VoidType(), V16, PTR, mask)
        b.call(store, [b.call(load, [x, on, ir.Constant(V16, None)]), out, on])

    text = target_machine("avx512").emit_assembly(verified(function(body)))
    assert len(re.findall(r"vmovups.*\{%k\d\}", text)) == 2


def test_maximum_by_comparison_is_one_instruction_and_the_intrinsic_several():
    def compared(module, b, x, y):
        return b.select(b.fcmp_ordered(">", x, y), x, y)

    def strict(module, b, x, y):
        return b.call(intrinsic(module, "llvm.maximum.v16f32", V16, V16, V16), [x, y])

    short, long = (mnemonics(on_two_vectors(f)) for f in (compared, strict))
    assert short.count("vmaxps") == 1
    assert len(long) >= len(short) + 3
    assert "fmax" in {m.split(".")[0] for m in mnemonics(on_two_vectors(strict), "neon")}


def test_sum_of_lanes_needs_leave_to_reassociate():
    def body(flags):
        def inner(module, b, x, y, out):
            total = intrinsic(module, "llvm.vector.reduce.fadd.v16f32", F32, F32, V16)
            value = b.load(x, typ=V16)
            b.store(b.call(total, [ir.Constant(F32, 0.0), value], fastmath=flags), out)

        return function(inner)

    strict, free = (mnemonics(body(flags)) for flags in ((), ("reassoc",)))
    assert strict.count("vaddss") >= 15
    assert free.count("vaddss") <= 2


def test_products_and_sums_are_not_fused_unless_asked():
    text = on_two_vectors(multiply_and_add)
    used = mnemonics(text)
    assert "vmulps" in used
    assert "vaddps" in used
    assert not any(m.startswith("vfm") for m in used)


def test_there_is_no_vector_maths_library():
    def exp(module, b, x, y):
        return b.call(intrinsic(module, "llvm.exp.v16f32", V16, V16), [x])

    assert mnemonics(on_two_vectors(exp)).count("callq") == 16


@pytest.mark.parametrize(("isa", "machine_id"), [("avx2", 62), ("neon", 183)])
def test_objects_and_text_for_other_processors(isa, machine_id):
    text = on_two_vectors(add)
    content = target_machine(isa).emit_object(verified(text))
    assert content[:4] == b"\x7fELF"
    assert int.from_bytes(content[18:20], "little") == machine_id  # e_machine


def test_broken_code_is_refused_and_does_not_end_the_process():
    with pytest.raises(RuntimeError):
        llvm().parse_assembly("define void @f() { ret i32 %none }")


def native_address(text, keep):
    """Address of f in the linked object; `keep` holds what must live as long as the address."""
    binding = llvm()
    target = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=binding.get_host_cpu_name(), reloc="pic", codemodel="small"
    )
    jit = binding.create_lljit_compiler()
    library = binding.JITLibraryBuilder().add_object_img(target.emit_object(verified(text)))
    tracker = library.export_symbol("f").link(jit, "facts")
    keep += [jit, tracker]
    return tracker["f"]


def test_object_bytes_can_be_linked_and_called():
    keep = []
    text = on_two_vectors(add)
    f = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(native_address(text, keep))
    x, y, out = np.arange(16, dtype=np.float32), np.ones(16, np.float32), np.zeros(16, np.float32)
    f(x.ctypes.data, y.ctypes.data, out.ctypes.data)
    np.testing.assert_array_equal(out, x + y)


WAIT = """
define void @f(ptr %flag, ptr %limit, ptr %out) {
entry:
  %last = load i64, ptr %limit
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %seen = load volatile i64, ptr %flag
  %next = add i64 %i, 1
  %set = icmp ne i64 %seen, 0
  %over = icmp eq i64 %next, %last
  %stop = or i1 %set, %over
  br i1 %stop, label %done, label %loop
done:
  store i64 %seen, ptr %out
  ret void
}"""


def test_a_call_through_ctypes_lets_other_threads_run():
    keep = []
    f = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(native_address(WAIT, keep))
    flag, limit, out = (np.array([n], dtype=np.int64) for n in (0, 20_000_000_000, 0))
    waiting = threading.Thread(
        target=f, args=(flag.ctypes.data, limit.ctypes.data, out.ctypes.data)
    )
    waiting.start()
    # Were the lock held, this line would be reached only after the limit, with the flag not seen.
    flag[0] = 1
    waiting.join()
    assert out[0] == 1
