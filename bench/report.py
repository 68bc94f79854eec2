"""What a case yields, the rules that judge it, and the table."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

Verdict = Literal["reached", "missed", "shown", "failed"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one side.

    Args:
        rate: units of work per second of wall clock.
        per_core_second: units per second of the CPU time that the measured process used; 0 where that says nothing.
        load_share: share of its core that the load generator used.
        latency_ms: median time of one request, as the load saw it.
        p99_ms: the time within which 99 of 100 requests were answered.
    """

    rate: float
    per_core_second: float = 0.0
    load_share: float = 0.0
    latency_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ratio` is what travels to another machine; `ours` and `peer` do not."""

    case: str
    peer: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float | None
    must: str
    verdict: Verdict
    note: str = ""
    details: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int = 5
    seconds: float = 2.0
    big_account_logs: int = 2_000_000
    sockets: int = 5_000

    @property
    def quick(self) -> bool:
        return self.rounds < 5


QUICK = Effort(rounds=3, seconds=0.4, big_account_logs=50_000, sockets=500)


def alternate(effort: Effort, *sides: Callable[[], Sample]) -> list[list[Sample]]:
    """Rounds in turn: first side, second side, first side ... after one round each that does not count."""
    for side in sides:
        side()
    taken: list[list[Sample]] = [[] for _ in sides]
    for _ in range(effort.rounds):
        for samples, side in zip(taken, sides, strict=True):
            samples.append(side())
    return taken


def median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(of(sample) for sample in samples)


def compare(
    case: str,
    peer: str,
    unit: str,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    at_least: float | None,
    *,
    by: Literal["rate", "per_core_second"] = "rate",
    floor: float | None = None,
    note: str = "",
) -> Row:
    """A line for two sides that took turns: the ratio is the median of the rounds' ratios.

    Args:
        at_least: the ratio that must be reached; None when the ratio is only shown.
        floor: the figure that our side must reach, whatever the peer does.
        by: what is compared. `per_core_second` is fairer where the load generator may be the bottleneck on one side.
    """

    def value(sample: Sample) -> float:
        return sample.rate if by == "rate" else sample.per_core_second

    ratio = statistics.median(value(a) / value(b) for a, b in zip(ours, theirs, strict=True))
    details = {
        "rate": median(ours, lambda s: s.rate),
        "peer_rate": median(theirs, lambda s: s.rate),
        "latency_ms": median(ours, lambda s: s.latency_ms),
        "peer_latency_ms": median(theirs, lambda s: s.latency_ms),
        "load_share": median(ours, lambda s: s.load_share),
        "peer_load_share": median(theirs, lambda s: s.load_share),
        "lowest_ratio": min(value(a) / value(b) for a, b in zip(ours, theirs, strict=True)),
        "highest_ratio": max(value(a) / value(b) for a, b in zip(ours, theirs, strict=True)),
    }
    for name, samples in (("cpu_us", ours), ("peer_cpu_us", theirs)):
        per_core = median(samples, lambda s: s.per_core_second)
        if per_core:
            details[name] = 1e6 / per_core
    reached = median(ours, value)
    must = [] if floor is None else [f"≥ {floor:,g}"]
    must += [] if at_least is None else [f"≥ {at_least:g}" if floor is None else f"ratio ≥ {at_least:g}"]
    held = (floor is None or reached >= floor) and (at_least is None or ratio >= at_least)
    verdict: Verdict = "shown" if not must else "reached" if held else "missed"
    return Row(case, peer, unit, reached, median(theirs, value), ratio, ", ".join(must), verdict, note, details)


def slower(
    case: str,
    peer: str,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    of: Callable[[Sample], float],
    *,
    ratio_at_most: float | None = None,
    added_at_most: float | None = None,
    note: str = "",
) -> Row:
    """A line for times in ms, where less is better: the median of the rounds' ratios, and of what is added."""
    pairs = [(of(a), of(b)) for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(a / b for a, b in pairs)
    added = statistics.median(a - b for a, b in pairs)
    must = [] if ratio_at_most is None else [f"ratio ≤ {ratio_at_most:g}"]
    must += [] if added_at_most is None else [f"added ≤ {added_at_most:g}"]
    held = (ratio_at_most is None or ratio <= ratio_at_most) and (added_at_most is None or added <= added_at_most)
    verdict: Verdict = "shown" if not must else "reached" if held else "missed"
    details = {
        "added_ms": added,
        "lowest_ratio": min(a / b for a, b in pairs),
        "highest_ratio": max(a / b for a, b in pairs),
    }
    return Row(case, peer, "ms", median(ours, of), median(theirs, of), ratio, ", ".join(must), verdict, note, details)


def by_the_clock(ours: Sequence[Sample], theirs: Sequence[Sample]) -> str:
    """A note for lines that compare CPU time: the rates that a clock on the wall saw, and how busy the load was."""

    def told(samples: Sequence[Sample]) -> str:
        share = median(samples, lambda s: s.load_share)
        latency = median(samples, lambda s: s.latency_ms)
        return (
            f"{median(samples, lambda s: s.rate):,.0f}/s at {latency:.1f} ms, load generator at {share:.0%} of its core"
        )

    return f"by the clock {told(ours)}; peer {told(theirs)}"


def limit(
    case: str,
    unit: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
    peer: str = "",
    details: dict[str, float] | None = None,
) -> Row:
    """A line without a peer: a figure that must be reached or not be passed."""
    must, held = "", True
    if at_least is not None:
        must, held = f"≥ {at_least:,g}", value >= at_least
    elif at_most is not None:
        must, held = f"≤ {at_most:,g}", value <= at_most
    verdict: Verdict = "shown" if not must else "reached" if held else "missed"
    return Row(case, peer, unit, value, None, None, must, verdict, note, details or {})


def failed(case: str, error: Exception) -> Row:
    """A line for a case that could not be measured: the others still count."""
    return Row(case, "", "", 0.0, None, None, "", "failed", str(error).splitlines()[0][:300])


_MARKS = {
    "reached": "[green]reached[/green]",
    "missed": "[red]missed[/red]",
    "shown": "-",
    "failed": "[red]failed[/red]",
}


def figure(value: float | None) -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 100 or abs(value) < 1 else f"{value:.1f}"


def show(console: Console, rows: Sequence[Row], machine: str) -> None:
    """The table for people at a terminal."""
    table = Table(
        title=f"Hapta benchmarks\n{machine}", caption="Ratios count; figures belong to this machine and this hour."
    )
    for column in ("case", "against", "unit"):
        table.add_column(column)
    for column in ("ours", "peer", "ratio", "must reach"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(
            row.case, row.peer, row.unit, figure(row.ours), figure(row.theirs), ratio, row.must, _MARKS[row.verdict]
        )
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"[dim]{row.case}: {row.note}[/dim]", highlight=False)


def markdown(rows: Sequence[Row], machine: str, effort: Effort) -> str:
    """The same table for docs/benchmarks.md."""
    lines = [
        f"Machine: {machine}. Rounds: {effort.rounds} of {effort.seconds:g} s for each side, in turn; medians.",
        "",
        "| Case | Against | Unit | Ours | Peer | Ratio | Must reach | Verdict |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        cells = (
            row.case,
            row.peer or "-",
            row.unit,
            figure(row.ours),
            figure(row.theirs),
            ratio,
            row.must or "-",
            row.verdict,
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"- {row.case}: {row.note}" for row in rows if row.note]
    return "\n".join(lines) + "\n"


def save(folder: Path, rows: Sequence[Row], machine: str, effort: Effort) -> None:
    """Writes `results.json` (with every detail) and `results.md` into `folder`."""
    folder.mkdir(exist_ok=True)
    content = {
        "machine": machine,
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "effort": asdict(effort),
        "rows": [asdict(row) for row in rows],
    }
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "results.md").write_text(markdown(rows, machine, effort))


_BEGIN, _END = "<!-- results -->\n", "<!-- /results -->"


def write_docs(page: Path, rows: Sequence[Row], machine: str, effort: Effort) -> None:
    """Puts the table between the two marks of a page."""
    text = page.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    taken = time.strftime("%Y-%m-%d", time.gmtime())
    page.write_text(f"{before}{_BEGIN}Taken {taken}. {markdown(rows, machine, effort)}{_END}{after}")
