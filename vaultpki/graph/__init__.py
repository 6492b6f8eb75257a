"""The picture of a cluster: who logs in to whom, with which pair, signed by which CA; as SVG, Mermaid and DOT."""
