"""What the published schema of cluster.yaml says of a text."""

from __future__ import annotations

import yaml

from vaultpki.config.cluster_schema import schema


def faults(text: str) -> list[str]:
    """What it refuses; nothing where it takes the text."""
    # It takes a second to import, which each worker would spend to collect the tests.
    import jsonschema

    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return [fault.message for fault in jsonschema.Draft202012Validator(made).iter_errors(yaml.safe_load(text))]
