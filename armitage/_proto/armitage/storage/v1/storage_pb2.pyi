from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as _remote_execution_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatBlobsRequest(_message.Message):
    __slots__ = ("instance_name", "digest_function", "digests")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FUNCTION_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    digest_function: _remote_execution_pb2.DigestFunction.Value
    digests: _containers.RepeatedCompositeFieldContainer[_remote_execution_pb2.Digest]
    def __init__(self, instance_name: _Optional[str] = ..., digest_function: _Optional[_Union[_remote_execution_pb2.DigestFunction.Value, str]] = ..., digests: _Optional[_Iterable[_Union[_remote_execution_pb2.Digest, _Mapping]]] = ...) -> None: ...

class StatBlobsResponse(_message.Message):
    __slots__ = ("blobs",)
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[BlobStat]
    def __init__(self, blobs: _Optional[_Iterable[_Union[BlobStat, _Mapping]]] = ...) -> None: ...

class BlobStat(_message.Message):
    __slots__ = ("digest", "presence", "lease_left_s", "holders")
    class Presence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        MISSING: _ClassVar[BlobStat.Presence]
        PRESENT: _ClassVar[BlobStat.Presence]
        REMOTE: _ClassVar[BlobStat.Presence]
    MISSING: BlobStat.Presence
    PRESENT: BlobStat.Presence
    REMOTE: BlobStat.Presence
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    digest: _remote_execution_pb2.Digest
    presence: BlobStat.Presence
    lease_left_s: float
    holders: _containers.RepeatedCompositeFieldContainer[BlobHolder]
    def __init__(self, digest: _Optional[_Union[_remote_execution_pb2.Digest, _Mapping]] = ..., presence: _Optional[_Union[BlobStat.Presence, str]] = ..., lease_left_s: _Optional[float] = ..., holders: _Optional[_Iterable[_Union[BlobHolder, _Mapping]]] = ...) -> None: ...

class BlobHolder(_message.Message):
    __slots__ = ("name", "left_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEFT_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    left_s: float
    def __init__(self, name: _Optional[str] = ..., left_s: _Optional[float] = ...) -> None: ...

class ListBlobsRequest(_message.Message):
    __slots__ = ("instance_name",)
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    def __init__(self, instance_name: _Optional[str] = ...) -> None: ...

class ListBlobsResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ("instance_name",)
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    def __init__(self, instance_name: _Optional[str] = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("blobs", "results")
    class BlobsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ResultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.ScalarMap[str, float]
    results: _containers.ScalarMap[str, float]
    def __init__(self, blobs: _Optional[_Mapping[str, float]] = ..., results: _Optional[_Mapping[str, float]] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("instance_name", "most_bytes", "garbage_share")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    MOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_SHARE_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    most_bytes: int
    garbage_share: float
    def __init__(self, instance_name: _Optional[str] = ..., most_bytes: _Optional[int] = ..., garbage_share: _Optional[float] = ...) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("evicted_bytes", "compacted_segments", "freed_bytes")
    EVICTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPACTED_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    evicted_bytes: int
    compacted_segments: int
    freed_bytes: int
    def __init__(self, evicted_bytes: _Optional[int] = ..., compacted_segments: _Optional[int] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class ScrubRequest(_message.Message):
    __slots__ = ("instance_name", "repair")
    INSTANCE_NAME_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    instance_name: str
    repair: bool
    def __init__(self, instance_name: _Optional[str] = ..., repair: _Optional[bool] = ...) -> None: ...

class ScrubProgress(_message.Message):
    __slots__ = ("done_bytes", "total_bytes", "blobs", "results", "damaged_results", "damaged", "repaired", "is_done")
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_RESULTS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    done_bytes: int
    total_bytes: int
    blobs: int
    results: int
    damaged_results: int
    damaged: _containers.RepeatedScalarFieldContainer[str]
    repaired: _containers.RepeatedScalarFieldContainer[str]
    is_done: bool
    def __init__(self, done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., blobs: _Optional[int] = ..., results: _Optional[int] = ..., damaged_results: _Optional[int] = ..., damaged: _Optional[_Iterable[str]] = ..., repaired: _Optional[_Iterable[str]] = ..., is_done: _Optional[bool] = ...) -> None: ...
