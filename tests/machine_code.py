"""Reading assembly text: the innermost loops of a function, and what they consist of."""

import re

_LABEL = re.compile(r"(\.L\w+):")


def functions(text):
    """Names of the functions that the text defines."""
    return set(re.findall(r"\.type\s+(\w+),\s*[@%]function", text))


def inner_loops(text, function):
    """The blocks of `function` that jump back to their own label, as lists of instructions."""
    body = text[text.index(f"\n{function}:") :]
    loops, label, lines = [], None, []
    for line in body[: body.index(".Lfunc_end")].splitlines():
        code = line.split("#")[0].split("//")[0].strip()
        if found := _LABEL.match(line.strip()):
            label, lines = found[1], []
        elif code and not code.startswith("."):
            lines.append(code)
            if label is not None and code.endswith(label):
                loops.append(list(lines))
    return loops


def fmas(lines):
    """Number of vector multiply-adds; without FMA instructions, of vector products."""
    return sum(bool(re.match(r"vfmadd\w+ps|fmla|mulps", line)) for line in lines)


def steps_of_a_round(machine, rows):
    """Steps that a loop takes at once: with FMA, those of tiles in 16 registers are short."""
    return 4 if machine.fma and machine.registers == 16 and rows >= machine.rows // 2 else 1


def on_stack(lines):
    """The instructions that touch the stack: spills and reloads, in a loop without calls.

    Tiles have no frame pointer, so %rbp is a register like others.
    """
    return [line for line in lines if re.search(r"%rsp\b|\bsp\b", line)]
