"""The commands on CAs: read the state of a rotation, decide by the rules of `rotation`, and make the server match."""
