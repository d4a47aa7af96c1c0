"""GPUs: found, leased, and built for (docs/isospin.md)."""
