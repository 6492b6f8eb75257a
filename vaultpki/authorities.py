"""Makes the CAs of a cluster: the root, and the issuing CAs that it signs, each with its key made inside the server."""

from __future__ import annotations

import time

from vaultpki.certificates import ISSUING_BACKDATE, ROOT, ROOT_BACKDATE, ca_subject
from vaultpki.errors import BadAnswer
from vaultpki.known import Fields
from vaultpki.model import Cluster
from vaultpki.observe import Sight
from vaultpki.reading import fingerprint
from vaultpki.vault import Json, Request, Vault, check_named, member, text

# More than the signing itself can take, and far less than any TTL a CA may have.
_CLOCK_SLACK = 3600

# Vault warns of these at every CA; each is what we want.
_NO_AIA = ("authority information access", "AIA configuration")
_PATHLEN = ("Max path length of the signed certificate is zero",)
# That a mount's maximum cuts a CA's life short, OpenBao says and Vault does not; we look at what was granted.
_CUT_SHORT = ("is longer than permitted maxTTL",)
_NO_DEFAULT = ("this was configured as the default issuer", "this was configured as the default key")

# What a PATCH of an issuer says; the rest is said at its making, or by its mount.
_SAID_OF_ISSUER = (
    "issuer_name",
    "leaf_not_after_behavior",
    "usage",
    "issuing_certificates",
    "crl_distribution_points",
    "ocsp_servers",
)


class Authorities:
    """The CAs of one cluster, each named by its mount."""

    def __init__(self, cluster: Cluster, vault: Vault, sight: Sight) -> None:
        self._cluster, self._vault, self._sight = cluster, vault, sight
        self._requests: dict[str, Json] = {}

    def make_root(self, mount: str, wanted: Fields) -> str:
        """Makes the root CA; gives the SHA-256 of its certificate. BadAnswer where it got less life than asked."""
        way, key = self._key_of(mount)
        answer = self._vault.write(
            f"{mount}/root/generate/{way}",
            {
                **key,
                "common_name": ca_subject(self._cluster.name, ROOT),
                "issuer_name": wanted["issuer_name"],
                "ttl": wanted["ttl"],
                "not_before_duration": ROOT_BACKDATE,
                "exclude_cn_from_sans": True,
                "format": "pem",
            },
            once=True,
            warnings=_NO_AIA + _CUT_SHORT,
        )
        data = member(answer, "data")
        check_named(data, "issuer_name", wanted["issuer_name"], f"{mount}/root/generate")
        certificate = text(data, "certificate")
        try:
            _full_term(mount, data, wanted)
        except BadAnswer:
            # Left there, it would pass for the cluster's root from the next apply on.
            for path in (f"{mount}/issuer/{text(data, 'issuer_id')}", f"{mount}/key/{text(data, 'key_id')}"):
                self._vault.call(Request("DELETE", path, warnings=_NO_DEFAULT))
            raise
        return fingerprint(certificate)

    def request(self, mount: str) -> None:
        """Has an issuing CA's key made, and its request for a certificate."""
        way, key = self._key_of(mount)
        path = f"{mount}/intermediate/generate/{way}"
        made = self._vault.write(path, {**key, **self._subject(mount)}, once=True, warnings=_NO_AIA)
        self._requests[mount] = member(made, "data")

    def make_issuing(self, mount: str, wanted: Fields) -> None:
        """Has the root sign what `request` brought, and gives the CA to its mount. Raises as `make_root`."""
        answer = self._vault.write(
            f"{self._cluster.mount(ROOT)}/root/sign-intermediate",
            {
                **self._subject(mount),
                "csr": text(self._requests[mount], "csr"),
                "ttl": wanted["ttl"],
                "max_path_length": 0,
                "not_before_duration": ISSUING_BACKDATE,
                "use_csr_values": False,
                "format": "pem",
            },
            once=True,
            warnings=_PATHLEN + _CUT_SHORT,
        )
        signed = member(answer, "data")
        _full_term(mount, signed, wanted)
        # Only the CA itself: a chain would bring the root in as a second issuer of this mount.
        answer = self._vault.write(
            f"{mount}/intermediate/set-signed",
            {"certificate": text(signed, "certificate")},
            once=True,
            warnings=_NO_AIA,
        )
        taken = member(answer, "data")
        issuers = taken.get("imported_issuers") or taken.get("existing_issuers")
        if not isinstance(issuers, list) or not issuers:
            raise BadAnswer(f"{mount} took its signed CA, but names no issuer; apply again")
        # Both servers also take a CA of another key, of which they have none (set-signed's `mapping` is empty then).
        if member(taken, "mapping").get(str(issuers[0])) != text(self._requests[mount], "key_id"):
            self._vault.call(Request("DELETE", f"{mount}/issuer/{issuers[0]}", warnings=_NO_DEFAULT))
            raise BadAnswer(
                f"the root signed another key than that of {mount}; check any proxy in between, apply again"
            )
        self._patch_issuer(mount, str(issuers[0]), {name: wanted[name] for name in _SAID_OF_ISSUER})

    def mend(self, mount: str, fields: Fields) -> None:
        """Gives these fields of a CA that is there the values wanted."""
        issuer = self._sight.issuers[mount]
        patch = {name: value for name, value in fields.items() if name in _SAID_OF_ISSUER}
        if patch:
            self._patch_issuer(mount, issuer, patch)
        if "default" in fields:
            self._vault.write(f"{mount}/config/issuers", {"default": issuer})
        if "default_key" in fields:
            key = (self._vault.read(f"{mount}/issuer/{issuer}") or {}).get("key_id")
            self._vault.write(f"{mount}/config/keys", {"default": key})

    def _subject(self, mount: str) -> Json:
        name = ca_subject(self._cluster.name, mount.rpartition("/")[2])
        return {"common_name": name, "exclude_cn_from_sans": True}

    def _patch_issuer(self, mount: str, issuer: str, fields: Fields) -> None:
        self._vault.call(Request("PATCH", f"{mount}/issuer/{issuer}", fields, merge_patch=True))

    def _key_of(self, mount: str) -> tuple[str, Json]:
        """How the CA's key comes, as the last part of the path that makes a CA, and what that is to be told of it."""
        name, key = f"{mount.rpartition('/')[2]}-1", self._cluster.authority.key
        if name not in self._sight.keys.get(mount, ()):
            return "internal", {"key_name": name, "key_type": key.vault_type, "key_bits": key.vault_bits}
        # A run that ended while or after the key was made: a second one would be left over for ever. Where the server
        # itself was cut off then, it is not the mount's default yet.
        self._vault.write(f"{mount}/config/keys", {"default": name})
        return "existing", {"key_ref": name}


def _full_term(mount: str, data: Json, wanted: Fields) -> None:
    """Raises where a CA got less life than asked: a mount's maximum caps it in silence (32 days by default)."""
    expiration = data.get("expiration")
    asked = int(wanted["ttl"])
    if not isinstance(expiration, int) or abs(expiration - time.time() - asked) > _CLOCK_SLACK:
        left = (
            "an unknown time" if not isinstance(expiration, int) else f"{int(expiration - time.time()) // 86400} days"
        )
        raise BadAnswer(
            f"the CA of {mount} was asked for {asked // 86400} days and got {left}, and was not kept; look at the "
            "mount's max_lease_ttl and at this machine's clock, and apply again"
        )
