"""The fast transport: the HTTP/2 and gRPC core of `armitage.transport.rpc` on asyncio sockets."""
