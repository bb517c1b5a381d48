"""Answers against references: metrics by the protocols of their owners, and the self-test of a device."""
