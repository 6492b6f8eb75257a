"""What needs attention, decided once for every view: the state of a node, why, and what expires first."""
