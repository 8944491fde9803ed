#!/usr/bin/env python3
"""Counts the requests of each verb, and how many of them wait for one another, at S3 and at a registry.

    tests/bench/roundtrips.py [--stores s3,registry] [--delay 50] [--files 2000] [--log]

A proxy in front of the server holds the answer to each request for `--delay` milliseconds and notes when the request came and when its
answer was sent. The depth of a verb is the longest chain of requests of which each came after the answer to the one before. Prints a
Markdown table; `--log` prints every request too.
"""
import argparse
import asyncio
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

import bench
from ground import ROOT, TOOLS, Failed, Places, free_port, machine, say
from registries import DebianRegistry

PIECE = 64 << 10
STORES = {"s3": "S3 (SeaweedFS)", "registry": "registry (docker-registry 2.8)"}


@dataclasses.dataclass
class Request:
    """A request, with the times when its head came and when its answer was sent."""

    line: str
    began: float
    ended: float = 0.0
    status: str = ""


class Proxy:
    """Passes HTTP/1.1 on, one request of a connection after the other, each answered `delay` seconds later."""

    def __init__(self, upstream, delay):
        self.upstream, self.delay = upstream, delay
        self.port, self.requests, self.connections = free_port(), [], 0
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(started)), daemon=True).start()
        started.wait()

    async def serve(self, started):
        server = await asyncio.start_server(self.connection, "127.0.0.1", self.port, limit=1 << 20)
        started.set()
        async with server:
            await server.serve_forever()

    def take(self):
        """What was noted since the last call."""
        requests, connections = self.requests, self.connections
        self.requests, self.connections = [], 0
        return requests, connections

    async def connection(self, reader, writer):
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 20)
        try:
            while await self.exchange(reader, writer, up_reader, up_writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            up_writer.close()

    async def exchange(self, reader, writer, up_reader, up_writer):
        head = await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        method, target = head.split(b" ", 2)[:2]
        request = Request(f"{method.decode()} {target.decode()}", began)
        self.requests.append(request)
        up_writer.write(head)
        sending = asyncio.create_task(passed_on(reader, up_writer, fields(head)))
        try:
            while True:
                answer = await up_reader.readuntil(b"\r\n\r\n")
                status = answer.split(b" ", 2)[1]
                if status != b"100":
                    break
                writer.write(answer)
            await sending
        finally:
            sending.cancel()
        await asyncio.sleep(max(0.0, began + self.delay - time.monotonic()))
        writer.write(answer)
        has_body = method != b"HEAD" and status not in (b"204", b"304")
        said = fields(answer)
        await passed_on(up_reader, writer, said if has_body else {b"content-length": b"0"})
        await writer.drain()
        request.ended, request.status = time.monotonic(), status.decode()
        return said.get(b"connection", b"").lower() != b"close"


def fields(head):
    lines = (line.split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    return {name.strip().lower(): value.strip() for name, value in lines}


async def passed_on(reader, writer, said):
    """Passes one body on: `said` are the fields of its head."""
    if said.get(b"transfer-encoding", b"").lower() == b"chunked":
        while True:
            line = await reader.readuntil(b"\r\n")
            writer.write(line)
            size = int(line.split(b";")[0], 16)
            await copied(reader, writer, size + 2)
            if size == 0:
                return
    await copied(reader, writer, int(said.get(b"content-length", b"0")))


async def copied(reader, writer, left):
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise ConnectionError("a body ended early")
        writer.write(piece)
        await writer.drain()
        left -= len(piece)


def depth(requests):
    """The longest chain: the one that takes whatever ends first."""
    length, free_at = 0, 0.0
    for request in sorted(requests, key=lambda r: r.ended):
        if request.began >= free_at:
            length, free_at = length + 1, request.ended
    return length


class Node:
    """A machine without memory of any store."""

    def __init__(self, options, places, url):
        self.options, self.url = options, url
        self.home, self.tree = places.fresh(), places.fresh() / "tree"

    def run(self, verb, *flags):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CACHECTL_", "XDG_"))}
        env |= {
            "HOME": str(self.home), "AWS_ACCESS_KEY_ID": bench.KEY, "AWS_SECRET_ACCESS_KEY": bench.SECRET,
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }
        for name in ("CI", "GITHUB_ACTIONS", "GITHUB_OUTPUT"):
            env.pop(name, None)
        command = [
            self.options.binary, verb, "dir", self.tree, "--name", "rounds", "--store", self.url, "--json", "--strict",
            *self.options.flags.split(), *flags,
        ]
        began = time.monotonic()
        done = subprocess.run(list(map(str, command)), env=env, cwd=self.home, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{verb}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return time.monotonic() - began, json.loads(done.stdout)


def grow(tree, files):
    """Files of 1 to 20 KB, half of each of them noise."""
    dice = random.Random(12)
    for number in range(files):
        file = tree / f"{number % 50:02}" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dice.randbytes(dice.randrange(250, 5000)).hex() * 2)


def edit(tree, turn):
    for number in range(20):
        (tree / f"{number:02}" / f"edit-{turn}-{number}.txt").write_text(random.randbytes(2000).hex())


def verbs(options, places, url):
    """Each verb with its name, in an order in which one prepares the next."""
    writer, reader = Node(options, places, url), Node(options, places, url)
    grow(writer.tree, options.files)
    yield "export in full", lambda: writer.run("export")
    yield "export, unchanged", lambda: writer.run("export")
    edit(writer.tree, 1)
    yield "export after an edit", lambda: writer.run("export")
    yield "import, empty node", lambda: reader.run("import", "--require-hit")
    yield "import of what is there", lambda: reader.run("import", "--require-hit")
    edit(reader.tree, 2)
    yield "export after an import and an edit", lambda: reader.run("export")
    yield "import of another node's edit", lambda: writer.run("import", "--require-hit")


def measure(options, places, store):
    if store == "s3":
        servers = bench.Servers(places)
        server, port = servers, servers.port("s3")
        proxy = Proxy(port, options.delay / 1000)
        url = f"s3://{bench.BUCKET}/rounds?region=us-east-1&endpoint=http://127.0.0.1:{proxy.port}&path_style=true"
    else:
        options.places = places
        server = DebianRegistry(options)
        proxy = Proxy(server.port, options.delay / 1000)
        url = f"oci://127.0.0.1:{proxy.port}/rounds"
    try:
        for name, verb in verbs(options, places, url):
            proxy.take()
            seconds, report = verb()
            requests, connections = proxy.take()
            say(f"{store}: {name}")
            if options.log:
                first = min((r.began for r in requests), default=0.0)
                for r in sorted(requests, key=lambda r: r.began):
                    times = f"{1000 * (r.began - first):6.0f} {1000 * (r.ended - first):6.0f}"
                    say(f"  {times} {r.status} {r.line[:150]}")
            yield f"| {STORES[store]} | {name} | {len(requests)} | {depth(requests)} | {connections} | {seconds:.2f} |"
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/cachectl")
    parser.add_argument("--stores", default="s3,registry")
    parser.add_argument("--delay", type=float, default=50)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--flags", default="", help="more flags for each command, such as `--key main`")
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench")
    options = parser.parse_args()
    for program in (options.binary, TOOLS / "bin/weed", TOOLS / "bin/docker-registry"):
        if not program.exists():
            sys.exit(f"{program} is missing: run `make deps build`")
    options.binary = options.binary.resolve()
    at_start, lines = machine(), []
    for store in options.stores.split(","):
        lines += measure(options, Places(options.work), store)
    print(f"{at_start}; {options.files} files, {options.delay:.0f} ms a request\n")
    print("| store | work | requests | depth | connections | s |\n| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
