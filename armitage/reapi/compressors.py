"""The compressors on offer, by their REAPI enum value (REAPI `Compressor`)."""

from __future__ import annotations

from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from cas.compression import Codec

CODECS: dict[reapi.Compressor.Value, Codec] = {
    reapi.Compressor.ZSTD: Codec.ZSTD,
    reapi.Compressor.DEFLATE: Codec.DEFLATE,
    reapi.Compressor.BROTLI: Codec.BROTLI,
}
