"""cachectld's registry door beside Debian's docker-registry and distribution v3: throughput, CPU, memory, patience.

Rows: `door` (push and pull), `clients` (64 at once), `resend` (see resend.py), `soak`. Everything pulled was just pushed,
so it comes from the page cache, and is pulled once unmeasured before, with its digests checked.
"""
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

import resend
from ground import MEMORY, Failed, say
from registries import ALL, CLIENT_CORE, Cachectld, on_core

ROWS = ["door", "clients", "resend", "soak"]
# name: (how many blobs, bytes of each, connections); BuildKit sends four layers at once.
SHAPES = {"1 × 1 GB": (1, 1 << 30, 1), "64 × 16 MB": (64, 16 << 20, 4), "5,000 × 4 KB": (5000, 4 << 10, 4)}
CLIENTS = 64
SOURCE_BYTES = 1 << 30


@dataclasses.dataclass
class Took:
    """What one phase took, or the best of several."""

    seconds: float
    bytes: int
    cpu: float
    peak_mb: float
    client: float  # share of its time that the client was busy

    @property
    def rate(self):
        return self.bytes / 1e6 / self.seconds

    @property
    def cpu_per_gb(self):
        return self.cpu / self.bytes * 1e9


class Content:
    """One file of random bytes. Blobs are ranges of it with a few bytes of their own behind them."""

    def __init__(self, places):
        self.path = places.base / "content"
        say("door: writing and hashing content")
        with open(self.path, "wb") as file:
            for _ in range(SOURCE_BYTES >> 24):
                file.write(random.randbytes(16 << 20))
        self.whole, self.file = {}, open(self.path, "rb")

    def blob(self, offset, length, tail=b""):
        key = (offset, length)
        if key not in self.whole:
            hasher = hashlib.sha256()
            for at in range(offset, offset + length, 1 << 20):
                hasher.update(os.pread(self.file.fileno(), min(1 << 20, offset + length - at), at))
            self.whole[key] = hasher
        hasher = self.whole[key].copy()
        hasher.update(tail)
        return {"digest": f"sha256:{hasher.hexdigest()}", "offset": offset, "length": length, "tail": tail.hex()}

    def blobs(self, count, length):
        return [self.blob(number * length, length) for number in range(count)]

    def load(self):
        """Into the page cache, from where it is sent."""
        self.file.seek(0)
        while self.file.read(8 << 20):
            pass


def manifest_of(blobs):
    octets = "application/octet-stream"
    described = [{"mediaType": octets, "digest": b["digest"], "size": b["length"]} for b in blobs]
    return json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described[0], "layers": described,
    })


def load(server, work, content, blobs, connections, **more):
    """Runs the client on its core; what it and the server took."""
    plan = {"port": server.port, "repo": "team/bench", "source": str(content.path), "blobs": blobs, "connections": connections}
    content.load()
    os.sync()
    server.forget_peak()
    before = server.cpu()
    done = subprocess.run(
        [*on_core(CLIENT_CORE), sys.executable, pathlib.Path(__file__).with_name("load.py"), work],
        input=json.dumps(plan | more), capture_output=True, text=True,
    )
    if done.returncode != 0:
        raise Failed(f"{server.name}: {work}: {done.stderr[-2000:]}")
    said = json.loads(done.stdout)
    took = Took(
        said["seconds"], said["sent"] or said["received"], server.cpu() - before, server.memory_mb("VmHWM"),
        said["cpu"] / said["seconds"],
    )
    return took, said


class Door:
    """All rows of the door; `tables` are printed at the end."""

    def __init__(self, bench):
        self.bench, self.tables, self.failed = bench, [], False
        self.content = Content(bench.places)

    def run(self, rows):
        for row in ROWS:
            if row in rows:
                try:
                    getattr(self, row)()
                except Failed as error:
                    self.failed = True
                    say(f"  FAILED: {error}")
                self.bench.places.sweep()

    def turns(self, repeat, phases):
        """Every server in turn, another first each time: the best of each phase by (phase, name of the server)."""
        best = {}
        for turn in range(repeat):
            for kind in ALL[turn % len(ALL):] + ALL[:turn % len(ALL)]:
                MEMORY.fill()
                server = kind(self.bench)
                try:
                    for phase, took in phases(server):
                        say(f"  {kind.name}: {phase}: {took.rate:.0f} MB/s, {took.cpu_per_gb:.2f} CPU s/GB,"
                            f" {took.peak_mb:.0f} MB, client {took.client:.0%} busy")
                        known = best.setdefault((phase, kind.name), took)
                        peak = max(known.peak_mb, took.peak_mb)
                        if took.seconds < known.seconds:
                            best[phase, kind.name] = known = took
                        # The peak that counts is the highest.
                        known.peak_mb = peak
                finally:
                    server.stop()
        return best

    def door(self):
        lines = []
        for shape, (count, length, connections) in SHAPES.items():
            say(f"door: {shape}")
            blobs = self.content.blobs(count, length)
            manifest = manifest_of(blobs)

            def phases(server, blobs=blobs, manifest=manifest, connections=connections):
                given = (server, self.content, blobs, connections, manifest)
                yield "push", measured("push", *given)
                measured("verify", *given)
                yield "pull", measured("pull", *given)

            best = self.turns(self.bench.options.repeat, phases)
            for phase in ("push", "pull"):
                lines += compared(f"{phase} {shape}", {name: took for (p, name), took in best.items() if p == phase})
            self.bench.places.sweep()
        head = ["work", "who", "MB/s", "ours ÷ theirs", "CPU s/GB", "ours ÷ theirs", "peak MB", "client busy", "goal"]
        self.tables.append(("Push and pull", head, lines))

    def clients(self):
        length = 64 << 20
        say(f"clients: {CLIENTS} at once")
        whole = self.content.blobs(1, SOURCE_BYTES)
        pushed = [self.content.blob(0, length, number.to_bytes(8)) for number in range(CLIENTS)]

        def phases(server):
            yield f"{CLIENTS} push 64 MB each", load(server, "push", self.content, pushed, CLIENTS)[0]
            load(server, "push", self.content, whole, 1)
            yield f"{CLIENTS} pull the same 1 GB", load(server, "same", self.content, whole, CLIENTS)[0]

        lines = []
        for (phase, name), took in self.turns(1, phases).items():
            verdict = f"≤ 128 MB {'met' if took.peak_mb <= 128 else 'MISSED'}" if name == Cachectld.name else ""
            lines.append([phase, name, f"{took.rate:.0f}", f"{took.cpu_per_gb:.2f}", f"{took.peak_mb:.0f}", verdict])
        lines.sort(key=lambda line: line[0])
        self.tables.append((f"{CLIENTS} clients at once", ["work", "who", "MB/s", "CPU s/GB", "peak MB", "goal"], lines))

    def resend(self):
        self.tables.append(resend.row(self.bench))

    def soak(self):
        minutes = self.bench.options.soak_minutes
        say(f"soak: {minutes} minutes")
        sizes = [4 << 10, 256 << 10, 4 << 20, 16 << 20]
        blobs = [self.content.blob(number * 16 << 20, size) for size in sizes for number in range(16)]
        MEMORY.fill()
        server, samples = Cachectld(self.bench), []
        try:
            load(server, "push", self.content, blobs, 4)
            began = time.monotonic()
            over = threading.Event()

            def sample():
                while not over.wait(1):
                    samples.append((time.monotonic() - began, server.memory_mb("VmRSS")))

            watcher = threading.Thread(target=sample)
            watcher.start()
            try:
                took, said = load(server, "soak", self.content, blobs, 16, seconds=minutes * 60)
            finally:
                over.set()
                watcher.join()
        finally:
            server.stop()
        first = [mb for at, mb in samples if at <= 60]
        last = [mb for at, mb in samples if at >= samples[-1][0] - 60]
        first, last = statistics.median(first), statistics.median(last)
        self.tables.append((
            f"{minutes} minutes of mixed push and pull",
            ["requests", "GB pushed", "GB pulled", "median MB, first minute", "median MB, last minute", "peak MB", "goal"],
            [[
                f"{said['requests']}", f"{said['sent'] / 1e9:.0f}", f"{said['received'] / 1e9:.0f}", f"{first:.0f}",
                f"{last:.0f}", f"{took.peak_mb:.0f}", f"flat (≤ 1.1 ×) {'met' if last <= first * 1.1 else 'MISSED'}",
            ]],
        ))


def measured(work, server, content, blobs, connections, manifest):
    return load(server, work, content, blobs, connections, manifest=manifest)[0]


def compared(work, took):
    ours, lines = took[Cachectld.name], []
    for name, theirs in took.items():
        line = [work, name, f"{theirs.rate:.0f}", "", f"{theirs.cpu_per_gb:.2f}", "", f"{theirs.peak_mb:.0f}", f"{theirs.client:.0%}"]
        verdict = ""
        if name != Cachectld.name:
            faster, cheaper = ours.rate / theirs.rate, ours.cpu_per_gb / theirs.cpu_per_gb
            line[3], line[5] = f"{faster:.2f}", f"{cheaper:.2f}"
            verdict = (f"≥ 1.50 × {'met' if faster >= 1.5 else 'MISSED'},"
                       f" CPU ≤ 0.50 × {'met' if cheaper <= 0.5 else 'MISSED'}")
        lines.append([*line, verdict])
    return lines
