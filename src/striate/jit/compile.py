"""Text in, bytes out: LLVM IR → object file for one machine.

Explicit vectors and tiles leave little for the optimiser: a short pipeline (memory to registers,
peephole, control flow, loop rotation) and code generation at level 3 give the inner loops that
the generators mean. The auto-vectoriser and the unroller stay off.
"""

from __future__ import annotations

import functools
from typing import Any

from striate.arith.machine import Machine
from striate.errors import CompileError
from striate.jit import collector
from striate.jit.target import llvm, llvm_for_every_machine
from striate.kernels.spec import KernelSpec


@functools.lru_cache(maxsize=8)
def target_machine(machine: Machine) -> Any:
    """LLVM's target machine; kept for the life of the process."""
    here = machine.triple == llvm().get_process_triple()
    binding = llvm() if here else llvm_for_every_machine()
    return binding.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="small"
    )


def _optimised(text: str, machine: Machine) -> Any:
    binding = llvm()
    try:
        module = binding.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CompileError(f"generated code is not valid LLVM IR: {reason}") from error
    module.triple = machine.triple
    target = target_machine(machine)
    module.data_layout = str(target.target_data)
    options = binding.create_pipeline_tuning_options(speed_level=1)
    builder = binding.create_pass_builder(target, options)
    passes = binding.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.run(module, builder)
    return module


def kernel_code(spec: KernelSpec, machine: Machine) -> bytes:
    """Relocatable object file of one kernel, or of the runner."""
    with collector.paused():
        text = spec.emit(machine)
    return object_code(text, machine)


def object_code(text: str, machine: Machine) -> bytes:
    """Relocatable object file of one module's text."""
    return bytes(target_machine(machine).emit_object(_optimised(text, machine)))


def assembly(text: str, machine: Machine) -> str:
    """The same code as assembly text, to be read and counted."""
    return str(target_machine(machine).emit_assembly(_optimised(text, machine)))
