"""The official cases of the `onnx` package, run through our backend.

    python -m striate.onnx.conformance docs/onnx.md

writes the table of passed, failed and unsupported cases between the markers in that file.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from striate.errors import StriateError, UnsupportedError
from striate.onnx.handlers import HANDLERS
from striate.onnx.read import OPSETS

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
# Cases whose operators we have, but which cannot pass: pattern of the name, and why.
EXCEPTIONS = {
    r"test_identity_(sequence|opt)": "sequences and optional values are not supported",
}
BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"


@dataclass(frozen=True)
class Case:
    """An official case: one model with inputs and what they must give."""

    kind: str
    name: str
    test: Any

    def model(self) -> Any:
        """The `ModelProto`."""
        import onnx

        return self.test.model or onnx.load(str(Path(self.test.model_dir) / "model.onnx"))

    def operators(self) -> set[tuple[str, str]]:
        """(domain, operator) of every node, also those inside of nodes."""
        found: set[tuple[str, str]] = set()
        functions = {(f.domain, f.name) for f in self.model().functions}

        def walk(nodes: Any) -> None:
            for node in nodes:
                domain = "" if node.domain == "ai.onnx" else node.domain
                if (node.domain, node.op_type) not in functions:
                    found.add((domain, node.op_type))
                for attribute in node.attribute:
                    walk(attribute.g.node)

        walk(self.model().graph.node)
        for function in self.model().functions:
            walk(function.node)
        return found

    def run(self) -> None:
        """Raises AssertionError for a wrong result, StriateError for what cannot be run."""
        from onnx.backend.test.runner import Runner

        from striate.onnx.backend import StriateBackend

        model = self.model()
        prepared = StriateBackend.prepare(model)
        for inputs, expected in self._data(model):
            outputs = prepared.run(inputs)
            Runner.assert_similar_outputs(expected, outputs, self.test.rtol, self.test.atol)

    def _data(self, model: Any) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs of every data set."""
        from onnx import TensorProto, numpy_helper

        def arrays(items: Any) -> list[Any]:
            return [numpy_helper.to_array(x) if isinstance(x, TensorProto) else x for x in items]

        if self.test.data_sets is not None:
            for inputs, outputs in self.test.data_sets:
                yield arrays(inputs), arrays(outputs)
            return
        for folder in sorted(Path(self.test.model_dir).glob("test_data_set*")):
            yield (
                _stored(folder, "input", model.graph.input),
                _stored(folder, "output", model.graph.output),
            )


def _stored(folder: Path, kind: str, ports: Any) -> list[Any]:
    """The numbers of files such as input_0.pb."""
    from onnx import SequenceProto, TensorProto, numpy_helper

    found: list[Any] = []
    for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
        data = (folder / f"{kind}_{i}.pb").read_bytes()
        if ports[i].type.HasField("sequence_type"):
            found.append(numpy_helper.to_list(SequenceProto.FromString(data)))
        else:
            found.append(numpy_helper.to_array(TensorProto.FromString(data)))
    return found


def cases() -> list[Case]:
    """Every official case whose data lies inside the onnx package."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose when they are made
        return [
            Case(kind, test.name, test) for kind in KINDS for test in load_model_tests(kind=kind)
        ]


def in_scope(case: Case) -> bool:
    """Whether our table has all operators of a case, of an opset that we read."""
    versions = {e.version for e in case.model().opset_import if e.domain in {"", "ai.onnx"}}
    return versions <= set(OPSETS) and case.operators() <= HANDLERS.keys()


def exception(case: Case) -> str | None:
    """Why a case in scope cannot pass, or None."""
    reasons = [reason for pattern, reason in EXCEPTIONS.items() if re.search(pattern, case.name)]
    return reasons[0] if reasons else None


def outcome(case: Case) -> tuple[str, str]:
    """One of passed, failed and unsupported, and the reason."""
    if not in_scope(case):
        return "unsupported", "an operator is missing, or the opset is older than ours"
    try:
        case.run()
    except UnsupportedError as error:
        return "unsupported", str(error)
    except (StriateError, AssertionError) as error:
        return "failed", str(error)
    return "passed", ""


def table(results: list[tuple[Case, str]]) -> str:
    """Markdown: a row for each kind of case, then one for each operator of cases of one node."""
    kinds: dict[str, Counter[str]] = {}
    operators: dict[str, Counter[str]] = {}
    for case, result in results:
        kinds.setdefault(case.kind, Counter())[result] += 1
        names = sorted(op for _, op in case.operators())
        if len(names) == 1:
            operators.setdefault(names[0], Counter())[result] += 1
    ours = {op: n for op, n in operators.items() if op in {op for _, op in HANDLERS}}
    missing = ", ".join(sorted(operators.keys() - ours.keys()))
    texts = (_rows("cases", kinds), _rows("operator", dict(sorted(ours.items()))))
    return "\n\n".join((*texts, f"Operators without support: {missing}."))


def _rows(title: str, counts: dict[str, Counter[str]]) -> str:
    lines = [f"| {title} | passed | failed | unsupported |", "|---|---|---|---|"]
    for name, count in counts.items():
        row = " | ".join(str(count[r]) for r in ("passed", "failed", "unsupported"))
        lines.append(f"| {name} | {row} |")
    return "\n".join(lines)


def main(path: Path) -> int:
    """Run all cases and write the table into a file; 1 if a case has failed."""
    results = []
    for case in cases():
        result, reason = outcome(case)
        if result == "failed" and exception(case):
            result = "unsupported"
        results.append((case, result))
        if result == "failed":
            sys.stderr.write(f"{case.kind}/{case.name}: {reason.strip().splitlines()[0]}\n")
    sys.stdout.write(f"{table(results)}\n")
    text = path.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")
    return int(any(result == "failed" for _, result in results))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/onnx.md")))
