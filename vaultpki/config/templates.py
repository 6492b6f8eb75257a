"""Reads the templates of cluster.yaml from its own folder, and renders each once to find errors before the nodes do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from vaultpki import assets, redact
from vaultpki.config.fields import FieldValue
from vaultpki.errors import TemplateError
from vaultpki.model import Cluster, UserTemplate
from vaultpki.values import yaml_tree

_MOST_BYTES: Final = 64 * 1024
# The default of `--dir` when a node joins.
_DIRECTORY: Final = "/etc/kubernetes/pki"
# The syntax of other template languages: Jinja, Go and Ansible.
_FOREIGN: Final = re.compile(r"\{\{|\{%")


def read(name: str, found: FieldValue, folder: Path) -> UserTemplate:
    """Return a template, whose text every node can read in Vault.

    Raises SpecError if its file is not below `folder` after resolving links, or contains a token or a private key.
    """
    place = found["template"]
    text = place.checked(lambda path: yaml_tree.read_text(folder / path, _MOST_BYTES, below=folder))
    if redact.hide(text) != text:
        raise place.refuse(
            "the file contains a token or a private key, and every node can read a template: name another file, or "
            "remove the secret"
        )
    return UserTemplate(name, found.get("file"), text, frozenset(found.get("roles")), str(place.value))


def check(cluster: Cluster, spec: FieldValue) -> None:
    """Raise SpecError for the first template that some node could not render."""
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
    """Return a sentence for each template that looks as if it were written for another program."""
    said = []
    for template in cluster.templates:
        if found := _FOREIGN.search(template.text):
            line = template.text.count("\n", 0, found.start()) + 1
            said.append(
                f"{cluster.file}: templates.{template.name}.template: line {line} of the template has {found[0]}, "
                "which is copied unchanged; the placeholders are ${node}, ${cluster}, ${endpoint} and ${directory}"
            )
    return said
