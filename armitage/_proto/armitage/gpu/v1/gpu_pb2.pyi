from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListGpusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGpusResponse(_message.Message):
    __slots__ = ("devices", "leases", "waiting", "why_none")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WHY_NONE_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    waiting: _containers.RepeatedCompositeFieldContainer[Waiting]
    why_none: str
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[Waiting, _Mapping]]] = ..., why_none: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("uuid", "name", "memory_mib", "sm", "driver", "cuda", "profile", "fault")
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    SM_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    CUDA_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    name: str
    memory_mib: int
    sm: int
    driver: str
    cuda: str
    profile: str
    fault: str
    def __init__(self, uuid: _Optional[str] = ..., name: _Optional[str] = ..., memory_mib: _Optional[int] = ..., sm: _Optional[int] = ..., driver: _Optional[str] = ..., cuda: _Optional[str] = ..., profile: _Optional[str] = ..., fault: _Optional[str] = ...) -> None: ...

class Need(_message.Message):
    __slots__ = ("count", "memory_mib", "sm")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    SM_FIELD_NUMBER: _ClassVar[int]
    count: int
    memory_mib: int
    sm: int
    def __init__(self, count: _Optional[int] = ..., memory_mib: _Optional[int] = ..., sm: _Optional[int] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "holder", "parts", "by_hand", "environment")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    BY_HAND_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    id: int
    holder: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    by_hand: bool
    environment: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[int] = ..., holder: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., by_hand: _Optional[bool] = ..., environment: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("uuid", "memory_mib")
    UUID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    uuid: str
    memory_mib: int
    def __init__(self, uuid: _Optional[str] = ..., memory_mib: _Optional[int] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("holder", "need")
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    holder: str
    need: str
    def __init__(self, holder: _Optional[str] = ..., need: _Optional[str] = ...) -> None: ...

class LeaseGpusRequest(_message.Message):
    __slots__ = ("need", "purpose", "held_s")
    NEED_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    HELD_S_FIELD_NUMBER: _ClassVar[int]
    need: Need
    purpose: str
    held_s: float
    def __init__(self, need: _Optional[_Union[Need, _Mapping]] = ..., purpose: _Optional[str] = ..., held_s: _Optional[float] = ...) -> None: ...

class ReleaseGpusRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ReleaseGpusResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
