"""Hostile certificate requests and a few good ones, each with the first rule that it breaks for each signer.

They are of the cluster of `asked_of_signer`: nodes `w-*` join by token, cp-1 and old-1 have agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from helpers import hostile_requests as hostile
from helpers.hostile_requests import (
    CN,
    OU,
    PRINTABLE,
    O,
    alternative,
    basic,
    dns,
    extension,
    name,
    pem,
    request_der,
    subject,
)

NODE, ALICE, NODES = "system:node:w-1", "alice@example.com", "system:nodes"
OWN = (*dns("w-1"), (0x87, bytes([10, 0, 0, 21])))


class Sample(NamedTuple):
    """A request, and the first rule that it breaks for each signer; "" is none."""

    what: str
    pem: bytes
    client: str
    serving: str
    person: str


def everywhere(what: str, made: bytes, rule: str) -> Sample:
    return Sample(what, made, rule, rule, rule)


def of_node(what: str, made: bytes, rule: str, person: str = "29") -> Sample:
    return Sample(what, made, rule, rule, person)


def plain(common_name: str, groups: Sequence[str] = (NODES,), *extensions: bytes, **how: str) -> bytes:
    return hostile.simple(common_name, groups, extensions, **how)


def named(*groups: Sequence[hostile.Name]) -> bytes:
    return pem(request_der(subject(groups)))


def serving(what: str, *names: tuple[int, bytes], rule: str) -> Sample:
    return Sample(what, plain(NODE, (NODES,), alternative(*names)), "18", rule, "27")


@cache
def samples() -> tuple[Sample, ...]:
    node = [name(O, NODES)], [name(CN, NODE)]
    good = plain(NODE)
    long = "w-" + "a" * 49
    made = [
        # What may pass somewhere.
        Sample("a node", good, "", "23", "29"),
        Sample("a node with key encipherment's RSA", plain(NODE, kind="rsa-2048"), "", "23", "29"),
        Sample("a node with P-384 and SHA-384", plain(NODE, kind="p384", hashed="sha384"), "", "23", "29"),
        Sample("a serving node", plain(NODE, (NODES,), alternative(*OWN)), "18", "", "27"),
        Sample("a person", plain(ALICE, ()), "12", "12", ""),
        Sample("a person in dev", plain(ALICE, ("dev",)), "12", "12", ""),
        Sample("a person on call", plain(ALICE, ("oncall", "dev")), "12", "12", ""),
        Sample("a person with CA:FALSE", plain(ALICE, (), basic(ca=False)), "12", "12", ""),
        # Rules 1 to 6.
        everywhere("17 KiB", plain(NODE, (NODES,), alternative(*dns("w-1." + "x" * 60) * 200)), "1"),
        everywhere("17 KiB of anything", b"-" * 17 * 1024, "1"),
        everywhere("nothing", b"", "2"),
        everywhere("text before", b"hello\n" + good, "2"),
        everywhere("text after", good + b"hello\n", "2"),
        everywhere("two blocks", good + plain("system:masters", ()), "2"),
        everywhere("headers", good.replace(b"-----\n", b"-----\nDEK-Info: x\n\n", 1), "2"),
        everywhere("a private key's label", good.replace(b"CERTIFICATE REQUEST", b"PRIVATE KEY"), "2"),
        everywhere("NEW CERTIFICATE REQUEST", good.replace(b"CERTIFICATE", b"NEW CERTIFICATE"), "2"),
        everywhere("no DER", pem(b"hello"), "3"),
        everywhere("trailing DER", pem(request_der(subject(node)) + b"\x05\x00"), "3"),
        everywhere("SAN twice", plain(NODE, (NODES,), alternative(*OWN), alternative(*dns("cp-1"))), "3"),
        everywhere("SHA-1", plain(NODE, hashed="sha1"), "4"),
        everywhere("SHA-1 with RSA", plain(ALICE, (), kind="rsa-2048", hashed="sha1"), "4"),
        everywhere("SHA-224", plain(NODE, hashed="sha224"), "4"),
        everywhere("a wrong signature", pem(request_der(subject(node), spoil=True)), "5"),
        everywhere("a wrong signature of RSA", pem(request_der(subject(node), kind="rsa-2048", spoil=True)), "5"),
        *(
            everywhere(f"{kind}, {who}", plain(who, (NODES,) if who == NODE else (), kind=kind), "6")
            for kind in ("p224", "p521", "ed25519", "rsa-1024", "rsa3", "k1")
            for who in (NODE, ALICE)
        ),
        # Rules 7 to 11.
        everywhere("O and CN in one group", named([name(O, NODES), name(CN, NODE)]), "7"),
        everywhere("two CNs in one group", named([name(O, NODES)], [name(CN, NODE), name(CN, "system:masters")]), "7"),
        everywhere("OU", named(*node, [name(OU, "x")]), "8"),
        everywhere("serialNumber", named(*node, [name(hostile.SERIAL, "1", PRINTABLE)]), "8"),
        everywhere("e-mail in the subject", named(*node, [name(hostile.EMAIL, "a@b", hostile.IA5)]), "8"),
        everywhere("UID", named([name(hostile.UID, "system:masters")], *node), "8"),
        everywhere("no CN", named([name(O, NODES)]), "9"),
        everywhere("no subject", named(), "9"),
        everywhere("two CNs", named([name(O, NODES)], [name(CN, NODE)], [name(CN, "system:node:cp-1")]), "9"),
        *(
            everywhere(f"the name {text!r}", plain(text, (NODES,)), "10")
            for text in (
                "system:node:w-1\0",
                "system:node:w-1\n",
                "system:node:\u200bw-1",
                "system:node:w-1 ",
                "system:node:w-1,x",
                "system:node:w-*",
                "system:node:w-1\\x",
                'system:node:"w-1"',
                "system:node:w-\u00fc",
                "system:node:" + "w" * 53,
                "system:node:w-1+O=system:masters ",
                "a\tb",
                "\ufeffalice@example.com",
                "alice@example.com\0",
                "alice @example.com",
            )
        ),
        everywhere("a group with NUL", plain(NODE, ("system:nodes\0",)), "10"),
        everywhere("a group with a comma", plain(ALICE, ("dev,system:masters",)), "10"),
        everywhere("an O twice", plain(NODE, (NODES, NODES)), "11"),
        # Rules 12 to 16, and what people may not be.
        of_node("no group", plain(NODE, ()), "12"),
        of_node("system:masters", plain(NODE, ("system:masters",)), "12"),
        of_node("two groups", plain(NODE, (NODES, "system:masters")), "12"),
        of_node("kubeadm:cluster-admins", plain(NODE, ("kubeadm:cluster-admins",)), "12"),
        of_node("an empty node", plain("system:node:"), "13"),
        of_node("52 characters", plain(f"system:node:{long}a"), "13"),
        of_node("capitals", plain("system:node:W-1"), "13"),
        of_node("capitals in front", plain("SYSTEM:NODE:w-1"), "13"),
        of_node("a colon", plain("system:node:w-9:x"), "13"),
        of_node("a slash", plain("system:node:w-9/x"), "13"),
        of_node("a dot at the end", plain("system:node:w-9."), "13"),
        of_node("no node", plain("system:masters"), "13"),
        of_node("a person as a node", plain(ALICE), "13", "30"),
        of_node("w-", plain("system:node:w-"), "13"),
        of_node("a CA", plain(NODE, (NODES,), basic(ca=True)), "14", "28"),
        of_node("not a CA", plain(NODE, (NODES,), basic(ca=False)), "14"),
        of_node("a strange extension", plain(NODE, (NODES,), extension("1.2.3.4", b"\5\0")), "14", "28"),
        of_node("a key usage", plain(NODE, (NODES,), extension(hostile.KEY_USAGE, b"\3\2\1\6")), "14"),
        of_node("a control plane", plain("system:node:cp-1"), "15"),
        of_node("a listed worker", plain("system:node:old-1"), "15"),
        of_node("a node of no pool", plain("system:node:v-1"), "16"),
        of_node("another domain", plain("system:node:w-9.evil.com"), "16"),
        of_node("a new control plane", plain("system:node:cp-2"), "16"),
        # Alternative names of a node.
        serving("an empty list", rule="23"),
        serving("e-mail", (0x81, b"a@b"), rule="23"),
        serving("URI", (0x86, b"spiffe://a"), rule="23"),
        serving("a good and a bad one", *OWN, (0x86, b"spiffe://a"), rule="23"),
        serving("100 names", *dns(*["w-1"] * 100), rule="23"),
        *(
            serving(f"DNS {text!r}", *OWN, *dns(text), rule="24")
            for text in (
                "cp-1",
                "w-2",
                "kubernetes.default.svc",
                "*",
                "W-1",
                "w-1.",
                "w-1.evil.com",
                "localhost",
                "w-1\0",
            )
        ),
        *(
            serving(f"address {bytes(text)!r}", *OWN, (0x87, bytes(text)), rule="25")
            for text in (
                [127, 0, 0, 1],
                [10, 96, 0, 1],
                [10, 0, 0, 11],
                [10, 0, 0, 22],
                [10, 0, 0, 10],
                [10, 0, 0, 99],
                [8, 8, 8, 8],
                [0] * 15 + [1],
                [0] * 10 + [255, 255, 10, 0, 0, 21],
                [10, 9, 0, 1],
            )
        ),
        # People.
        Sample("names of a person", plain(ALICE, (), alternative(*dns("kubernetes"))), "12", "12", "27"),
        Sample("a person's CA", plain(ALICE, (), basic(ca=True)), "12", "12", "28"),
        Sample("a person's strange extension", plain(ALICE, (), extension("1.2.3.4", b"\5\0")), "12", "12", "28"),
        *(
            Sample(f"the reserved {text}", plain(text, ()), "12", "12", "29")
            for text in (
                "system:masters",
                "system:kube-controller-manager",
                "system:kube-scheduler",
                "System:x",
                "vaultpki:signer",
                "kubernetes-admin",
                "kube-apiserver-kubelet-client",
                "probe:x",
                "cp-1",
            )
        ),
        *(
            Sample(f"groups {groups}", plain(ALICE, groups), "12", "12", "30")
            for groups in (("system:masters",), ("kubeadm:cluster-admins",), ("oncall",), ("dev", "x"), ("DEV",))
        ),
        *(
            Sample(f"the stranger {text}", plain(text, ()), "12", "12", "30a")
            for text in (
                "mallory",
                "alice@evil.com",
                "ALICE@EXAMPLE.COM",
                "@example.com",
                "alice@example.com.evil",
                "x@carol",
            )
        ),
    ]
    return tuple(made)
