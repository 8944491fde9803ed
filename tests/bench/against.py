#!/usr/bin/env python3
"""Two builds of cachectld in turn: what a change of the daemon costs at the registry API.

    tests/bench/against.py --old OLD/cachectld --new target/release/cachectld [--turns 10] [--rows tenant-disk,tenant-s3,pairs]

- `tenant-disk`, `tenant-s3`: a caller with grants on one repository pattern only pushes an image of 60 new layers.
- `pairs`: the shapes of the `door` row of bench.py, pushed and pulled by an anonymous caller, on disk.

Both daemons run all the time, each over a store of its own; old and new take turns, and each turn the other one begins. Medians
count. Printed as a Markdown table; the last columns are the ratios of the pairs, one a turn.
"""
import argparse
import contextlib
import pathlib
import random
import statistics
import sys

import bench as whole
from door import SHAPES, Content, load, manifest_of
from ground import MEMORY, ROOT, TOOLS, Failed, Places, machine, say
from registries import Cachectld

LAYERS, LAYER_BYTES, CONNECTIONS = 60, 256 << 10, 4
TOKEN = "tenant-of-the-benchmark-0123456789"


class Build(Cachectld):
    """A daemon of one build."""

    def __init__(self, bench, name, program, store, tenant):
        self.name, self.program, self.store, self.tenant = name, program, store, tenant
        super().__init__(bench)

    def command(self):
        lines = []
        if self.tenant:
            tokens = self.dir / "tokens"
            tokens.write_text(f"tenant {TOKEN}\n")
            tokens.chmod(0o600)
            lines += ["[auth]", f'tokens = "{tokens}"', 'grants = ["tenant = team/** : pull,push"]']
        (self.dir / "daemon.toml").write_text("\n".join([*lines, ""]))
        keys = [f"AWS_ACCESS_KEY_ID={whole.KEY}", f"AWS_SECRET_ACCESS_KEY={whole.SECRET}"]
        return [
            "env", *keys, self.program, "--config", self.dir / "daemon.toml", "--store", self.store or f"disk:{self.dir}/store",
            "--listen", f"127.0.0.1:{self.port}", "--socket", "none", "--state", self.dir / "state", "--log", "off",
        ]

    def until(self, what, ready):
        # `/v2/` asks a tenant's client to log in: that is an answer too.
        super().until(what, lambda: whole.request("GET", f"http://127.0.0.1:{self.port}/v2/") in (200, 401))


class Against:
    """All rows; `lines` are printed at the end."""

    def __init__(self, options):
        self.options, self.lines = options, []
        self.places = Places(options.work)
        MEMORY.keep_in(self.places.base / "ring")
        self.content = Content(self.places)
        self.servers = whole.Servers(self.places)

    def builds(self, stores=(None, None), tenant=False):
        programs = (self.options.old, self.options.new)
        return [Build(self, *each, tenant) for each in zip(("old", "new"), programs, stores)]

    def tenant(self, where):
        say(f"tenant-{where}: {LAYERS} layers")
        stores = (None, None)
        if where == "s3":
            address = f"endpoint=http://127.0.0.1:{self.servers.port('s3')}&region=us-east-1&path_style=true"
            stores = [f"s3://{whole.BUCKET}/{name}?{address}" for name in ("old", "new")]
        builds = self.builds(stores, tenant=True)

        def push(build):
            blobs = [self.content.blob(n * LAYER_BYTES, LAYER_BYTES, random.randbytes(16)) for n in range(LAYERS)]
            manifest = manifest_of([{**blob, "length": LAYER_BYTES + 16} for blob in blobs])
            more = {"authorization": f"Bearer {TOKEN}", "manifest": manifest}
            return load(build, "push", self.content, blobs, CONNECTIONS, **more)[0].seconds

        with stopping(builds):
            self.compare(f"tenant pushes {LAYERS} layers, {where}", builds, push)

    def pairs(self):
        for shape, (count, length, connections) in SHAPES.items():
            say(f"pairs: {shape}")
            builds = self.builds()

            def push(build):
                # Other bytes each time: a blob that is there is not sent.
                blobs = [self.content.blob(n * length, length, random.randbytes(16)) for n in range(count)]
                return load(build, "push", self.content, blobs, connections)[0].seconds

            fixed = self.content.blobs(count, length)

            def pull(build):
                return load(build, "pull", self.content, fixed, connections)[0].seconds

            with stopping(builds):
                for build in builds:
                    load(build, "push", self.content, fixed, connections)
                    load(build, "verify", self.content, fixed, connections)
                self.compare(f"pull {shape}", builds, pull)
                self.compare(f"push {shape}", builds, push)
            self.places.sweep()

    def compare(self, work, builds, action):
        took = {build.name: [] for build in builds}
        for build in builds:
            action(build)
        for turn in range(self.options.turns):
            for build in builds[turn % 2:] + builds[:turn % 2]:
                MEMORY.fill()
                took[build.name].append(action(build))
        old, new = (statistics.median(took[name]) for name in ("old", "new"))
        pairs = sorted(after / before for before, after in zip(took["old"], took["new"]))
        quarter = len(pairs) // 4
        self.lines.append([
            work, f"{old:.3f}", f"{new:.3f}", f"{new / old:.3f}", f"{statistics.median(pairs):.3f}",
            f"{pairs[quarter]:.3f} to {pairs[-1 - quarter]:.3f}",
        ])
        say("  " + ", ".join(self.lines[-1]))


@contextlib.contextmanager
def stopping(builds):
    try:
        yield
    finally:
        for build in builds:
            build.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=pathlib.Path, required=True)
    parser.add_argument("--new", type=pathlib.Path, default=ROOT / "target/release/cachectld")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rows", default="tenant-disk,tenant-s3,pairs")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench")
    options = parser.parse_args()
    for program in (options.old, options.new, TOOLS / "bin/weed"):
        if not program.exists():
            sys.exit(f"{program} is missing: run `make deps-bench build`, and keep an older build of cachectld")
    options.old, options.new = options.old.resolve(), options.new.resolve()
    at_start, against, failed = machine(), Against(options), False
    try:
        for row in options.rows.split(","):
            try:
                against.pairs() if row == "pairs" else against.tenant(row.removeprefix("tenant-"))
            except Failed as error:
                failed = True
                say(f"  FAILED: {error}")
    finally:
        against.servers.stop()
        whole.remove(against.places.base)
    print(f"{at_start}; {options.turns} turns\n")
    for line in [["work", "old s", "new s", "new ÷ old", "median of pairs", "middle half of pairs"], ["---"] * 6, *against.lines]:
        print("| " + " | ".join(line) + " |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
