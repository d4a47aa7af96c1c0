"""Carries calls to handlers. `port` is what handlers see; `grpcio` (and later transports) implement
it.
"""
