"""Writes YAML that every reader reads back as the same values, whichever version of YAML it knows.

A plain `y`, `on`, `1e3`, `0o17` or `12:30` is text in one version and a boolean or a number in another. kubeadm reads
YAML 1.1 with parts of 1.2 (sigs.k8s.io/yaml), Ansible 1.1, and editors 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import yaml

# Plain text that some version or parser takes for a boolean, a number, a date or nothing: YAML 1.1 (yaml.org/type) and
# YAML 1.2, chapter 10, in upper and lower case.
_OTHER_TYPE: Final = re.compile(
    r"""
    (?: y | n | yes | no | on | off | true | false | null | ~ | = | <<
      | [-+]? (?: 0[xob][0-9a-f_]+ | \.inf | \.nan
                | (?: [0-9][0-9_]* \.? [0-9_]* | \.[0-9_]* ) (?: e [-+]? [0-9]+ )?
                | [0-9][0-9_]* (?: :[0-9]+ )+ (?: \.[0-9_]* )? )
      | [0-9]{4} - [0-9]{1,2} - [0-9]{1,2} .*
    )?""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def dump(document: Any, *, every: bool = False, inline: bool = False) -> str:
    """Return a document as YAML: dicts in their order, lists, text, numbers, True, False and None.

    Text is in double quotes where some reader could take it for something else, and everywhere with `every`, except
    plain keys. `inline` writes a collection of scalars in one line.
    """
    dumper: type[_Dumper] = _Every if every else _Dumper
    # Wide, since a folded line is harder to read.
    text: str = yaml.dump(
        document, Dumper=dumper, sort_keys=False, default_flow_style=None if inline else False, width=1 << 20
    )
    return text


class _Dumper(yaml.SafeDumper):
    every = False

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat equal parts in full: programs read anchors, people do not."""
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        quote = self.every or _OTHER_TYPE.fullmatch(data) is not None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if quote else None)

    def mapping(self, data: dict[str, Any]) -> yaml.MappingNode:
        node = self.represent_mapping("tag:yaml.org,2002:map", data)
        for key, _ in node.value:
            if not _OTHER_TYPE.fullmatch(key.value):
                key.style = None
        self._lay_out(node, [value for _, value in node.value])
        return node

    def sequence(self, data: Sequence[Any]) -> yaml.SequenceNode:
        node = self.represent_sequence("tag:yaml.org,2002:seq", data)
        self._lay_out(node, node.value)
        return node

    def _lay_out(self, node: yaml.CollectionNode, below: list[yaml.Node]) -> None:
        # PyYAML writes a collection in one line only if nothing in it is quoted.
        if self.default_flow_style is None:
            node.flow_style = all(isinstance(each, yaml.ScalarNode) for each in below)


class _Every(_Dumper):
    every = True


_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_representer(dict, _Dumper.mapping)
_Dumper.add_representer(list, _Dumper.sequence)
_Dumper.add_representer(tuple, _Dumper.sequence)
_Every.add_representer(str, _Every.text)
