"""Actions in virtual machines of their own (docs/isospin.md)."""
