"""The transparency log: a Merkle tree in C2SP tlog-tiles form, with signed checkpoints."""
