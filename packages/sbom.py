"""sbom.py PACKAGE --wheels FOLDER [--debian TAR]: writes PACKAGE.cdx.json, which lists what a package carries or needs.

The form is CycloneDX 1.6. Python libraries are those whose wheels are in the folder, as pip has chosen them; Debian's
packages are those of the root file system in the archive. The same package gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tarfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME: Final = "vaultpki"
_COPYRIGHT: Final = re.compile(r"usr/share/doc/([^/]+)/copyright")
# What a classifier says, by SPDX's identifier, for libraries of ours that say no more.
_OF_CLASSIFIERS: Final = {"BSD License": "BSD-3-Clause"}


def bill(package: Path, wheels: Path, debian: Path | None) -> Bom:
    """Return the bill of materials of a package in `dist`."""
    libraries: dict[str, Component] = {}
    needs: dict[str, set[str]] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        said = _metadata(wheel)
        name: str = canonicalize_name(said["Name"])
        library = libraries.setdefault(name, _library(said))
        library.hashes.add(_sha256(wheel))
        library.external_references.add(
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(wheel.name), hashes=[_sha256(wheel)])
        )
        needed = [Requirement(text) for text in said.get_all("Requires-Dist", [])]
        needs.setdefault(name, set()).update(
            canonicalize_name(each.name) for each in needed if "extra" not in str(each.marker or "")
        )
    own = libraries[NAME]
    purl = _purl(package, str(own.version))
    whole = Component(
        name=NAME,
        version=purl.version,
        type=ComponentType.CONTAINER if purl.type == "docker" else ComponentType.APPLICATION,
        bom_ref=f"package:{package.name}",
        purl=purl,
        description=own.description,
        hashes=[_sha256(package)],
        licenses=own.licenses,
    )
    system = [] if debian is None else list(_debian_packages(debian))
    if purl.type == "pypi":
        # The wheel itself: what it needs is what the whole needs.
        del libraries[NAME]
        direct = [libraries[name] for name in sorted(needs[NAME] & libraries.keys())]
    else:
        direct = [own, *system]

    bom = Bom(components=[*libraries.values(), *system])
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{next(iter(whole.hashes)).content}")
    bom.metadata.timestamp = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    bom.metadata.component = whole
    bom.register_dependency(whole, direct)
    for name, library in libraries.items():
        bom.register_dependency(library, [libraries[each] for each in sorted(needs[name] & libraries.keys())])
    return bom


def _purl(package: Path, version: str) -> PackageURL:
    if package.suffix == ".whl":
        return PackageURL("pypi", None, NAME, version)
    if package.suffix == ".deb":
        _, debian_version, architecture = package.stem.split("_")
        return PackageURL("deb", NAME, NAME, debian_version, {"arch": architecture})
    return PackageURL("docker", None, NAME, version.replace("+", "_"))


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        return Parser().parsestr(archive.read(name).decode())


def _library(said: Message) -> Component:
    purl = PackageURL("pypi", None, canonicalize_name(said["Name"]), said["Version"])
    return Component(
        name=said["Name"],
        version=said["Version"],
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        description=said["Summary"],
        licenses=_licenses(said),
    )


def _licenses(said: Message) -> list[License]:
    """Return what a library says of its license: an expression, else a short name, else a classifier."""
    classified = [
        each.rpartition(" :: ")[2] for each in said.get_all("Classifier", []) if each.startswith("License :: ")
    ]
    text = said["License-Expression"] or said["License"] or ""
    if not text or "\n" in text or len(text) > 100:
        text = " AND ".join(_OF_CLASSIFIERS.get(each, each) for each in classified)
    return [LicenseFactory().make_from_string(text)] if text else []


def _debian_packages(archive: Path) -> Iterator[Component]:
    status = ""
    copyrights: dict[str, str] = {}
    with tarfile.open(archive) as files:
        for member in files:
            name = member.name.removeprefix("./")
            if not member.isreg() or not (name == "var/lib/dpkg/status" or _COPYRIGHT.fullmatch(name)):
                continue
            content = files.extractfile(member)
            text = content.read().decode(errors="replace") if content else ""
            if found := _COPYRIGHT.fullmatch(name):
                copyrights[found[1]] = text
            else:
                status = text
    for paragraph in status.strip().split("\n\n"):
        said = Parser().parsestr(paragraph)
        if said["Status"] == "install ok installed":
            yield _debian_package(said, copyrights)


def _debian_package(said: Message, copyrights: Mapping[str, str]) -> Component:
    name, version = said["Package"], said["Version"]
    purl = PackageURL("deb", "debian", name, version, {"arch": said["Architecture"]})
    # The machine-readable form of Debian's copyright files has each license's short name after this word.
    names = re.findall(r"^License: *([^\s,]+)$", copyrights.get(name, ""), re.MULTILINE)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        licenses=[LicenseFactory().make_with_name(each) for each in sorted(set(names))],
    )


def _sha256(file: Path) -> HashType:
    with file.open("rb") as content:
        return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.file_digest(content, "sha256").hexdigest())


def main() -> None:
    """Write the bill beside the package."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--debian", type=Path)
    given = parser.parse_args()
    text = JsonV1Dot6(bill(given.package, given.wheels, given.debian)).output_as_string(indent=2)
    Path(f"{given.package}.cdx.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
