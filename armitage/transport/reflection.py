"""grpc.reflection.v1, and v1alpha with the same messages, as byte handlers.

Descriptors come from the protobuf pool, so whatever is answered is what the server really speaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor

from armitage._proto.grpc.reflection.v1 import reflection_pb2 as pb
from armitage.transport.port import Bidi, Call, Code, Method

SERVICE = "grpc.reflection.v1.ServerReflection"
SERVICE_ALPHA = "grpc.reflection.v1alpha.ServerReflection"

_ALPHA_FILE = "grpc/reflection/v1alpha/reflection.proto"


def services_of(methods: Iterable[Method]) -> list[str]:
    """The full names of the services that the methods belong to, sorted."""
    return sorted({method.path[1:].partition("/")[0] for method in methods})


class ReflectionService:
    """Describes the given services (full names) and itself to tools such as grpcurl."""

    def __init__(
        self,
        services: Iterable[str],
        pool: descriptor_pool.DescriptorPool | None = None,
    ) -> None:
        self._pool = pool or descriptor_pool.Default()
        self._services = sorted({*services, SERVICE, SERVICE_ALPHA})
        self._alpha = _alpha_file()

    def methods(self) -> list[Method]:
        """The methods to serve."""
        return [
            Bidi(f"/{name}/ServerReflectionInfo", self._answer_all)
            for name in (SERVICE, SERVICE_ALPHA)
        ]

    async def _answer_all(self, requests: AsyncIterator[bytes], _: Call) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self._answer(request).SerializeToString()

    def _answer(self, encoded: bytes) -> pb.ServerReflectionResponse:
        request = pb.ServerReflectionRequest.FromString(encoded)
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(request, response)
        except KeyError:
            _fail(response, Code.NOT_FOUND, "no such file, symbol or extension here")
        return response

    def _fill(
        self, request: pb.ServerReflectionRequest, response: pb.ServerReflectionResponse
    ) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                name = request.file_by_filename
                if name == _ALPHA_FILE:
                    self._add_alpha(response)
                else:
                    _add_files(response, self._pool.FindFileByName(name))
            case "file_containing_symbol":
                symbol = request.file_containing_symbol
                if symbol.startswith("grpc.reflection.v1alpha."):
                    self._add_alpha(response)
                else:
                    _add_files(response, self._file_of(symbol))
            case "file_containing_extension":
                wanted = request.file_containing_extension
                extendee = self._pool.FindMessageTypeByName(wanted.containing_type)
                extension = self._pool.FindExtensionByNumber(extendee, wanted.extension_number)
                _add_files(response, extension.file)  # type: ignore[attr-defined]  # not in stubs
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                extendee = self._pool.FindMessageTypeByName(name)
                answer = response.all_extension_numbers_response
                answer.base_type_name = name
                extensions = self._pool.FindAllExtensions(extendee)
                answer.extension_number.extend(sorted({found.number for found in extensions}))
            case _:
                _fail(response, Code.INVALID_ARGUMENT, "the request asks for nothing")

    def _file_of(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # The pool does not count methods as symbols; the protocol does.
            service, _, method = symbol.rpartition(".")
            return (
                self._pool.FindServiceByName(service)
                .methods_by_name[method]
                .containing_service.file
            )

    def _add_alpha(self, response: pb.ServerReflectionResponse) -> None:
        response.file_descriptor_response.file_descriptor_proto.append(self._alpha)


def _add_files(response: pb.ServerReflectionResponse, wanted: FileDescriptor) -> None:
    """Adds the file and everything that it imports, each once, importers before the imported."""
    imported_first: dict[str, bytes] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name not in imported_first:
            for imported in file.dependencies:
                visit(imported)
            imported_first[file.name] = file.serialized_pb

    visit(wanted)
    response.file_descriptor_response.file_descriptor_proto.extend(
        reversed(imported_first.values())
    )


def _fail(response: pb.ServerReflectionResponse, code: Code, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message


def _alpha_file() -> bytes:
    """The v1alpha descriptor: v1's, under the other package name."""
    file = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    file.name, file.package = _ALPHA_FILE, "grpc.reflection.v1alpha"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _alpha(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type = _alpha(method.input_type)
            method.output_type = _alpha(method.output_type)
    return file.SerializeToString()


def _alpha(type_name: str) -> str:
    return type_name.replace(".grpc.reflection.v1.", ".grpc.reflection.v1alpha.")
