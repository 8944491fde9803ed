#!/usr/bin/env python3
"""Measures which share of a link exports and imports use: `tests/bench/link.py --rates 25,125`.

Between cachectl and the store stands the program in `link/`: one rate for all connections together in each direction, a
delay, and a window for each connection (without slow start). Two shares are printed: of the whole command, with its
look-ups and what it packs before it can send, and of its middle, from 1 % to 99 % of the bytes. `lost` is the time in which
the link itself did not get to run; with much of it, the machine was too busy for this rate.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

import bench
from bench import Input, Servers, listed, measure, table
from ground import ROOT, TOOLS, Children, Failed, Places, free_port, machine, quietly, remove, request, say
from registries import DistributionV3

HEAD = ["input", "store", "MB/s", "work", "s", "MB on the wire", "share, whole", "share, middle", "connections", "CPU s", "peak MB", "lost s"]


class Link:
    """A link to a server on this machine."""

    def __init__(self, port, rate, options):
        program = ROOT / "target/link/release/link"
        command = [program, port, round(rate * 1e6), options.delay, options.window << 10]
        self.child = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.child.stdout.readline())

    def traffic(self):
        """The traffic since the last call."""
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def stop(self):
        self.child.kill()
        self.child.wait()


def middle(tenths):
    """Seconds in which all but the first and the last hundredth of the bytes moved."""
    total, done, began = sum(tenths), 0, None
    for slot, count in enumerate(tenths):
        done += count
        if began is None and done >= total / 100:
            began = slot
        if done >= total * 0.99:
            return (slot - began + 1) / 10
    return 0.1


class Registry(DistributionV3):
    """On any core, with the priority of everything else: here the client is measured."""

    def __init__(self, places):
        Children.__init__(self, places.fresh() / "server")
        self.port = free_port()
        self.start(*self.command())
        self.until(self.name, lambda: request("GET", f"http://127.0.0.1:{self.port}/v2/") == 200)


class Shares:
    def __init__(self, options):
        self.options, self.lines, self.failed = options, [], False
        self.places = Places(options.work)
        self.servers, self.registry = Servers(self.places), None
        self.runs = 0

    def random_tree(self):
        tree = self.places.fresh() / "tree"
        tree.mkdir()
        say(f"input random: {self.options.megabytes} MB in files of 10 MB")
        for number in range(self.options.megabytes // 10):
            with open(tree / f"f{number}", "wb") as file:
                file.write(os.urandom(10_000_000))
        return tree

    def port(self, store):
        if store == "s3":
            return self.servers.port("s3")
        self.registry = self.registry or Registry(self.places)
        return self.registry.port

    def row(self, name, tree, store, rate):
        link = Link(self.port(store), 1000 if self.options.limited else rate, self.options)
        self.runs += 1
        host = f"127.0.0.1:{link.port}"
        url = f"s3://{bench.BUCKET}/link-{self.runs}?region=us-east-1&endpoint=http://{host}&path_style=true"
        if store == "registry":
            url = f"oci://{host}/link-{self.runs}"
        work = self.places.fresh()
        try:
            for verb, at, way in (("export", tree, "up"), ("import", work / "target", "down")):
                command = [self.options.binary, verb, "dir", at, "--name", "link", "--store", url, "--json", "--strict"]
                command += self.options.flags.split() + ([f"--bandwidth={rate:g}MB/s"] if self.options.limited else [])
                link.traffic()
                run, _ = measure([str(part) for part in command], self.env(work / f"home-{verb}"), work)
                self.report(name, store, rate, verb, run, link.traffic(), way)
        finally:
            link.stop()
            remove(work)

    def env(self, home):
        home.mkdir()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CACHECTL_", "XDG_"))}
        return env | {"HOME": str(home), "AWS_ACCESS_KEY_ID": bench.KEY, "AWS_SECRET_ACCESS_KEY": bench.SECRET, "CI": ""}

    def report(self, name, store, rate, verb, run, traffic, way):
        tenths, wire = traffic[way]["tenths"], sum(traffic[way]["tenths"]) / 1e6
        lost = traffic["up"]["lost"] + traffic["down"]["lost"]
        line = [
            name, store, f"{rate:g}", verb, f"{run.seconds:.2f}", f"{wire:.1f}", f"{wire / run.seconds / rate:.1%}",
            f"{wire * 0.98 / middle(tenths) / rate:.1%}", str(traffic["connections"]), f"{run.cpu:.2f}", f"{run.rss_mb:.0f}", f"{lost:.2f}",
        ]
        say("  " + " | ".join(line))
        if self.options.tenths:
            say("  " + " ".join(f"{count / 1e3 / rate:.0f}" for count in tenths))
        self.lines.append(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=listed(["random", "small", "large"]), default=["random", "large"], help="random,small,large")
    parser.add_argument("--stores", type=listed(["s3", "registry"]), default=["s3", "registry"], help="s3,registry")
    parser.add_argument("--rates", default="25,125", help="MB/s, one or several")
    parser.add_argument("--delay", type=int, default=50, help="of each direction, in milliseconds")
    parser.add_argument("--window", type=int, default=2048, help="of a connection, in KiB")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the random tree")
    parser.add_argument("--flags", default="", help="more flags for cachectl, such as `--concurrency=1`")
    parser.add_argument("--limited", action="store_true", help="`--bandwidth` sets the rate, and the link is faster")
    parser.add_argument("--tenths", action="store_true", help="print the percentage used in each tenth of a second")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench", help="where to write")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/cachectl")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    for program in [options.binary, TOOLS / "bin/weed", TOOLS / "bin/registry"]:
        if not program.exists():
            sys.exit(f"{program} is missing: run `make deps-bench build`")
    crate = ROOT / "tests/bench/link/Cargo.toml"
    quietly(["cargo", "build", "--quiet", "--release", "--manifest-path", crate, "--target-dir", ROOT / "target/link"])
    where, shares = machine(), Shares(options)
    try:
        for name in options.inputs:
            tree = shares.random_tree() if name == "random" else Input(name).gocache
            for store in options.stores:
                for rate in map(float, options.rates.split(",")):
                    say(f"{name} / {store} / {rate:g} MB/s")
                    try:
                        shares.row(name, tree, store, rate)
                    except Failed as error:
                        shares.failed = True
                        say(f"  FAILED: {error}")
    finally:
        shares.servers.stop()
        if shares.registry:
            shares.registry.stop()
        remove(shares.places.base)
        print(f"{where}; delay {options.delay} ms each way, window {options.window} KiB; `{' '.join(sys.argv)}`\n\n{table(HEAD, shares.lines)}")
    sys.exit(1 if shares.failed else 0)


if __name__ == "__main__":
    main()
