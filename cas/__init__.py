"""Content-addressed storage: digests, blob stores and action caches.

Knows nothing of gRPC or protobuf.
"""
