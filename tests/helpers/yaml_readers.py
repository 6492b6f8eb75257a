"""Readers of YAML that differ in what plain text is: YAML 1.1 as its types say it, 1.2, and PyYAML's own."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

# yaml.org/type (bool, int, float, null, timestamp, merge, value), which PyYAML follows in part only.
_YAML_1_1: Final = (
    r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    r"~|null|Null|NULL|",
    r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+",
    r"[-+]?([0-9][0-9_]*)?\.[0-9.]*([eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*",
    r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    r"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:.*",
    r"<<|=",
)
# YAML 1.2.2, section 10.3.2, and what Go's parsers add to it: exponents and numbers with underscores.
_YAML_1_2: Final = (
    r"null|Null|NULL|~|",
    r"true|True|TRUE|false|False|FALSE",
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
    r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
    r"[-+]?0b[01_]+|[-+]?[0-9][0-9_]*|[-+]?0o[0-7_]+",
)


class _Found:
    """Plain text of another type than text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"not text: {self.text}"


def _reader(patterns: tuple[str, ...]) -> type[yaml.SafeLoader]:
    class Reader(yaml.SafeLoader):
        def other(self, node: yaml.ScalarNode) -> object:
            # Numbers and booleans that are meant as such.
            plain = {"true": True, "false": False}
            return (
                plain[node.value]
                if node.value in plain
                else int(node.value)
                if node.value.isdecimal()
                else _Found(node.value)
            )

    Reader.yaml_implicit_resolvers = {}
    Reader.add_implicit_resolver("!other", re.compile(f"(?:{'|'.join(patterns)})\\Z"), None)
    Reader.add_constructor("!other", Reader.other)
    return Reader


READERS: Final = {"1.1": _reader(_YAML_1_1), "1.2": _reader(_YAML_1_2), "PyYAML": yaml.SafeLoader}


def read(text: str) -> list[list[Any]]:
    """The documents of a text, as each of the readers has them."""
    return [list(yaml.load_all(text, Loader=reader)) for reader in READERS.values()]
