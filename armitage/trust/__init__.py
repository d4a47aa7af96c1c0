"""Which attestations must be there before a result is believed (docs/trust.md)."""
