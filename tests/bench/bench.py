#!/usr/bin/env python3
"""Measures cachectl against what people use instead, in the same run: `make bench`.

Prints a Markdown table. Machines are noisy, so only ratios taken in one run count; every contestant of a row takes
its turn N times, interleaved, and its best time counts. Each run writes below a folder of its own: on ext4, creating
files where many were just deleted scans the freed inodes and makes everything five times slower.

    tests/bench/bench.py --inputs small --rows restore,export --links disk --repeat 3
    tests/bench/bench.py --rows door,clients
"""
import argparse
import dataclasses
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

import door
from ground import (
    MEMORY, ROOT, TOOLS, Children, Failed, Places, free_port, machine, quietly, remove, request, say, stored_size, tree_size,
)

BUCKET, KEY, SECRET = "bench-bucket", "bench-access-key", "bench-secret-key"

# name: (folder under tests/tools that pins it, module, package, file to edit)
INPUTS = {
    "small": ("oras", "oras.land/oras", "./cmd/oras", "cmd/oras/main.go"),
    "large": ("buildx", "github.com/docker/buildx", "./cmd/buildx", "cmd/buildx/main.go"),
}
ROWS = ["restore", "present", "export", "edit", "unchanged"]
LINKS = ["disk", "s3", "s3-50ms", "s3-100MBps"]
TITLES = {
    "restore": "restore into an empty node",
    "present": "import onto a node that has it",
    "export": "full export",
    "edit": "export after an edit of `main`",
    "unchanged": "unchanged export",
    "memory": "a large tree there and back",
}


@dataclasses.dataclass
class Run:
    """One measured command, or the best of several."""

    seconds: float
    cpu: float
    rss_mb: float
    moved: int | None = None  # bytes sent, fetched or stored


def measure(command, env, cwd):
    """Runs a command to its end. A string goes to a shell; the peak is that of its largest process."""
    os.sync()
    MEMORY.fill()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        child = subprocess.Popen(
            command if isinstance(command, list) else ["bash", "-o", "pipefail", "-c", command],
            env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, said = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if child.returncode != 0:
        raise Failed(f"{command}: exit {child.returncode}\n{said[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), text


# --- inputs -----------------------------------------------------------------------------------------------------


class Input:
    """The build cache of a real Go project, built from a copy of its source that can be edited."""

    def __init__(self, name):
        self.name = name
        tool, self.module, self.package, self.edited = INPUTS[name]
        release = quietly(["go", "env", "GOVERSION"]).strip()
        self.folder = TOOLS / "bench" / f"{tool}-{release}"
        self.src, self.gocache, self.modcache = (self.folder / part for part in ("src", "gocache", "modcache"))
        if not (self.folder / "ready").exists():
            self.prepare(ROOT / "tests/tools" / tool)
        self.files, self.bytes = tree_size(self.gocache)
        say(f"input {name}: {tool}, {self.files} files, {self.bytes / 1e6:.0f} MB")

    def go_env(self, gocache):
        return {**os.environ, "GOCACHE": str(gocache), "GOMODCACHE": str(self.modcache)}

    def prepare(self, pinned):
        say(f"input {self.name}: building {self.module} (minutes, once)")
        remove(self.folder)
        outer = self.folder / "pinned"
        outer.mkdir(parents=True)
        for file in ("go.mod", "go.sum"):
            shutil.copy(pinned / file, outer)
        env = self.go_env(self.gocache)
        found = json.loads(quietly(["go", "mod", "download", "-json", self.module], cwd=outer, env=env))
        shutil.copytree(found["Dir"], self.src, copy_function=shutil.copyfile)
        for folder, _, _ in os.walk(self.src):
            os.chmod(folder, 0o755)
        self.build(self.src, self.gocache)
        (self.folder / "ready").touch()

    def build(self, src, gocache):
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", os.devnull, self.package]
        quietly(command, cwd=src, env=self.go_env(gocache))

    def edit(self, src, gocache, mark):
        with open(src / self.edited, "a", encoding="utf-8") as file:
            file.write(f"\n// Edited{mark} stands for a day's work.\nfunc Edited{mark}() int {{ return {mark} }}\n")
        self.build(src, gocache)


# --- servers ----------------------------------------------------------------------------------------------------


class Servers(Children):
    """SeaweedFS, and a proxy in front of it for each kind of link."""

    def __init__(self, places):
        super().__init__(places.base / "servers")
        self.ports = {}

    def ready_for(self, link):
        """Starts what the link needs, so that no measured command waits for it."""
        if link != "disk":
            self.port(link)

    def port(self, link):
        if not self.ports:
            self.start_s3()
        if link not in self.ports:
            self.ports[link] = self.start_proxy(link)
        return self.ports[link]

    def start_s3(self):
        (self.dir / "data").mkdir()
        keys = {"accessKey": KEY, "secretKey": SECRET}
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        (self.dir / "s3.json").write_text(
            json.dumps({"identities": [{"name": "bench", "credentials": [keys], "actions": rights}]})
        )
        s3, filer = free_port(), free_port()
        grown = ["master.port", "volume.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc"]
        self.start(
            TOOLS / "bin/weed", "server", "-dir=data", "-ip=127.0.0.1", "-volume.max=0", "-filer", "-s3",
            "-s3.config=s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.port={s3}", f"-filer.port={filer}",
            *(f"-{flag}={free_port()}" for flag in grown),
        )
        bucket = f"http://127.0.0.1:{filer}/buckets/{BUCKET}/"
        self.until("weed", lambda: all(
            200 <= request(method, url, body) < 300
            for method, url, body in (
                ("GET", f"http://127.0.0.1:{s3}/status", None),
                ("POST", bucket, None),
                ("PUT", f"{bucket}ready", b"ready"),
            )
        ))
        self.ports["s3"] = s3

    def start_proxy(self, link):
        control, listen = free_port(), free_port()
        self.start(TOOLS / "bin/toxiproxy", "-host", "127.0.0.1", "-port", control)
        base = f"http://127.0.0.1:{control}"
        self.until("toxiproxy", lambda: request("GET", f"{base}/version") == 200)

        def post(path, **body):
            status = request("POST", base + path, json.dumps(body).encode())
            if not 200 <= status < 300:
                raise Failed(f"toxiproxy answers {status} to {path}")

        post("/proxies", name="s3", listen=f"127.0.0.1:{listen}", upstream=f"127.0.0.1:{self.ports['s3']}")
        for stream in ("upstream", "downstream"):
            if link == "s3-50ms":
                post("/proxies/s3/toxics", name=stream, type="latency", stream=stream, attributes={"latency": 25})
            else:
                post("/proxies/s3/toxics", name=stream, type="bandwidth", stream=stream, attributes={"rate": 100_000})
        return listen


# --- contestants ------------------------------------------------------------------------------------------------


class Contestant:
    """One way to carry a folder to a store and back. `store` is a fresh folder, or a fresh prefix of the bucket."""

    name = ""

    def __init__(self, bench, link):
        self.bench, self.link = bench, link
        self.store = bench.places.fresh()
        self.home = bench.places.fresh()

    @property
    def remote(self):
        return self.link != "disk"

    @property
    def prefix(self):
        return f"{self.store.name}-{self.name.replace(' ', '-').replace('|', '').replace('+', '-')}"

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.bench.servers.port(self.link)}"

    def env(self):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CACHECTL_", "XDG_"))}
        for name in ("CI", "GITHUB_ACTIONS", "GITHUB_OUTPUT"):
            env.pop(name, None)
        env |= {
            "HOME": str(self.home), "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "RESTIC_PASSWORD": "bench",
            "RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "SeaweedFS", "RCLONE_CONFIG_S_REGION": "us-east-1",
            "RCLONE_CONFIG_S_ACCESS_KEY_ID": KEY, "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": SECRET,
        }
        if self.remote:
            env["RCLONE_CONFIG_S_ENDPOINT"] = self.endpoint
        return env

    def run(self, command, cwd=None):
        return measure(command, self.env(), cwd or self.home)

    def prepare(self):
        """Once before the first export; not measured."""

    def export(self, tree, src):
        """Measured."""
        raise NotImplementedError

    def restore(self, target, src):
        """Measured; `target` does not exist, or holds what an earlier restore put there."""
        raise NotImplementedError


class Cachectl(Contestant):
    name = "cachectl"

    def url(self):
        if not self.remote:
            return f"disk:{self.store}/store"
        return f"s3://{BUCKET}/{self.prefix}?region=us-east-1&endpoint={self.endpoint}&path_style=true"

    def verb(self, verb, tree, src, *flags):
        # The module cache stays out of it: the rivals get the build cache alone, too.
        places = {"GOCACHE": str(tree), "GOMODCACHE": str(self.home / "no-modules")}
        command = [str(self.bench.binary), verb, "go", "--store", self.url(), "--json", "--strict", *flags]
        run, text = measure(command, self.env() | places, src)
        run.moved = json.loads(text)["bytes_moved"]
        return run

    def export(self, tree, src):
        return self.verb("export", tree, src)

    def restore(self, target, src):
        return self.verb("import", target, src, "--require-hit")


class OtherNode(Cachectl):
    """The same store, seen from a node that has no memory of it."""

    def __init__(self, first):
        super().__init__(first.bench, first.link)
        self.url = first.url


class Tar(Contestant):
    name = "tar+zstd"

    def export(self, tree, src):
        pack = f"tar -C {tree} -cf - . | zstd -q -3 -T0 -c"
        file = self.store / "whole.tar.zst"
        if not self.remote:
            run, _ = self.run(f"{pack} > {file}")
            run.moved = file.stat().st_size
            return run
        count = self.store / "count"
        run, _ = self.run(f"{pack} | tee >(wc -c > {count}) | {self.bench.rclone} rcat S:{BUCKET}/{self.prefix}/whole")
        run.moved = int(count.read_text() or 0)
        return run

    def restore(self, target, src):
        target.mkdir(exist_ok=True)
        read = f"{self.bench.rclone} cat S:{BUCKET}/{self.prefix}/whole | zstd -q -dc"
        if not self.remote:
            read = f"zstd -q -dc {self.store}/whole.tar.zst"
        return self.run(f"{read} | tar -C {target} -xf -")[0]


class Copy(Contestant):
    name = "cp -a"

    def export(self, tree, src):
        return self.restore_from(tree, self.bench.places.fresh() / "copy")

    def restore(self, target, src):
        return self.restore_from(self.source, target)

    def prepare(self):
        self.source = self.bench.tree

    def restore_from(self, source, target):
        return self.run(["cp", "-a", "-T", str(source), str(target)])[0]


class Restic(Contestant):
    name = "restic"

    def repo(self):
        return f"s3:{self.endpoint}/{BUCKET}/{self.prefix}" if self.remote else str(self.store / "repo")

    def restic(self, *arguments, cwd=None):
        return self.run([str(TOOLS / "bin/restic"), "-q", "-r", self.repo(), *arguments], cwd)[0]

    def prepare(self):
        self.restic("init")

    def export(self, tree, src):
        before = 0 if self.remote else stored_size(self.store)
        run = self.restic("backup", ".", cwd=tree)
        run.moved = None if self.remote else stored_size(self.store) - before
        return run

    def restore(self, target, src):
        return self.restic("restore", "latest", "--target", str(target))


class Rclone(Contestant):
    name = "rclone"

    def rclone(self, *arguments):
        return self.run([str(self.bench.rclone), *arguments, "--transfers", "16", "--checkers", "16"])[0]

    def export(self, tree, src):
        return self.rclone("sync", str(tree), f"S:{BUCKET}/{self.prefix}")

    def restore(self, target, src):
        return self.rclone("copy", f"S:{BUCKET}/{self.prefix}", str(target))


def rivals_of(row, link):
    if link == "disk":
        names = {
            "restore": [Tar, Copy, Restic],
            "present": [Tar, Copy],
            "export": [Tar, Copy, Restic],
            "edit": [Tar, Restic],
            "unchanged": [Tar, Restic],
        }
    else:
        names = dict.fromkeys(ROWS, [Tar, Restic, Rclone])
    return names[row]


def goal_of(row, link, rival, files):
    """What design section 10 asks of our time against this rival, or of our own time."""
    if link != "disk":
        return None
    if rival is None:
        return {"present": ("s", 0.1 * max(files, 10_000) / 10_000), "unchanged": ("s", 0.1 * max(files, 10_000) / 10_000)}.get(row)
    ratio = {
        ("restore", "tar+zstd"): 0.5, ("restore", "cp -a"): 1.1, ("export", "tar+zstd"): 0.9, ("edit", "tar+zstd"): 0.1,
    }.get((row, rival))
    return ("x", ratio) if ratio else None


# --- rows -------------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, options):
        self.options = options
        self.binary = options.binary
        self.rclone = TOOLS / "bin/rclone"
        self.places = Places(options.work)
        MEMORY.keep_in(self.places.base / "ballast")
        self.servers = Servers(self.places)
        self.tree = None
        self.failed = False
        self.lines = []
        self.door = None

    def contestants(self, row, link):
        chosen = [Cachectl, *(rival for rival in rivals_of(row, link) if rival.name in self.options.rivals)]
        return [contestant(self, link) for contestant in chosen]

    def row(self, given, row, link):
        say(f"{given.name} / {link} / {row}")
        self.servers.ready_for(link)
        work = self.places.fresh()
        self.tree, src = work / "tree", work / "src"
        quietly(["cp", "-a", "-T", str(given.gocache), str(self.tree)])
        quietly(["cp", "-a", "-T", str(given.src), str(src)])
        best, broken = {}, {}
        contestants = self.contestants(row, link)
        for contestant in contestants:
            self.attempt(contestant, broken, lambda c=contestant: self.set_up(c, row, src))
        for turn in range(self.options.repeat):
            if row == "edit":
                given.edit(src, self.tree, turn + 1)
            # Another first each time: who follows whom matters for caches and heat.
            for contestant in contestants[turn % len(contestants):] + contestants[:turn % len(contestants)]:
                if contestant.name in broken:
                    continue
                self.attempt(contestant, broken, lambda c=contestant: self.turn(c, row, src, best))
        self.report(given, row, link, contestants, best, broken)
        self.places.sweep()

    def attempt(self, contestant, broken, action):
        try:
            action()
        except Failed as error:
            self.failed = True
            broken[contestant.name] = str(error)
            say(f"  {contestant.name} FAILED: {error}")

    def set_up(self, contestant, row, src):
        contestant.prepare()
        if row != "export":
            contestant.export(self.tree, src)
        if row == "present":
            contestant.at = self.places.fresh() / "target"
            contestant.reader = OtherNode(contestant) if isinstance(contestant, Cachectl) else contestant
            contestant.reader.restore(contestant.at, src)

    def turn(self, contestant, row, src, best):
        if row == "restore":
            reader = OtherNode(contestant) if isinstance(contestant, Cachectl) else contestant
            run = reader.restore(self.places.fresh() / "target", src)
        elif row == "present":
            run = contestant.reader.restore(contestant.at, src)
        elif row == "export":
            # A store that has nothing, from a node that remembers nothing.
            first = type(contestant)(self, contestant.link)
            first.prepare()
            run = first.export(self.tree, src)
        else:
            run = contestant.export(self.tree, src)
        say(f"  {contestant.name}: {run.seconds:.2f} s, {run.rss_mb:.0f} MB")
        known = best.setdefault(contestant.name, run)
        if run.seconds < known.seconds:
            best[contestant.name] = known = run
        # The peak that counts is the highest.
        known.rss_mb = max(known.rss_mb, run.rss_mb)

    def report(self, given, row, link, contestants, best, broken):
        ours = best.get("cachectl")
        for contestant in contestants:
            name = contestant.name
            cells = [f"{given.bytes / 1e6:.0f} MB, {given.files} files", link, TITLES[row], name]
            if name in broken:
                self.lines.append([*cells, "failed", "", "", "", "", ""])
                continue
            run = best[name]
            ratio = ours.seconds / run.seconds if ours and name != "cachectl" else None
            goal, verdict = goal_of(row, link, None if name == "cachectl" else name, given.files), ""
            if goal:
                unit, limit = goal
                value = run.seconds if unit == "s" else ratio
                met = value is not None and value <= limit
                verdict = f"≤ {limit:.2f} {'s' if unit == 's' else '×'} {'met' if met else 'MISSED'}"
            self.lines.append([
                *cells, f"{run.seconds:.2f}", f"{ratio:.2f}" if ratio is not None else "", f"{run.cpu:.2f}",
                f"{run.moved / 1e6:.2f}" if run.moved is not None else "", f"{run.rss_mb:.0f}", verdict,
            ])

    def memory(self, gigabytes):
        """Peak memory of a tree that is far larger than any buffer."""
        tree = self.places.fresh() / "tree"
        say(f"memory: writing {gigabytes} GB")
        random.seed(5)
        for number in range(gigabytes * 10):
            folder = tree / f"d{number % 16}"
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"f{number}", "wb") as file:
                for _ in range(100):
                    file.write(random.randbytes(300_000) + bytes(700_000))
        for link in self.options.links:
            ours, broken, best = Cachectl(self, link), {}, {}

            def verb(verb, path, ours=ours):
                command = [str(self.binary), verb, "dir", str(path), "--name", "memory", "--store", ours.url()]
                run, text = measure([*command, "--json", "--strict"], ours.env(), ours.home)
                run.moved = json.loads(text)["bytes_moved"]
                return run

            for what, path in (("export", tree), ("import", self.places.fresh() / "target")):
                try:
                    run = verb(what, path)
                except Failed as error:
                    self.failed = True
                    say(f"  FAILED: {error}")
                    break
                verdict = f"≤ 256 MB resident {'met' if run.rss_mb <= 256 else 'MISSED'}"
                self.lines.append([
                    f"{gigabytes} GB, {gigabytes * 10} files", link, TITLES["memory"], f"cachectl {what}",
                    f"{run.seconds:.2f}", "", f"{run.cpu:.2f}", f"{run.moved / 1e6:.2f}", f"{run.rss_mb:.0f}", verdict,
                ])
        self.places.sweep()

    def tables(self):
        """Markdown."""
        head = ["input", "link", "work", "who", "s", "ours ÷ theirs", "CPU s", "MB moved or stored", "peak MB", "goal"]
        tables = [("Caches on disk", head, self.lines)] if self.lines else []
        tables += self.door.tables if self.door else []
        return "\n\n".join(f"## {title}\n\n{table(head, lines)}" for title, head, lines in tables)


def table(head, lines):
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *lines])


def listed(choices):
    def parse(text):
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in choices]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(choices)}")
        return wanted

    return parse


def main():
    names = [rival.name for rival in (Tar, Copy, Restic, Rclone)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=listed(list(INPUTS)), default=list(INPUTS), help=",".join(INPUTS))
    rows = [*ROWS, *door.ROWS]
    parser.add_argument("--rows", type=listed([*rows, "memory"]), default=rows, help=",".join(rows) + ", and memory")
    parser.add_argument("--links", type=listed(LINKS), default=LINKS, help=",".join(LINKS))
    parser.add_argument("--rivals", type=listed(names), default=names, help=",".join(names))
    parser.add_argument("--repeat", type=int, default=5, help="the best of so many counts")
    parser.add_argument("--gigabytes", type=int, default=5, help="size of the tree of the memory row")
    parser.add_argument("--soak-minutes", type=int, default=10, help="length of the soak row")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench", help="where to write")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/cachectl")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    options.daemon = options.binary.with_name("cachectld")
    for program in [options.binary, options.daemon, TOOLS / "bin/weed", TOOLS / "bin/restic", TOOLS / "bin/rclone", TOOLS / "bin/toxiproxy"]:
        if not program.exists():
            sys.exit(f"{program} is missing: run `make deps-bench build`")
    where, bench = machine(), Bench(options)
    try:
        for name in options.inputs if set(options.rows) & set(ROWS) else []:
            given = Input(name)
            for link in options.links:
                for row in (row for row in options.rows if row in ROWS):
                    bench.row(given, row, link)
        if "memory" in options.rows:
            bench.memory(options.gigabytes)
        if set(options.rows) & set(door.ROWS):
            bench.door = door.Door(bench)
            bench.door.run(options.rows)
    finally:
        bench.servers.stop()
        remove(bench.places.base)
        print(f"{where}; best of {options.repeat}, interleaved; `{' '.join(sys.argv)}`."
              f" The peak of a pipe is that of its largest process, and never less than the 24 MB of Python that starts it.\n\n{bench.tables()}")
    sys.exit(1 if bench.failed or (bench.door and bench.door.failed) else 0)


if __name__ == "__main__":
    main()
