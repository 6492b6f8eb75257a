"""Moves a cluster to another server: all issuing CAs are rotated together, and the new ones have their keys there."""
