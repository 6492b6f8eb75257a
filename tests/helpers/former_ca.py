"""The CAs that `kubeadm init` makes, with their keys, in the forms in which people keep a key."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY_USAGE = "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"
PASSPHRASE = "a passphrase of 31 characters.."


def openssl(*words: str | Path) -> bytes:
    ran = subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout


@dataclass(frozen=True, slots=True)
class FormerCa:
    """A CA of kubeadm: its certificate and its key, mode 0600, as kubeadm leaves them."""

    crt: Path
    key: Path

    @classmethod
    def made(
        cls, folder: Path, common_name: str = "kubernetes", kind: str = "rsa:2048", usage: str = KEY_USAGE
    ) -> FormerCa:
        """A new one. It began an hour ago, as that of any cluster that lives."""
        folder.mkdir(exist_ok=True, parents=True)
        made = cls(folder / "ca.crt", folder / "ca.key")
        algorithm = ["-algorithm", *kind.split()] if ":" not in kind else ["-algorithm", "RSA"]
        if kind.startswith("rsa:"):
            algorithm += ["-pkeyopt", f"rsa_keygen_bits:{kind.partition(':')[2]}"]
        elif kind.startswith("ec:"):
            algorithm = ["-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{kind.partition(':')[2]}"]
        openssl("genpkey", *algorithm, "-out", made.key)
        made.key.chmod(0o600)
        csr = folder / "ca.csr"
        openssl("req", "-new", "-key", made.key, "-subj", f"/CN={common_name}", "-out", csr)
        extensions = folder / "ca.ext"
        extensions.write_text(f"basicConstraints=critical,CA:TRUE\n{usage}\nsubjectKeyIdentifier=hash\n")
        backdated(made, csr, extensions)
        return made

    def written(self, name: str, *words: str) -> Path:
        """The key in another form, by `openssl WORDS -in KEY -out NAME`, mode 0600."""
        path = self.key.with_name(name)
        openssl(*words, "-in", self.key, "-out", path)
        path.chmod(0o600)
        return path

    def forms(self) -> dict[str, Path]:
        """The key as PKCS#8, PKCS#1 and DER, encrypted and not."""
        secret = f"pass:{PASSPHRASE}"
        return {
            "pkcs8": self.key,
            "pkcs1": self.written("pkcs1.key", "rsa", "-traditional"),
            "pkcs1-der": self.written("pkcs1.der", "rsa", "-traditional", "-outform", "DER"),
            "pkcs8-der": self.written("pkcs8.der", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER"),
            "encrypted": self.written("encrypted.key", "pkcs8", "-topk8", "-passout", secret),
            "encrypted-der": self.written("encrypted.der", "pkcs8", "-topk8", "-outform", "DER", "-passout", secret),
            "encrypted-pkcs1": self.written("old.key", "rsa", "-traditional", "-aes256", "-passout", secret),
        }


def backdated(ca: FormerCa, csr: Path, extensions: Path) -> None:
    """Have the CA sign itself from an hour ago on: `openssl x509` of Debian 12 has no option for the beginning."""
    folder = csr.parent
    (folder / "index.txt").write_text("")
    (folder / "self.cnf").write_text(
        "[ca]\ndefault_ca=own\n[own]\n"
        f"database={folder}/index.txt\nnew_certs_dir={folder}\nrand_serial=yes\ndefault_md=sha256\npolicy=any\n"
        "[any]\ncommonName=supplied\n"
    )
    from datetime import UTC, datetime, timedelta

    start = datetime.now(UTC) - timedelta(hours=1)
    dates = ("-startdate", f"{start:%Y%m%d%H%M%SZ}", "-days", "3650")
    words = ("-selfsign", "-batch", "-notext", "-preserveDN", "-config", folder / "self.cnf", "-extfile", extensions)
    openssl("ca", *words, *dates, "-keyfile", ca.key, "-in", csr, "-out", ca.crt)
