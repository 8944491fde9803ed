#!/usr/bin/env python3
"""A client of registries that costs next to nothing, so that what is measured is the server.

Reads a plan (JSON) from standard input and prints what it took. One thread serves all connections; bodies are sent by
`sendfile` and received with `MSG_TRUNC`, which counts bytes and drops them in the kernel. Digests are computed elsewhere,
and only `verify` looks at what came. Requests are those of BuildKit: HEAD, POST and one PUT for each blob.
"""
import hashlib
import json
import mmap
import os
import random
import resource
import select
import socket
import sys
import time

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
DROP_BYTES = 4 << 20
# Up to here a body is sent with its head.
SMALL_BYTES = 64 << 10


class Broken(Exception):
    pass


class Connection:
    """One kept-alive connection. Its methods are generators that yield what they wait for."""

    def __init__(self, plan, source):
        self.repo, self.source = plan["repo"], source
        # Credentials as a header line, for a door that asks for them.
        self.login = f"Authorization: {plan['authorization']}\r\n" if plan.get("authorization") else ""
        self.sock = socket.create_connection(("127.0.0.1", plan["port"]))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.head = bytearray(64 << 10)
        self.dropped = bytearray(DROP_BYTES)
        self.requests = self.sent = self.received = 0

    def send(self, data, flags=0):
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view, flags):]
            except BlockingIOError:
                yield WRITE

    def send_file(self, offset, length):
        end = offset + length
        while offset < end:
            try:
                offset += os.sendfile(self.sock.fileno(), self.source.file.fileno(), offset, end - offset)
            except BlockingIOError:
                yield WRITE

    def receive(self, view, flags=0):
        while True:
            try:
                count = self.sock.recv_into(view, len(view), flags)
            except BlockingIOError:
                yield READ
                continue
            if not count:
                raise Broken("the server closed the connection")
            return count

    def answer(self, method, into=None):
        """Status, Location and the length of the body, which is dropped, or given to `into`."""
        self.requests += 1
        filled, view, end = 0, memoryview(self.head), -1
        while end < 0:
            filled += yield from self.receive(view[filled:])
            end = self.head.find(b"\r\n\r\n", 0, filled)
        lines = bytes(self.head[:end]).split(b"\r\n")
        length, location = 0, b""
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"location":
                location = value.strip()
            elif name == b"transfer-encoding":
                raise Broken("a body of unknown length")
        status = int(lines[0][9:12])
        if method == "HEAD":
            return status, location, 0
        there = min(filled - end - 4, length)
        if into:
            into(self.head[end + 4:end + 4 + there])
        left = length - there
        drop = memoryview(self.dropped)
        while left:
            count = yield from self.receive(drop[:min(left, DROP_BYTES)], 0 if into else socket.MSG_TRUNC)
            if into:
                into(drop[:count])
            left -= count
        self.received += length
        return status, location, length

    def ask(self, method, path, body=b"", kind="application/octet-stream", accept="*/*", into=None):
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self.login}Accept: {accept}\r\n"
        if method in ("POST", "PUT"):
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        yield from self.send(head.encode() + b"\r\n" + body)
        return (yield from self.answer(method, into))

    def push(self, blob, again=False):
        """A blob is a range of the source file and a few bytes of its own behind it."""
        digest, offset, length, tail = blob["digest"], blob["offset"], blob["length"], bytes.fromhex(blob["tail"])
        status, _, _ = yield from self.ask("HEAD", f"/v2/{self.repo}/blobs/{digest}")
        if status == 200 and not again:
            return
        status, location, _ = yield from self.ask("POST", f"/v2/{self.repo}/blobs/uploads/")
        expect(status, 202)
        path = location.decode()
        if "://" in path:
            path = "/" + path.split("/", 3)[3]
        path += ("&" if "?" in path else "?") + f"digest={digest}"
        head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self.login}Content-Type: application/octet-stream\r\n"
        head = f"{head}Content-Length: {length + len(tail)}\r\n\r\n".encode()
        if length <= SMALL_BYTES:
            yield from self.send(head + self.source.bytes[offset:offset + length] + tail)
        else:
            yield from self.send(head, socket.MSG_MORE)
            yield from self.send_file(offset, length)
            yield from self.send(tail)
        status, _, _ = yield from self.answer("PUT")
        expect(status, 201)
        self.sent += length + len(tail)

    def pull(self, blob, verify=False):
        hasher = hashlib.sha256() if verify else None
        status, _, length = yield from self.ask(
            "GET", f"/v2/{self.repo}/blobs/{blob['digest']}", into=hasher.update if verify else None)
        expect(status, 200)
        if length != blob["length"] + len(blob["tail"]) // 2:
            raise Broken(f"{blob['digest']} came with {length} bytes")
        if verify and f"sha256:{hasher.hexdigest()}" != blob["digest"]:
            raise Broken(f"{blob['digest']} came with other bytes")


def expect(status, wanted):
    if status != wanted:
        raise Broken(f"answered {status} instead of {wanted}")


class Source:
    def __init__(self, path):
        self.file = open(path, "rb")
        self.bytes = mmap.mmap(self.file.fileno(), 0, prot=mmap.PROT_READ)


def run(tasks):
    """Runs (connection, generator) pairs side by side to their ends."""
    poll, waiting = select.epoll(), {}

    def go_on(fd, task, before):
        wants = next(task, None)
        if wants is None:
            if before:
                poll.unregister(fd)
            waiting.pop(fd, None)
            return
        if wants != before:
            (poll.modify if before else poll.register)(fd, wants)
            waiting[fd] = (task, wants)

    for connection, task in tasks:
        go_on(connection.sock.fileno(), task, None)
    while waiting:
        for fd, _ in poll.poll():
            task, before = waiting[fd]
            go_on(fd, task, before)


def work_off(connection, action, queue):
    """Takes the next blob as long as there is one."""
    while queue:
        yield from action(connection, queue.pop())


def push(plan, connections):
    queue = plan["blobs"][::-1]
    run([(c, work_off(c, Connection.push, queue)) for c in connections])
    manifest = plan.get("manifest")
    if manifest:
        kind = json.loads(manifest)["mediaType"]

        def publish(connection):
            asked = connection.ask("PUT", f"/v2/{plan['repo']}/manifests/bench", manifest.encode(), kind)
            status, _, _ = yield from asked
            expect(status, 201)

        run([(connections[0], publish(connections[0]))])


def pull(plan, connections, verify=False):
    if plan.get("manifest"):
        def resolve(connection):
            path, got = f"/v2/{plan['repo']}/manifests/bench", bytearray()
            kind = json.loads(plan["manifest"])["mediaType"]
            status, _, _ = yield from connection.ask("GET", path, accept=kind, into=got.extend)
            expect(status, 200)
            if got != plan["manifest"].encode():
                raise Broken("another manifest came")

        run([(connections[0], resolve(connections[0]))])
    queue = plan["blobs"][::-1]
    run([(c, work_off(c, lambda c, blob: c.pull(blob, verify), queue)) for c in connections])


def same(plan, connections):
    """Every connection pulls every blob."""
    run([(c, work_off(c, Connection.pull, plan["blobs"][::-1])) for c in connections])


def soak(plan, connections):
    """Half of the connections push, half pull, until the time is over; little of what is pushed is new."""
    until = time.monotonic() + plan["seconds"]
    random.seed(plan["seconds"])

    def keep(connection, action):
        while time.monotonic() < until:
            yield from action(connection)

    def push_any(connection):
        blob = random.choice(plan["blobs"])
        if blob["length"] <= SMALL_BYTES:
            content = hashlib.sha256(connection.source.bytes[blob["offset"]:blob["offset"] + blob["length"]])
            tail = random.randbytes(16)
            content.update(tail)
            blob = {**blob, "digest": f"sha256:{content.hexdigest()}", "tail": tail.hex()}
        yield from connection.push(blob, again=True)

    def pull_any(connection):
        yield from connection.pull(random.choice(plan["blobs"]))

    run([(c, keep(c, (push_any, pull_any)[number % 2])) for number, c in enumerate(connections)])


def main():
    plan = json.load(sys.stdin)
    source = Source(plan["source"])
    connections = [Connection(plan, source) for _ in range(plan["connections"])]
    work = {"push": push, "pull": pull, "same": same, "soak": soak, "verify": lambda p, c: pull(p, c, True)}[sys.argv[1]]
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    try:
        work(plan, connections)
    except Broken as error:
        sys.exit(str(error))
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "seconds": seconds,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "requests": sum(c.requests for c in connections),
        "sent": sum(c.sent for c in connections),
        "received": sum(c.received for c in connections),
    }))


if __name__ == "__main__":
    main()
