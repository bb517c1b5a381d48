"""Compare answers with references: the self-test of a device."""
