"""What all rows stand on: programs, fresh folders, servers that end with us, the machine."""
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = pathlib.Path(
    os.environ.get("CACHECTL_TOOLS")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "cachectl-tools"
)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Failed(Exception):
    pass


CHUNK = 512 << 20


class Memory:
    """Keeps a virtual machine's memory in the state of a busy node: full of clean page cache, nearly nothing free.

    The first touch of a free page, which the host has to back anew, costs ten times what copying into it does, and hits
    whichever contestant comes first: it is more than all that is to be measured. Pages taken from the cache are there.
    """

    def __init__(self):
        self.ring, self.files, self.turn = None, [], 0

    @staticmethod
    def free():
        with open("/proc/meminfo", encoding="utf-8") as file:
            return {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}

    def keep_in(self, ring):
        self.ring = ring
        ring.mkdir()

    def fill(self):
        if self.ring and not self.files:
            # Holes: they fill the cache without reading the disk.
            for number in range(self.free()["MemTotal"] // CHUNK + 1):
                self.files.append(self.ring / str(number))
                with open(self.files[-1], "wb") as file:
                    file.truncate(CHUNK)
        for _ in self.files:
            if self.free()["MemFree"] < CHUNK:
                return
            with open(self.files[self.turn % len(self.files)], "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass
            self.turn += 1


MEMORY = Memory()


def quietly(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{command}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def tree_size(path):
    """Files and bytes below a folder."""
    count = size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            count += 1
            size += os.lstat(os.path.join(folder, name)).st_size
    return count, size


def stored_size(path):
    return path.stat().st_size if path.is_file() else tree_size(path)[1]


class Places:
    """Fresh folders: each below a parent of its own, which ext4 is told to place in another corner of the disk."""

    def __init__(self, base):
        base.mkdir(parents=True, exist_ok=True)
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=base.resolve()))
        # Not every file system knows the flag; then there is nothing to avoid either.
        subprocess.run(["chattr", "+T", self.base], capture_output=True)
        self.used = []

    def fresh(self):
        path = pathlib.Path(tempfile.mkdtemp(prefix=f"{random.randrange(1 << 30):08x}-", dir=self.base))
        self.used.append(path)
        return path

    def sweep(self):
        """Between rows: inside one, deleting would disturb the next run."""
        for path in self.used:
            remove(path)
        self.used.clear()
        os.sync()


def remove(path):
    subprocess.run(["chmod", "-R", "u+rwX", path], capture_output=True)
    shutil.rmtree(path, ignore_errors=True)


def free_port():
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def request(method, url, body=None):
    # urllib would call every body a form, which SeaweedFS takes apart.
    kind = {"Content-Type": "application/octet-stream"} if body else {}
    asked = urllib.request.Request(url, data=body, method=method, headers=kind)
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class Children:
    """Processes that end with this one, each started in the folder `dir`, with one log for all."""

    def __init__(self, dir):
        self.dir, self.children = dir, []
        self.dir.mkdir()

    def start(self, *command):
        log = open(self.dir / "log", "ab")
        # Dies with this process, however that ends.
        tied = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)]
        self.children.append(subprocess.Popen(tied, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def until(self, what, ready):
        deadline = time.monotonic() + 90
        while not ready():
            if time.monotonic() > deadline:
                raise Failed(f"{what} is not ready; its log: {self.dir}/log")
            time.sleep(0.05)

    def stop(self):
        for child in self.children:
            child.kill()
            child.wait()


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} × {models[0] if models else 'CPU'}, load {load:.1f} at the start"
