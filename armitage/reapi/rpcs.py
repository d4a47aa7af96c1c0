"""Every RPC that Armitage serves or calls: its path and message types, said once for servers and
clients alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.longrunning import operations_pb2 as longrunning
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from armitage._proto.armitage.gpu.v1 import gpu_pb2 as gpu
from armitage._proto.armitage.storage.v1 import storage_pb2 as storage
from armitage._proto.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from armitage._proto.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from armitage._proto.build.bazel.remote.logstream.v1 import remote_logstream_pb2 as logstream
from armitage._proto.google.bytestream import bytestream_pb2 as bytestream

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Req, Resp]):
    """One RPC. The stream flags say which sides send more than one message."""

    path: str
    request: type[Req]
    response: type[Resp]
    request_stream: bool = False
    response_stream: bool = False


_REAPI = "/build.bazel.remote.execution.v2."
_ASSET = "/build.bazel.remote.asset.v1."
_OPERATIONS = "/google.longrunning.Operations/"
_BYTESTREAM = "/google.bytestream.ByteStream/"

GET_CAPABILITIES = Rpc(
    _REAPI + "Capabilities/GetCapabilities", reapi.GetCapabilitiesRequest, reapi.ServerCapabilities
)

_CAS = _REAPI + "ContentAddressableStorage/"
FIND_MISSING_BLOBS = Rpc(
    _CAS + "FindMissingBlobs", reapi.FindMissingBlobsRequest, reapi.FindMissingBlobsResponse
)
BATCH_UPDATE_BLOBS = Rpc(
    _CAS + "BatchUpdateBlobs", reapi.BatchUpdateBlobsRequest, reapi.BatchUpdateBlobsResponse
)
BATCH_READ_BLOBS = Rpc(
    _CAS + "BatchReadBlobs", reapi.BatchReadBlobsRequest, reapi.BatchReadBlobsResponse
)
GET_TREE = Rpc(_CAS + "GetTree", reapi.GetTreeRequest, reapi.GetTreeResponse, response_stream=True)
SPLIT_BLOB = Rpc(_CAS + "SplitBlob", reapi.SplitBlobRequest, reapi.SplitBlobResponse)
SPLICE_BLOB = Rpc(_CAS + "SpliceBlob", reapi.SpliceBlobRequest, reapi.SpliceBlobResponse)
GET_CHUNK_MAPPING = Rpc(
    _CAS + "GetChunkMapping",
    reapi.GetChunkMappingRequest,
    reapi.GetChunkMappingResponse,
    response_stream=True,
)
REGISTER_CHUNK_MAPPING = Rpc(
    _CAS + "RegisterChunkMapping",
    reapi.RegisterChunkMappingRequest,
    reapi.RegisterChunkMappingResponse,
    request_stream=True,
)

GET_ACTION_RESULT = Rpc(
    _REAPI + "ActionCache/GetActionResult", reapi.GetActionResultRequest, reapi.ActionResult
)
UPDATE_ACTION_RESULT = Rpc(
    _REAPI + "ActionCache/UpdateActionResult", reapi.UpdateActionResultRequest, reapi.ActionResult
)

EXECUTE = Rpc(
    _REAPI + "Execution/Execute", reapi.ExecuteRequest, longrunning.Operation, response_stream=True
)
WAIT_EXECUTION = Rpc(
    _REAPI + "Execution/WaitExecution",
    reapi.WaitExecutionRequest,
    longrunning.Operation,
    response_stream=True,
)

GET_OPERATION = Rpc(
    _OPERATIONS + "GetOperation", longrunning.GetOperationRequest, longrunning.Operation
)
LIST_OPERATIONS = Rpc(
    _OPERATIONS + "ListOperations",
    longrunning.ListOperationsRequest,
    longrunning.ListOperationsResponse,
)
CANCEL_OPERATION = Rpc(
    _OPERATIONS + "CancelOperation", longrunning.CancelOperationRequest, empty_pb2.Empty
)
DELETE_OPERATION = Rpc(
    _OPERATIONS + "DeleteOperation", longrunning.DeleteOperationRequest, empty_pb2.Empty
)

READ = Rpc(
    _BYTESTREAM + "Read", bytestream.ReadRequest, bytestream.ReadResponse, response_stream=True
)
WRITE = Rpc(
    _BYTESTREAM + "Write", bytestream.WriteRequest, bytestream.WriteResponse, request_stream=True
)
QUERY_WRITE_STATUS = Rpc(
    _BYTESTREAM + "QueryWriteStatus",
    bytestream.QueryWriteStatusRequest,
    bytestream.QueryWriteStatusResponse,
)

FETCH_BLOB = Rpc(_ASSET + "Fetch/FetchBlob", asset.FetchBlobRequest, asset.FetchBlobResponse)
FETCH_DIRECTORY = Rpc(
    _ASSET + "Fetch/FetchDirectory", asset.FetchDirectoryRequest, asset.FetchDirectoryResponse
)
PUSH_BLOB = Rpc(_ASSET + "Push/PushBlob", asset.PushBlobRequest, asset.PushBlobResponse)
PUSH_DIRECTORY = Rpc(
    _ASSET + "Push/PushDirectory", asset.PushDirectoryRequest, asset.PushDirectoryResponse
)

CREATE_LOG_STREAM = Rpc(
    "/build.bazel.remote.logstream.v1.LogStreamService/CreateLogStream",
    logstream.CreateLogStreamRequest,
    logstream.LogStream,
)

_STORAGE = "/armitage.storage.v1.Storage/"
STAT_BLOBS = Rpc(_STORAGE + "StatBlobs", storage.StatBlobsRequest, storage.StatBlobsResponse)
LIST_BLOBS = Rpc(
    _STORAGE + "ListBlobs",
    storage.ListBlobsRequest,
    storage.ListBlobsResponse,
    response_stream=True,
)
GET_STATS = Rpc(_STORAGE + "GetStats", storage.GetStatsRequest, storage.GetStatsResponse)
COLLECT = Rpc(_STORAGE + "Collect", storage.CollectRequest, storage.CollectResponse)
SCRUB = Rpc(_STORAGE + "Scrub", storage.ScrubRequest, storage.ScrubProgress, response_stream=True)

_GPU = "/armitage.gpu.v1.Gpu/"
LIST_GPUS = Rpc(_GPU + "ListGpus", gpu.ListGpusRequest, gpu.ListGpusResponse)
LEASE_GPUS = Rpc(_GPU + "LeaseGpus", gpu.LeaseGpusRequest, gpu.Lease)
RELEASE_GPUS = Rpc(_GPU + "ReleaseGpus", gpu.ReleaseGpusRequest, gpu.ReleaseGpusResponse)
