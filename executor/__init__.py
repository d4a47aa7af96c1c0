"""Runs actions in sandboxes. Knows blobs (`cas`) and plain values; nothing of gRPC or protobuf."""
