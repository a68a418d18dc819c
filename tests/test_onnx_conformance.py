"""The official cases of the onnx package, as far as our table has their operators."""

import pytest

pytest.importorskip("onnx", reason="onnx is not installed (pip install 'striate[onnx]')")

from striate.onnx import conformance

CASES = [case for case in conformance.cases() if conformance.in_scope(case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.name}")
def test_official_case(case):
    reason = conformance.exception(case)
    if reason is not None:
        pytest.skip(reason)
    case.run()


def test_the_official_cases_are_there():
    assert len(CASES) > 450
    assert {case.kind for case in CASES} >= {"node", "pytorch-converted", "pytorch-operator"}
