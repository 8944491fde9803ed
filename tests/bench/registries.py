"""The registries that are compared: each over a folder of its own, without logs, on a core of its own."""
import os

from ground import TOOLS, Children, free_port, request

# With two cores that is all there is: one for whoever serves, one for the client.
CLIENT_CORE, SERVER_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")


def on_core(core):
    """As root before whatever else runs on this machine; else compilers and the like show in the times."""
    first = ["chrt", "-r", "1"] if os.geteuid() == 0 else []
    return [*first, "taskset", "-c", core]


class Registry(Children):
    """A running server; what it uses is read from /proc."""

    name = program = ""

    def __init__(self, bench):
        super().__init__(bench.places.fresh() / "server")
        self.bench, self.port = bench, free_port()
        self.start(*on_core(SERVER_CORE), *self.command())
        self.until(self.name, lambda: request("GET", f"http://127.0.0.1:{self.port}/v2/") == 200)

    def command(self):
        raise NotImplementedError

    def proc(self, file, mode="r"):
        return open(f"/proc/{self.children[0].pid}/{file}", mode, encoding="utf-8")

    def cpu(self):
        with self.proc("stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self, which):
        """`VmHWM`: the peak; `VmRSS`: now."""
        with self.proc("status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(which))

    def forget_peak(self):
        with self.proc("clear_refs", "w") as file:
            file.write("5")


class Cachectld(Registry):
    name = "cachectld"

    def command(self):
        return [
            self.bench.options.daemon, "--store", f"disk:{self.dir}/store", "--listen", f"127.0.0.1:{self.port}",
            "--socket", "none", "--state", self.dir / "state", "--log", "off",
        ]


class Distribution(Registry):
    def command(self):
        (self.dir / "config.yml").write_text(
            "version: 0.1\n"
            "log: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.dir}/store}}, cache: {{blobdescriptor: inmemory}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
        )
        return ["env", "OTEL_TRACES_EXPORTER=none", TOOLS / "bin" / self.program, "serve", "config.yml"]


class DebianRegistry(Distribution):
    name, program = "docker-registry 2.8", "docker-registry"


class DistributionV3(Distribution):
    name, program = "distribution v3", "registry"


ALL = [Cachectld, DebianRegistry, DistributionV3]
