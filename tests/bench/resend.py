"""An export of 60 layers that the registry has, with 50 ms added to each request: what a warm CI run does.

A real buildkitd builds once and exports its cache twice; the second time is the row. Between it and the registry stands a
proxy that counts requests and holds each back; toxiproxy delays bytes, which is not the same with several in one packet.
"""
import json
import os
import socket
import subprocess
import threading
import time

from ground import MEMORY, TOOLS, Children, Failed, say
from registries import ALL

LAYERS, DELAY = 60, 0.05


class SlowDoor:
    """Forwards HTTP/1.1 with bodies of known length, each request after a while."""

    def __init__(self, upstream):
        self.upstream, self.seen, self.lock = upstream, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            with client, socket.create_connection(("127.0.0.1", self.upstream)) as server:
                asked, answered = client.makefile("rb"), server.makefile("rb")
                while head := read_head(asked):
                    method = head.split(b" ", 1)[0]
                    with self.lock:
                        self.seen.append(method.decode())
                    time.sleep(DELAY)
                    server.sendall(head)
                    relay(asked, server, length_of(head))
                    head = read_head(answered)
                    client.sendall(head)
                    bodiless = method == b"HEAD" or head[9:12] in (b"204", b"304")
                    relay(answered, client, 0 if bodiless else length_of(head))
        except OSError:
            # Whoever went away had what it wanted.
            pass


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


def length_of(head):
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
        if name.lower() == b"transfer-encoding":
            raise OSError("a body of unknown length")
    return 0


def relay(source, target, left):
    while left:
        piece = source.read1(min(left, 1 << 20))
        if not piece:
            raise OSError("it broke off")
        target.sendall(piece)
        left -= len(piece)


class Builder(Children):
    """A buildkitd that may speak plain HTTP to these ports, and a project of many small layers."""

    def __init__(self, bench, ports):
        super().__init__(bench.places.fresh() / "buildkitd")
        # The path of a unix socket may not be long.
        self.address = f"unix:///tmp/buildkitd-{os.getpid()}.sock"
        self.project = self.dir / "project"
        self.project.mkdir()
        (self.project / "busybox").write_bytes((TOOLS / "bin/busybox").resolve().read_bytes())
        os.chmod(self.project / "busybox", 0o755)
        steps = [f'RUN ["/bin/busybox", "sh", "-c", "echo {n} > /{n}"]' for n in range(1, LAYERS)]
        (self.project / "Dockerfile").write_text("\n".join(["FROM scratch", "COPY busybox /bin/busybox", *steps, ""]))
        doors = "".join(f'[registry."127.0.0.1:{port}"]\nhttp = true\n' for port in ports)
        (self.dir / "buildkitd.toml").write_text(
            f'root = "{self.dir}/root"\n[grpc]\naddress = ["{self.address}"]\n'
            '[worker.oci]\nnetworkMode = "host"\n[worker.containerd]\nenabled = false\n' + doors
        )
        path = f"PATH={TOOLS}/bin:{os.environ['PATH']}"
        self.start("env", path, TOOLS / "bin/buildkitd", "--config", "buildkitd.toml")
        self.until("buildkitd", lambda: subprocess.run(
            [TOOLS / "bin/buildctl", "--addr", self.address, "debug", "workers"], capture_output=True).returncode == 0)

    def export(self, port):
        """Builds and exports the cache; seconds of the export alone, as BuildKit says."""
        done = subprocess.run([
            TOOLS / "bin/buildctl", "--addr", self.address, "build", "--progress=rawjson", "--frontend=dockerfile.v0",
            f"--local=context={self.project}", f"--local=dockerfile={self.project}",
            f"--export-cache=type=registry,ref=127.0.0.1:{port}/team/app:cache,mode=max",
        ], capture_output=True, text=True, env={**os.environ, "DOCKER_CONFIG": str(self.dir)})
        if done.returncode != 0:
            raise Failed(f"buildctl: {done.stderr[-2000:]}")
        times = []
        for line in done.stderr.splitlines():
            for vertex in json.loads(line).get("vertexes") or []:
                if vertex["name"].startswith("exporting cache") and vertex.get("completed"):
                    times.append(moment(vertex["completed"]) - moment(vertex["started"]))
        return max(times)


def moment(text):
    """Seconds since midnight of an RFC 3339 time."""
    hours, minutes, seconds = text[11:].rstrip("Z").split("+")[0].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def row(bench):
    say(f"resend: {LAYERS} layers, {DELAY * 1000:.0f} ms a request")
    MEMORY.fill()
    servers = [kind(bench) for kind in ALL]
    doors = [SlowDoor(server.port) for server in servers]
    builder, best = Builder(bench, [door.port for door in doors]), {}
    try:
        for door in doors:
            builder.export(door.port)
        for turn in range(bench.options.repeat):
            for server, door in (list(zip(servers, doors)) * 2)[turn % len(ALL):][:len(ALL)]:
                door.seen.clear()
                seconds, seen = builder.export(door.port), list(door.seen)
                say(f"  {server.name}: {seconds:.2f} s, {len(seen)} requests")
                best[server.name] = min(best.get(server.name, (seconds, seen)), (seconds, seen))
    finally:
        for children in (builder, *servers):
            children.stop()
    ours, lines = best[ALL[0].name][0], []
    for server in servers:
        seconds, seen = best[server.name]
        kinds = ", ".join(f"{seen.count(kind)} {kind}" for kind in sorted(set(seen)))
        ratio = "" if server is servers[0] else f"{ours / seconds:.2f}"
        lines.append([server.name, f"{seconds:.2f}", ratio, str(len(seen)), kinds])
    return (
        f"Unchanged export of {LAYERS} layers by BuildKit, {DELAY * 1000:.0f} ms added to each request",
        ["who", "s", "ours ÷ theirs", "requests", "of them"], lines,
    )
