"""Hostile requests by all sorts of requesters for all sorts of usages, each approved by a careless administrator.

What a request, its requester and its usages break is written down for each alone; together the first rule counts.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Final

import pytest

from helpers import asked_of_signer as asked
from helpers.asked_of_signer import CLIENT_USAGES, FACTS, QUIET, SERVER_USAGES, TOKEN
from helpers.hostile_samples import NODE, NODES, samples
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING
from vaultpki.signer.rules import BrokenRule, verdict

SIGNERS: Final = (CLIENT_KUBELET, SERVING, CLIENT)

# Who asks, and what that breaks for a kubelet's client certificate and for its serving certificate.
REQUESTERS: Final = {
    "the token": (*TOKEN, "", "22"),
    "the node": (NODE, (NODES,), "", ""),
    "another node": ("system:node:w-2", (NODES,), "19", "22"),
    "an administrator": ("kubernetes-admin", ("system:masters",), "19", "22"),
    "a person who is called like the node": (NODE, ("system:authenticated",), "19", "22"),
    "a person in the group of tokens": ("mallory", ("system:bootstrappers",), "19", "22"),
    "a service account": ("system:serviceaccount:a:b", ("system:serviceaccounts",), "19", "22"),
}
# Which usages, and what they break for each signer.
USAGES: Final = {
    "a client's": (CLIENT_USAGES, "", "21", ""),
    "a client's with key encipherment": ((*CLIENT_USAGES, "key encipherment"), "", "21", ""),
    "a server's": (SERVER_USAGES, "17", "", "26"),
    "client auth alone": (("client auth",), "17", "21", ""),
    "none": ((), "17", "21", "26"),
}
TRIED: Final = ("a client's", "none")


def order(rule: str) -> tuple[int, str]:
    return int(rule.rstrip("a")), rule


def first(*rules: str) -> str:
    """The first of these rules in the order of the contract; "" if there is none."""
    return min((rule for rule in rules if rule), key=order, default="")


@cache
def every() -> list[tuple[str, str, str, str]]:
    """Each request with each requester and usage for each signer: what it is, expected, found, and the request."""
    results = []
    for at, signer in enumerate(SIGNERS):
        for sample, requester, usage in itertools.product(samples(), REQUESTERS.items(), USAGES.items()):
            unread = sample.client == sample.person and usage[0] not in TRIED
            if unread or (signer == CLIENT and requester[0] not in ("the token", "the node")):
                # What cannot be read is the same for all usages, and who asks makes no difference for people.
                continue
            who, (username, groups, *of_requester) = requester
            what, (usages, *of_usages) = usage
            asks = asked.read(asked.api_object(signer, sample.pem, username, groups, usages))
            by_requester = of_requester[at] if at < 2 else ""
            # Another one of the node's rules is about the requester's own name.
            expected = first((sample.client, sample.serving, sample.person)[at], by_requester, of_usages[at])
            found = verdict(asks, FACTS, QUIET)
            got = found.rule if isinstance(found, BrokenRule) else ""
            results.append((f"{sample.what}, by {who}, for {what} usages, of {signer}", expected, got, sample.what))
    return results


def test_each_of_thousands_meets_the_rule_that_is_expected() -> None:
    results = every()
    assert len(results) > 5_000
    assert len({each.what for each in samples()}) == len(samples()) > 100
    assert [(what, expected, got) for what, expected, got, _ in results if expected != got] == []


def test_what_is_signed_is_meant_to_be() -> None:
    signed = {(what.rpartition(" of ")[2], sample) for what, _, got, sample in every() if not got}
    assert signed == {
        (CLIENT_KUBELET, "a node"),
        (CLIENT_KUBELET, "a node with key encipherment's RSA"),
        (CLIENT_KUBELET, "a node with P-384 and SHA-384"),
        (SERVING, "a serving node"),
        (CLIENT, "a person"),
        (CLIENT, "a person in dev"),
        (CLIENT, "a person on call"),
        (CLIENT, "a person with CA:FALSE"),
    }


@pytest.mark.parametrize("signer", SIGNERS)
def test_every_rule_but_those_of_the_running_cluster_is_met(signer: str) -> None:
    rules = {got for what, _, got, _ in every() if what.endswith(signer)} - {""}
    common = {str(number) for number in range(1, 12)}
    own = {
        CLIENT_KUBELET: {"12", "13", "14", "15", "16", "17", "18", "19"},
        SERVING: {"12", "13", "14", "15", "16", "21", "22", "23", "24", "25"},
        CLIENT: {"26", "27", "28", "29", "30", "30a"},
    }
    assert rules == common | own[signer]
