"""An issuer of JWTs with keys of its own, and an https server that shows them, both on this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NAME = "https://issuer.example"


def encoded(data: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(key: Key, text: bytes) -> tuple[str, bytes]:
    """The `alg` for this kind of key, and its signature (RFC 7518 section 3)."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256", key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA", key.sign(text)
    r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    return "ES256", r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass
class Issuer:
    """Vouches for nodes: what it says of one stands in the token's claims."""

    key: Key = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: str = NAME
    audience: str = "vaultpki"
    claim: str = "node"

    @property
    def public_pem(self) -> str:
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return self.key.public_key().public_bytes(*form).decode()

    def claims(self, node: object, **changed: Any) -> dict[str, Any]:
        """A node's claims as of now; None in `changed` leaves a claim out."""
        now = int(time.time())
        whole = {
            "iss": self.name,
            "aud": self.audience,
            # One for all, as many an issuer has it: nothing may hang on it.
            "sub": "the nodes",
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            self.claim: node,
            **changed,
        }
        return {name: value for name, value in whole.items() if value is not None}

    def token(self, node: object, **changed: Any) -> str:
        return self.sign(self.claims(node, **changed))

    def sign(self, claims: Mapping[str, Any], *, alg: str | None = None) -> str:
        """A JWT (RFC 7519); `alg` names another algorithm than the key's: none, or an HMAC with the public key."""
        name = alg or signed(self.key, b"")[0]
        text = ".".join(
            encoded(json.dumps(part).encode()) for part in ({"alg": name, "typ": "JWT", "kid": "1"}, claims)
        )
        if name == "none":
            return f"{text}."
        if name == "HS256":
            return f"{text}.{encoded(hmac.digest(self.public_pem.encode(), text.encode(), hashlib.sha256))}"
        return f"{text}.{encoded(signed(self.key, text.encode())[1])}"

    def jwk(self) -> dict[str, str]:
        """The public key as RFC 7517 has it; of a P-256 key only."""
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        numbers = self.key.public_key().public_numbers()
        x, y = (encoded(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", "x": x, "y": y}


@contextmanager
def showing(issuer: Issuer, folder: Path) -> Iterator[str]:
    """An https server on loopback that shows the issuer's key: its URL is given, its CA is `folder`/jwks-ca.pem."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "jwks-ca.pem")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"keys": [issuer.jwk()]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class calls it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/jwks"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
