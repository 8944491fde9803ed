#!/usr/bin/env python3
"""Evaluates NetworkPolicies as their specification says, and compares with what examples/k8s promises.

Usage: policies.py FILE...   Ends with 0 if every expectation holds, else names those that do not.

The semantics are those of networking.k8s.io/v1: a pod that no policy of a direction selects may do everything in that
direction; one that any selects may do what the union of those allows. Items of `to` and `from` are alternatives, selectors
within one item must all match. ipBlocks are for what is no pod: how a cluster treats pods' addresses in them is not defined, so
they do not count for pods here.
"""
import ipaddress
import sys

import yaml


def matches(selector, labels):
    wanted = (selector or {}).get("matchLabels", {})
    unknown = set(selector or {}) - {"matchLabels"}
    assert not unknown, f"selectors by {unknown} are not understood here"
    return all(labels.get(name) == value for name, value in wanted.items())


class Pod:
    def __init__(self, namespace, **labels):
        self.namespace = namespace
        self.labels = {name.replace("__", "/").replace("_", "-"): value for name, value in labels.items()}

    def is_peer(self, peer, policy_namespace):
        if "ipBlock" in peer:
            return False
        if "namespaceSelector" in peer:
            names = {"kubernetes.io/metadata.name": self.namespace}
            if not matches(peer["namespaceSelector"], names):
                return False
        elif self.namespace != policy_namespace:
            return False
        return matches(peer.get("podSelector"), self.labels)


class Address:
    """Something outside of the pods' network: the internet, a node, a service's address that nobody replaced."""

    namespace = None

    def __init__(self, address):
        self.address = ipaddress.ip_address(address)

    def is_peer(self, peer, _):
        block = peer.get("ipBlock")
        if not block:
            return False
        excepted = any(self.address in ipaddress.ip_network(e) for e in block.get("except", []))
        return self.address in ipaddress.ip_network(block["cidr"]) and not excepted


def allows(policies, direction, subject, other, protocol, port):
    if isinstance(subject, Address):
        return True
    side, rules = ("to", "egress") if direction == "Egress" else ("from", "ingress")
    selecting = [
        p for p in policies
        if p["metadata"]["namespace"] == subject.namespace
        and direction in p["spec"]["policyTypes"]
        and matches(p["spec"]["podSelector"], subject.labels)
    ]
    if not selecting:
        return True
    for policy in selecting:
        for rule in policy["spec"].get(rules, []):
            peers, ports = rule.get(side), rule.get("ports")
            right_port = ports is None or any(
                p.get("protocol", "TCP") == protocol and p["port"] == port for p in ports
            )
            right_peer = peers is None or any(
                other.is_peer(peer, policy["metadata"]["namespace"]) for peer in peers
            )
            if right_port and right_peer:
                return True
    return False


def reaches(policies, source, target, protocol, port):
    return allows(policies, "Egress", source, target, protocol, port) and allows(
        policies, "Ingress", target, source, protocol, port
    )


APP, EGRESS = "app.kubernetes.io__name", "cachectl__egress"
PODS = {
    "a build": Pod("ci", **{EGRESS: "cache-only"}),
    "a builder": Pod("buildkit", **{EGRESS: "cache-only"}),
    "a build with a sidecar": Pod("ci", **{EGRESS: "object-storage"}),
    "a pod without labels": Pod("ci"),
    "the cache": Pod("ci", **{APP: "cachectld"}),
    "a stranger": Pod("elsewhere", **{EGRESS: "cache-only"}),
    "the cluster's DNS": Pod("kube-system", k8s_app="kube-dns"),
    "the API server": Pod("kube-system", component="kube-apiserver"),
    "Prometheus": Pod("monitoring", **{APP: "prometheus"}),
    "a runner": Pod("ci-runners"),
    "the resolver on the node": Address("169.254.20.10"),
    "the DNS service's address": Address("10.96.0.10"),
    "another service's address": Address("10.96.0.11"),
    "object storage": Address("203.0.113.7"),
    "the metadata service": Address("169.254.169.254"),
    "a machine of the company": Address("10.1.2.3"),
}
DNS = [("UDP", 53), ("TCP", 53)]
WEB, DOOR, ADMIN = [("TCP", 443)], [("TCP", 5000)], [("TCP", 5001)]
RESOLVERS = ["the cluster's DNS", "the resolver on the node", "the DNS service's address"]
BUILDS = ["a build", "a builder"]

# source, targets, ports, whether they are reached
EXPECTED = [
    *((b, RESOLVERS, DNS, True) for b in [*BUILDS, "a build with a sidecar", "the cache", "a pod without labels"]),
    *((b, ["the cache"], DOOR, True) for b in BUILDS),
    *((b, ["the cache"], ADMIN + WEB, False) for b in BUILDS),
    *(
        (b, ["object storage", "the metadata service", "a machine of the company", "the API server", "another service's address"],
         WEB + DNS + DOOR + [("TCP", 80)], False)
        for b in BUILDS
    ),
    ("a build", ["a build", "a builder", "a pod without labels"], DOOR, False),
    ("a pod without labels", ["the cache", "object storage"], DOOR + WEB, False),
    ("a stranger", ["the cache"], DOOR + ADMIN, False),
    ("Prometheus", ["the cache"], ADMIN, True),
    ("Prometheus", ["the cache"], DOOR, False),
    ("the cache", ["object storage"], WEB, True),
    ("the cache", ["object storage"], [("TCP", 80), ("UDP", 443)], False),
    ("the cache", ["the metadata service", "a machine of the company", "the API server"], WEB + [("TCP", 80)], False),
    ("a build with a sidecar", ["object storage"], WEB, True),
    ("a build with a sidecar", ["the metadata service", "a machine of the company", "the cache"], WEB + DOOR, False),
    ("a runner", ["a builder"], [("TCP", 1234)], True),
    ("a stranger", ["a builder"], [("TCP", 1234)], False),
]


def main(files):
    policies = []
    for name in files:
        with open(name, encoding="utf-8") as file:
            policies += [d for d in yaml.safe_load_all(file) if d and d["kind"] == "NetworkPolicy"]
    wrong, checked = [], 0
    for source, targets, ports, expected in EXPECTED:
        for target in targets:
            for protocol, port in ports:
                checked += 1
                if reaches(policies, PODS[source], PODS[target], protocol, port) != expected:
                    verb = "cannot reach" if expected else "reaches"
                    wrong.append(f"{source} {verb} {target} at {protocol} {port}")
    print("\n".join(wrong) or f"{len(policies)} policies, {checked} ways: as promised")
    return 1 if wrong or not policies else 0


sys.exit(main(sys.argv[1:]))
