"""`hapta demo`: a server, two devices and a real folder, then the gateway, with proof instead of promises.

A list of steps that each do one thing and check it. Servers are processes of their own on free loopback ports with their
data in a temporary folder; nothing is left behind. Status 0 only if every step held.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import hapta
from hapta.cli import demo_gateway
from hapta.cli.demo_gateway import GatewayTour
from hapta.cli.demo_stage import DemoFailed, Device, Server, Stage, Step, check, free_port
from hapta.client import Hapta, ServerUnreachable

BIG_BYTES = 1_500_000
SAMPLE_BYTES = 24
"""Shorter pieces of real files could stand in the server's own files by chance."""


# --- the steps ---


async def start_server(stage: Stage) -> str:
    await stage.server.start()
    return f"{stage.server.url}, embedded SQLite"


async def open_devices(stage: Stage) -> str:
    first = Hapta(stage.server.url, state_dir=stage.home / "device-a")
    second = Hapta(stage.server.url, state_dir=stage.home / "device-b")
    try:
        await first.register(stage.email, stage.password)
        made = await first.create_vault(stage.marker)
        stage.join(Device("A", stage.home / "folder-a", first, made))
        await second.login(stage.email, stage.password)
        stage.join(Device("B", stage.home / "folder-b", second, await second.open_vault(stage.marker)))
    except BaseException:
        await first.close()
        await second.close()
        raise
    return "account made by device A, device B logged in"


async def fill_folder(stage: Stage) -> str:
    shutil.copytree(stage.source, stage.a.folder, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    (stage.a.folder / f"{stage.marker}.txt").write_text(f"secret: {stage.marker}\npassword: {stage.password}\n")
    (stage.a.folder / "all-bytes.bin").write_bytes(bytes(range(256)) * 64)
    (stage.a.folder / "empty").touch()
    return f"{len(list(files_of(stage.a.folder)))} files, {size_of(stage.a.folder):,} bytes from {stage.source.name}/"


async def first_sync(stage: Stage) -> str:
    began = time.perf_counter()
    await stage.sync("A", "B")
    seconds = time.perf_counter() - began
    stage.notes["First sync A to B"] = f"{seconds:.2f} s"
    return f"{compare(stage)} files equal on both"


async def edit(stage: Stage) -> str:
    victim = some_file(stage.a.folder, skip=0)
    victim.write_bytes(victim.read_bytes() + f"\nA line by device A, {stage.marker}\n".encode())
    big = stage.b.folder / "new" / "from-b.bin"
    big.parent.mkdir()
    big.write_bytes(os.urandom(BIG_BYTES))
    big.chmod(0o700)
    await stage.sync("A", "B", "A")
    check((stage.a.folder / "new" / "from-b.bin").stat().st_mode & 0o777 == 0o700, "the file's mode got lost")
    return f"a line added on A, a binary of {BIG_BYTES:,} bytes on B; {compare(stage)} files equal"


async def delete(stage: Stage) -> str:
    gone = some_file(stage.b.folder, skip=1)
    gone.unlink()
    await stage.sync("B", "A")
    name = gone.relative_to(stage.b.folder)
    check(not (stage.a.folder / name).exists(), f"{name} is still on device A")
    return f"{name} deleted on B is gone on A; {compare(stage)} files equal"


async def concurrent_edits(stage: Stage) -> str:
    name = some_file(stage.a.folder, skip=0).relative_to(stage.a.folder)
    (stage.a.folder / name).write_text(f"what A wrote {stage.marker}\n")
    (stage.b.folder / name).write_text(f"what B wrote {stage.marker}\n")
    await stage.sync("A", "B", "A", "B")
    copies = [path for path in files_of(stage.a.folder) if "(conflict " in path.name]
    check(len(copies) == 1, f"expected one conflict copy, found {len(copies)}")
    kept = {(stage.b.folder / name).read_text(), (stage.b.folder / copies[0].relative_to(stage.a.folder)).read_text()}
    check(kept == {f"what {who} wrote {stage.marker}\n" for who in "AB"}, "one of the two edits got lost")
    compare(stage)
    stage.notes["Conflict copy"] = copies[0].name
    return f"both edits kept: {copies[0].name}"


async def offline(stage: Stage) -> str:
    await asyncio.to_thread(stage.server.stop)
    (stage.a.folder / "written-offline.txt").write_text(f"no server, no problem {stage.marker}\n")
    try:
        await stage.a.sync()
    except ServerUnreachable:
        waiting = stage.a.vault.status().outbox
    else:
        raise DemoFailed("a sync without a server claims to have worked")
    check(waiting > 0, "nothing waits in the outbox")
    await stage.server.start()
    await stage.sync("A", "B")
    return f"{waiting} sealed changes waited in the outbox; {compare(stage)} files equal after the server came back"


async def compare_all(stage: Stage) -> str:
    count = compare(stage)
    for device in stage.devices:
        status = device.vault.status()
        check((status.outbox, status.quarantined, status.forked) == (0, 0, False), f"device {device.name}: {status}")
    stage.notes["Folders"] = f"identical, {count} files, {size_of(stage.a.folder):,} bytes compared byte by byte"
    return "byte by byte, names and modes; history chain verified on both devices"


async def search_plaintext(stage: Stage) -> str:
    needles = {"the marker": stage.marker, "the password": stage.password}
    samples = list(samples_of(stage.source))
    searched = await asyncio.to_thread(_search, stage, needles, samples)  # running: the write-ahead log too
    await asyncio.to_thread(stage.server.stop)
    searched += await asyncio.to_thread(_search, stage, needles, samples)
    stage.notes["Plaintext at the server"] = (
        f"none in {searched:,} bytes; also none of {len(samples)} lines of real files"
    )
    return f"{searched:,} bytes searched, also for base64, hex and UTF-16: nothing found"


def _search(stage: Stage, needles: dict[str, str], samples: list[bytes]) -> int:
    """Searches all files of the server; how many bytes that were.

    Raises:
        DemoFailed: something is readable there.
    """
    searched = found_email = 0
    for path in (*files_of(stage.server.data), stage.server.log):
        content = path.read_bytes()
        searched += len(content)
        found_email += stage.email.encode() in content
        for what, text in needles.items():
            check(not any(form in content for form in forms_of(text)), f"{what} is readable in {path.name}")
        for sample in samples:
            check(sample not in content, f"a line of a synced file is readable in {path.name}")
    # The control: what the server does know must be found by the very same search, or the search proves nothing.
    check(found_email > 0, "the search does not even find the e-mail address, which the server knows")
    return searched


STEPS = (
    Step("Start a server", start_server),
    Step("Register, log in", open_devices),
    Step("Fill a folder", fill_folder),
    Step("Sync device A to B", first_sync),
    Step("Edit on both", edit),
    Step("Delete", delete),
    Step("Edit the same file on both", concurrent_edits),
    Step("Work offline", offline),
    Step("Compare", compare_all),
    Step("Search the server for plaintext", search_plaintext),
)


def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="The folder to sync (a copy of it is used).", exists=True, file_okay=False),
    ] = None,
) -> None:
    """Sync a folder between two devices, put the gateway before PocketBase, and prove both."""
    console = Console()
    home = Path(tempfile.mkdtemp(prefix="hapta-demo-"))
    server = Server(home / "server-data", free_port(), home / "server.log", {"HAPTA_GATEWAY_ENABLED": "off"})
    stage = Stage((folder or default_folder()).absolute(), home, server, console)
    try:
        asyncio.run(play_all(stage))
    except DemoFailed as error:
        _fail(console, str(error))
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


async def play_all(stage: Stage) -> None:
    """Runs all steps, then prints the summary.

    Raises:
        DemoFailed: a step did not hold.
    """
    began = time.perf_counter()
    tour = GatewayTour(stage.home) if demo_gateway.is_possible() else None
    steps = (*STEPS, *(() if tour is None else tour.steps))
    try:
        await play(stage, steps)
    finally:
        for device in stage.devices:
            await device.hapta.close()
        if tour is not None:
            await tour.close()
    if tour is None:
        stage.notes["Gateway"] = "left out: pip install 'hapta[pocketbase]' brings a PocketBase to put it before"
    _summary(stage, time.perf_counter() - began)


async def play(stage: Stage, steps: Sequence[Step]) -> None:
    """Runs steps one after the other, and shows what each did and how long it took."""
    for number, step in enumerate(steps, 1):
        label = f"[{number}/{len(steps)}] {step.title}"
        started = time.perf_counter()
        with stage.console.status(label) as status:
            stage.show = lambda text, status=status, label=label: status.update(f"{label}: {text}")
            shown = await step.run(stage)
        shown += f" ({time.perf_counter() - started:.1f} s)"
        stage.console.print(f"[green]✓[/green] {label}", style="bold", highlight=False)
        stage.console.print(f"    {shown}", markup=False, highlight=False)


def _summary(stage: Stage, seconds: float) -> None:
    table = Table(title="Hapta demo", show_header=False, title_justify="left")
    table.add_row("Logs pushed", f"{stage.pushed:,}")
    for what, value in stage.notes.items():
        table.add_row(what, value)
    table.add_row("Server data", f"{size_of(stage.server.data):,} bytes")
    table.add_row("Time", f"{seconds:.1f} s")
    stage.console.print(table)


# --- helpers ---


def default_folder() -> Path:
    """The repository's `docs/`; where Hapta is installed without it, its own source."""
    package = Path(hapta.__file__).parent
    docs = package.parent / "docs"
    return docs if docs.is_dir() and any(files_of(docs)) else package / "client"


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_of(folder))


def some_file(folder: Path, *, skip: int) -> Path:
    """A real file that came with the folder: the planted ones are told by their endings."""
    planted = (".bin", ".txt", "empty", ".hapta-folder")
    real = [path for path in files_of(folder) if not path.name.endswith(planted) and "(conflict " not in path.name]
    check(len(real) > skip, "the folder has too few files for a demo; it needs at least two")
    return real[skip]


def compare(stage: Stage) -> int:
    """Compares the two folders in names, modes and bytes; how many files they have.

    Raises:
        DemoFailed: they differ.
    """
    a, b = ({path.relative_to(d.folder): path for path in files_of(d.folder)} for d in stage.devices)
    check(a.keys() == b.keys(), f"only on one device: {sorted(map(str, a.keys() ^ b.keys()))[:5]}")
    for name, path in a.items():
        check(path.read_bytes() == b[name].read_bytes(), f"{name} differs")
        check(path.stat().st_mode == b[name].stat().st_mode, f"{name} differs in its mode")
    return len(a)


def samples_of(folder: Path) -> Iterator[bytes]:
    """The longest line of every real file, as far as it is long enough to be no accident."""
    for path in files_of(folder):
        longest = max(path.read_bytes().split(b"\n"), key=len, default=b"")
        if len(longest) >= SAMPLE_BYTES:
            yield longest[:200]


def forms_of(text: str) -> Iterator[bytes]:
    """The forms in which a text could hide: as it is, hex, UTF-16, and base64 at each of its three alignments."""
    raw = text.encode()
    yield raw
    yield raw.hex().encode()
    yield text.encode("utf-16-le")
    yield text.encode("utf-16-be")
    for shift in range(3):
        padded = base64.b64encode(bytes(shift) + raw)
        # The characters at both ends also depend on what stands beside the text.
        inner = padded[4 if shift else 0 : -4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


def _fail(console: Console, text: str) -> NoReturn:
    console.print(f"✗ {text}", style="red", markup=False, highlight=False)
    raise typer.Exit(1)
