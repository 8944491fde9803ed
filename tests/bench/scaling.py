#!/usr/bin/env python3
"""How time and memory grow with the number of files, names, snapshots and side tags: `tests/bench/scaling.py`.

Prints two Markdown tables: each measurement, and for each verb of each case the exponent (the slope of CPU seconds over
size, both logarithmic): 1 is linear, n log n is about 1.1. The page cache is warm. All stores are folders.

    tests/bench/scaling.py --cases tree,flat --repeat 3
    tests/bench/scaling.py --cases tree --sizes 300k --rivals
    tests/bench/scaling.py --cases tree --million

Cases: `tree` (20 files of 2 KB in each folder, like node_modules), `flat` (one folder), `snapshots` (keys of one name),
`names`, `sides` (side tags that the head does not contain, each adds 20 files), `random` (GB in 20 files).
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import random
import shutil
import sys
import time

from bench import Run, listed, measure, table
from ground import ROOT, Failed, Places, machine, quietly, remove, say, stored_size

SIZES = {
    "tree": [10_000, 30_000, 100_000, 300_000],
    "flat": [10_000, 50_000, 200_000],
    "snapshots": [100, 300, 1000],
    "names": [1000, 3000, 10_000],
    "sides": [50, 150, 500],
    "random": [1, 4, 50],
}
FILES_A_FOLDER = 20
FILE_BYTES = 2048
# What resident memory may be: a fixed part, and bytes for each file.
FIXED_BYTES, BYTES_A_FILE = 128 << 20, 200
# Seconds for 10,000 files.
GOALS = {"unchanged export": 0.08, "import of what is there": 0.1}


@dataclasses.dataclass
class Row:
    """The measurements of one verb at one size: the best time, the highest peak."""

    case: str
    verb: str
    size: int
    files: int
    run: Run

    def goals(self):
        if self.verb.startswith("`"):
            return ""
        allowed = (FIXED_BYTES + BYTES_A_FILE * self.files) / (1 << 20)
        said = [f"≤ {allowed:.0f} MB {'met' if self.run.rss_mb <= allowed else 'MISSED'}"]
        if self.verb in GOALS and self.case in ("tree", "flat"):
            limit = GOALS[self.verb] * self.files / 10_000
            said.append(f"≤ {limit:.2f} s {'met' if self.run.seconds <= limit else 'MISSED'}")
        return ", ".join(said)

    def cells(self):
        run = self.run
        stored = "" if run.moved is None else f"{run.moved / self.files:.0f}"
        return [
            self.case, f"{self.size:,}", self.verb, f"{run.seconds:.2f}", f"{run.cpu:.2f}", f"{run.cpu * 1e6 / self.size:.1f}",
            f"{run.rss_mb:.0f}", f"{run.rss_mb * (1 << 20) / self.files:.0f}", stored, self.goals(),
        ]


class Node:
    """A machine with a state folder of its own, and a store."""

    def __init__(self, scaling, store=None):
        self.binary, self.home = scaling.binary, scaling.places.fresh()
        self.store = store or scaling.places.fresh() / "store"

    def env(self):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("CACHECTL_", "XDG_"))}
        for name in ("CI", "GITHUB_ACTIONS", "GITHUB_OUTPUT"):
            env.pop(name, None)
        return env | {"HOME": str(self.home)}

    def command(self, verb, *arguments):
        return [str(self.binary), verb, *map(str, arguments), "--store", f"disk:{self.store}", "--json"]

    def do(self, verb, *arguments):
        """Not measured."""
        quietly(self.command(verb, *arguments), cwd=self.home, env=self.env())

    def measured(self, verb, *arguments):
        run, text = measure(self.command(verb, *arguments), self.env(), self.home)
        if verb == "export":
            run.moved = json.loads(text)["bytes_moved"]
        return run

    def export(self, tree, *flags, name="scaling"):
        return self.measured("export", "dir", tree, "--name", name, "--strict", *flags)

    def restore(self, target, *flags, name="scaling"):
        return self.measured("import", "dir", target, "--name", name, "--strict", "--require-hit", *flags)


def content(number, size=FILE_BYTES):
    """Text that compresses to about an eighth, as sources do, and differs from file to file."""
    word = random.Random(number).getrandbits(64)
    line = f"export const name_{word:016x} = require('./module_{number}').value_{word % 997};\n"
    return (line * (size // len(line) + 1))[:size].encode()


def write(folder, first, count, size=FILE_BYTES):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        with open(folder / f"file-{number}.js", "wb") as file:
            file.write(content(number, size))


def tree_of(path, files):
    """Packages in folders of folders, 20 files in each folder."""
    for folder in range(files // FILES_A_FOLDER):
        package, part = divmod(folder, 5)
        place = path / "node_modules" / f"package-{package:06}" / ["", "lib", "dist", "src", "types"][part]
        write(place, folder * FILES_A_FOLDER, FILES_A_FOLDER)


class Scaling:
    """All cases."""

    def __init__(self, options):
        self.options, self.binary = options, options.binary
        self.places = Places(options.work)
        self.rows, self.rivals, self.failed = [], [], False

    def add(self, case, verb, size, files, run):
        """Keeps the best of the runs of one verb, with the highest peak."""
        say(f"  {case} {size:,} {verb}: {run.seconds:.2f} s, CPU {run.cpu:.2f} s, {run.rss_mb:.0f} MB")
        known = next((r for r in self.rows if (r.case, r.verb, r.size) == (case, verb, size)), None)
        if known is None:
            self.rows.append(Row(case, verb, size, files, run))
            return
        peak = max(known.run.rss_mb, run.rss_mb)
        known.run = min(known.run, run, key=lambda r: r.cpu)
        known.run.rss_mb = peak

    def sizes(self, case):
        sizes = self.options.sizes or SIZES[case]
        return [*sizes, 1_000_000] if case == "tree" and self.options.million else sizes

    def there_and_back(self, case, size, files, tree):
        for _ in range(self.options.repeat):
            node = Node(self)
            self.add(case, "export", size, files, node.export(tree))
            time.sleep(0.1)
            for _ in range(2):
                # The second one reads nothing whose time of change was too close to the first export.
                unchanged = node.export(tree)
            self.add(case, "unchanged export", size, files, unchanged)
            other, target = Node(self, node.store), self.places.fresh() / "target"
            self.add(case, "import", size, files, other.restore(target))
            self.add(case, "import of what is there", size, files, other.restore(target))
            # Kept until the end of the case: deleting would disturb the next run.

    def tree(self, size):
        tree = self.places.fresh() / "tree"
        tree_of(tree, size)
        self.there_and_back("tree", size, size, tree)
        if self.options.rivals:
            self.rival(tree, size)

    def rival(self, tree, size):
        """`tar | zstd` of the same tree, in turn with nothing: compare CPU seconds."""
        for _ in range(self.options.repeat):
            folder = self.places.fresh()
            target, env = folder / "target", dict(os.environ)
            target.mkdir()
            pack = measure(f"tar -C {tree} -cf - . | zstd -q -3 -T0 -c > {folder}/whole.tar.zst", env, folder)[0]
            pack.moved = (folder / "whole.tar.zst").stat().st_size
            self.add("tree", "`tar \\| zstd -3 -T0`", size, size, pack)
            unpack = measure(f"zstd -q -dc {folder}/whole.tar.zst | tar -C {target} -xf -", env, folder)[0]
            self.add("tree", "`zstd -dc \\| tar x`", size, size, unpack)

    def flat(self, size):
        tree = self.places.fresh() / "tree"
        write(tree / "one", 0, size, 200)
        self.there_and_back("flat", size, size, tree)

    def grown(self, case, sizes, grow, verbs):
        """One store that grows from size to size; `grow(node, tree, first, last)` fills it, `verbs(node, tree)` gives name and command."""
        node, tree, before = Node(self), self.places.fresh() / "tree", 0
        write(tree, 0, FILES_A_FOLDER)
        for size in sizes:
            grow(node, tree, before, size)
            before = size
            for _ in range(self.options.repeat):
                for verb, command in verbs(node, tree):
                    self.add(case, verb, size, size, command())

    def snapshots(self, sizes):
        def grow(node, tree, first, last):
            for key in range(first, last):
                write(tree, key + 1, 1)
                (tree / f"file-{key}.js").unlink()
                node.do("export", "dir", tree, "--name", "scaling", "--key", f"key-{key}", "--strict")

        def verbs(node, tree):
            other = Node(self, node.store)
            yield "ls", lambda: node.measured("ls")
            yield "prune", lambda: node.measured("prune", "--dry-run", "--keep", "10")
            yield "export", lambda: node.export(tree, "--key", "another")
            yield "import by prefix", lambda: other.restore(self.places.fresh() / "target", "--key", "none", "--restore-key", "key-")

        self.grown("snapshots", sizes, grow, verbs)

    def names(self, sizes):
        def grow(node, tree, first, last):
            for number in range(first, last):
                node.do("export", "dir", tree, "--name", f"name-{number}", "--strict")

        def verbs(node, tree):
            other = Node(self, node.store)
            yield "ls", lambda: node.measured("ls")
            yield "prune", lambda: node.measured("prune", "--dry-run", "--keep", "1")
            yield "export", lambda: node.export(tree, name="another")
            yield "import", lambda: other.restore(self.places.fresh() / "target", name="name-7")

        self.grown("names", sizes, grow, verbs)

    def sides(self, sizes):
        """A folder is published without side tags, so each tag is put aside before the next export, and renamed at the end."""
        aside = self.places.fresh()

        def grow(node, tree, first, last):
            tags = node.store / "r/cachectl/tags"
            head = tags / "dir.scaling.default."
            for tag in tags.glob("*.w*") if first else []:
                shutil.move(tag, aside / tag.name)
            for number in range(first, last):
                part = self.places.fresh()
                write(part, number * FILES_A_FOLDER, FILES_A_FOLDER)
                node.do("export", "dir", part, "--name", "scaling", "--merge", "--strict")
                shutil.move(head, aside / f"{head.name}.w{base32(int(time.time()), 7)}{base32(number, 9)}")
            for tag in aside.iterdir():
                shutil.move(tag, tags / tag.name)

        def verbs(node, tree):
            other = Node(self, node.store)
            yield "ls", lambda: node.measured("ls")
            yield "import", lambda: other.restore(self.places.fresh() / "target")

        self.grown("sides", sizes, grow, verbs)

    def random(self, size):
        needed, free = 3 * size + 10, shutil.disk_usage(self.places.base).free >> 30
        if free < needed:
            say(f"  random: {size} GB skipped: {needed} GB are needed for the files, the store and the copy, and {free} GB are free")
            return
        tree = self.places.fresh() / "tree"
        tree.mkdir()
        for number in range(20):
            with open(tree / f"file-{number}", "wb") as file:
                for _ in range(size * 1024 // 20):
                    file.write(os.urandom(1 << 20))
        self.there_and_back("random", size, 20, tree)

    def run(self):
        for case in self.options.cases:
            sizes = self.sizes(case)
            say(f"{case}: {', '.join(f'{size:,}' for size in sizes)}")
            method = getattr(self, case)
            try:
                if case in ("tree", "flat", "random"):
                    for size in sizes:
                        method(size)
                        self.places.sweep()
                else:
                    method(sizes)
            except Failed as error:
                self.failed = True
                say(f"  {case} FAILED: {error}")
            self.places.sweep()

    def tables(self):
        head = ["case", "size", "verb", "s", "CPU s", "CPU µs each", "peak MB", "peak bytes each", "stored bytes each", "goal"]
        lines = [row.cells() for row in self.rows]
        slopes = [[case, verb, f"{slope:.2f}"] for case, verb, slope in self.exponents()]
        return f"{table(head, lines)}\n\n{table(['case', 'verb', 'exponent of CPU'], slopes)}"

    def exponents(self):
        for case, verb in dict.fromkeys((row.case, row.verb) for row in self.rows):
            points = [(math.log(r.size), math.log(max(r.run.cpu, 1e-3))) for r in self.rows if (r.case, r.verb) == (case, verb)]
            if len(points) > 1:
                yield case, verb, slope_of(points)


def slope_of(points):
    """Of the line through the points by least squares."""
    x, y = (sum(values) / len(points) for values in zip(*points))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def base32(number, digits):
    """As in the tags of docs/format.md."""
    alphabet = "0123456789abcdefghijklmnopqrstuv"
    return "".join(alphabet[number >> 5 * place & 31] for place in reversed(range(digits)))


def count(text):
    """`300k` is 300000."""
    return [int(part.removesuffix("k")) * (1000 if part.endswith("k") else 1) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=listed(list(SIZES)), default=list(SIZES), help=",".join(SIZES))
    parser.add_argument("--sizes", type=count, help="instead of the sizes of the cases, such as 10k,30k")
    parser.add_argument("--million", action="store_true", help="a tree of a million files, too")
    parser.add_argument("--rivals", action="store_true", help="`tar | zstd` of the same trees, too")
    parser.add_argument("--repeat", type=int, default=1, help="the best of so many counts")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "target/bench", help="where to write")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/cachectl")
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    if not options.binary.exists():
        sys.exit(f"{options.binary} is missing: run `make build`")
    where, scaling = machine(), Scaling(options)
    try:
        scaling.run()
    finally:
        remove(scaling.places.base)
        print(f"{where}; best of {options.repeat}; `{' '.join(sys.argv)}`.\n\n{scaling.tables()}")
    sys.exit(1 if scaling.failed else 0)


if __name__ == "__main__":
    main()
