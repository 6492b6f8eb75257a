"""The templates of cluster.yaml: read from its own folder alone, and filled in once as every node will do it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from vaultpki import assets, plain
from vaultpki.config import tree
from vaultpki.config.shape import Found
from vaultpki.errors import SpecError, TemplateError
from vaultpki.model import Cluster, UserTemplate

_MOST_BYTES: Final = 64 * 1024
# Where a join puts the files, unless its `--dir` says otherwise.
_DIRECTORY: Final = "/etc/kubernetes/pki"
# What other programs' templates look like: Jinja, Go and Ansible.
_FOREIGN: Final = re.compile(r"\{\{|\{%")


def read(name: str, found: Found, folder: Path) -> UserTemplate:
    """A template, whose text every node can read in Vault.

    SpecError where its file is not below `folder`, links resolved, or holds a token or a private key.
    """
    place = found["template"]
    try:
        text = tree.read_text(folder / place.value, _MOST_BYTES, below=folder)
    except SpecError as error:
        raise place.refuse(f"{error.file}: {error.problem}") from None
    if plain.hide(text) != text:
        raise place.refuse(
            "the file holds a token or a private key, and every node can read a template: name another file, or take "
            "the secret out"
        )
    return UserTemplate(name, found.get("file"), text, frozenset(found.get("roles")))


def check(cluster: Cluster, spec: Found) -> None:
    """Raises SpecError for the first template that some node could not fill in."""
    for template in cluster.templates:
        names = [node.name for node in cluster.nodes if node.roles & template.roles]
        try:
            assets.user_file(
                template.text,
                name=template.name,
                cluster=cluster.name,
                endpoint=cluster.api_server.endpoint or "",
                directory=_DIRECTORY,
                node=max(names, key=len, default=""),
            )
        except TemplateError as error:
            raise spec["templates"][template.name]["template"].refuse(str(error)) from None


def warnings(cluster: Cluster) -> list[str]:
    """A sentence for each template that looks as if it were written for another program."""
    said = []
    for template in cluster.templates:
        if found := _FOREIGN.search(template.text):
            line = template.text.count("\n", 0, found.start()) + 1
            said.append(
                f"{cluster.file}: templates.{template.name}.template: line {line} of the template has {found[0]}, "
                "which is copied as it is; the node's values are written ${node}, ${cluster}, ${endpoint} and "
                "${directory}"
            )
    return said
