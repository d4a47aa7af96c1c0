"""gRPC over HTTP/2 without I/O: the messages, metadata and statuses of calls."""
