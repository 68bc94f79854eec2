"""A large file through the gateway, as one multipart request and in frames of its socket, beside PocketBase directly."""

from __future__ import annotations

from collections.abc import Callable

from bench import machine, transfers
from bench.bench import Bench
from bench.pocketbases import gateway, house
from bench.report import Row, Sample, compare, limit, median

SIZE = 1 << 30
SMALLER = 1 << 26
ROUNDS = 2
MOST_GROWTH_MB = 32
DIRECT = "PocketBase direct, same core"
_PATH = "/api/collections/notes/records"

Upload = Callable[[int], tuple[float, str]]


def upload(bench: Bench) -> list[Row]:
    """Each file goes to PocketBase's storage, and is removed again before the next one."""
    size = SMALLER if bench.effort.quick else SIZE
    named = f"upload of {size >> 20:,} MiB"
    bench.say(named)
    with house(bench) as pb, gateway(bench, pb) as ours:
        sides: dict[str, Upload] = {
            "HTTP": lambda count: transfers.by_http(ours.server.port, _PATH, "large", count, ours.token),
            "socket": lambda count: transfers.by_socket(ours.server.port, "notes", "large", count, ours.token),
            "direct": lambda count: transfers.by_http(pb.server.port, _PATH, "large", count, pb.token),
        }
        pids = (ours.server.pid, pb.server.pid)
        taken: dict[str, list[Sample]] = {name: [] for name in sides}
        growth = dict.fromkeys(sides, 0)
        for number in range(ROUNDS + 1):
            for name, run in sides.items():
                cpu = sum(machine.cpu_seconds(pid) for pid in pids)
                before = machine.start_peak(ours.server.pid)
                seconds, record = run(size if number else 1 << 20)
                grown = machine.peak_bytes(ours.server.pid) - before
                cpu = sum(machine.cpu_seconds(pid) for pid in pids) - cpu
                pb.ask("DELETE", f"{_PATH}/{record}")
                if number:
                    growth[name] = max(growth[name], grown)
                    mebibytes = size / (1 << 20)
                    taken[name].append(Sample(rate=mebibytes / seconds, per_core_second=mebibytes / cpu))
    direct = taken.pop("direct")
    rows: list[Row] = []
    for name, samples in taken.items():
        case = f"{named}, {name}"
        note = (
            f"{1e6 / median(samples, lambda s: s.per_core_second):,.0f} µs of CPU a MiB, PocketBase's share within;"
            f" direct {1e6 / median(direct, lambda s: s.per_core_second):,.0f} µs"
        )
        rows.append(compare(case, DIRECT, "MiB/s", samples, direct, 0.6, note=note))
        rows.append(
            limit(f"{case}: the gateway's memory", "MB of growth", growth[name] / 1e6, at_most=MOST_GROWTH_MB,
                  note=f"peak over before, the most of {ROUNDS} uploads"),
        )  # fmt: skip
    return rows
