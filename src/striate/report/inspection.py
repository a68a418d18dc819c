"""A net on one page: its layers, remarks, and a roofline of what its steps take."""

from __future__ import annotations

from collections.abc import Sequence

from striate.report.bench import Profile
from striate.report.charts import roofline_chart
from striate.report.page import render
from striate.report.review import Remark
from striate.report.summary import Summary

STEPS = 40  # the longest ones are in the table


def inspection_page(
    name: str,
    summary: Summary,
    remarks: Sequence[Remark],
    profile: Profile | None = None,
    plan: str | None = None,
) -> str:
    """The page of `striate inspect --format html`.

    Args:
        name: of the model.
        summary: its layers.
        remarks: what `review` says.
        profile: what its steps took; None leaves the roofline out.
        plan: the program as text; None leaves it out.
    """
    head, rows = summary.table()
    return render(
        "inspect.html",
        title=f"{name}, input {'×'.join(map(str, summary.input))}",
        head=head,
        rows=rows,
        totals=summary.lines(),
        remarks=[remark.text for remark in remarks],
        roofline="" if profile is None else roofline(profile),
        steps=[] if profile is None else _steps(profile),
        profile=None if profile is None else _figures(profile),
        plan=plan,
    )


def roofline(profile: Profile) -> str:
    """GFLOP/s over FLOPs a byte of every step that multiplies."""
    points = [
        (work.layer, work.kind, speed.flops / speed.bytes, speed.gflops)
        for work, speed in profile.steps
        if speed.flops and speed.bytes and speed.seconds
    ]
    limits = profile.limits
    title = (
        f"Roofline: {limits.gflops:.0f} GFLOP/s, {limits.gbs:.1f} GB/s, {limits.threads} threads"
    )
    return roofline_chart(title, points, limits.gflops, limits.gbs)


def _steps(profile: Profile) -> list[tuple[str, ...]]:
    """The longest steps: layer, kind, µs, share of time, GFLOP/s, GB/s, FLOPs a byte, share."""
    longest = sorted(profile.steps, key=lambda step: -step[1].seconds)[:STEPS]
    found: list[tuple[str, ...]] = []
    for work, speed in longest:
        facts = speed.to_dict()
        found.append(
            (
                work.layer,
                work.kind,
                f"{1e6 * speed.seconds:,.0f}",
                f"{speed.seconds / profile.sum_seconds:.1%}",
                f"{speed.gflops:.1f}" if speed.flops else "–",
                f"{speed.gbs:.1f}",
                f"{speed.flops / speed.bytes:.1f}" if speed.flops else "–",
                f"{facts['share']:.0%} of {facts['limit']}",
            )
        )
    return found


def _figures(profile: Profile) -> dict[str, str]:
    return {
        "batch": str(profile.batch),
        "time": f"{1e3 * profile.program_seconds:.2f} ms",
        "speed": f"{profile.images / profile.call_seconds:,.0f}",
        "share": f"{profile.whole.shares['compute']:.0%}",
    }
