"""A client of Hubble's API with stubs that grpcio-tools makes from the proto files.

usage: hubble_client.py PROTOS TARGET METHOD REQUEST [COUNT] [CA CERTIFICATE KEY SERVER_NAME]

PROTOS is the folder of the proto files, TARGET what gRPC connects to, METHOD as
observer.Observer/GetFlows, REQUEST the request as JSON. Prints each response as a line of JSON, at
most COUNT of them (0: no limit). Prints `error CODE: DETAILS` and exits with 4 when the call fails.
"""

import importlib
import json
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_tools import protoc


def make_stubs(protos):
    """Generates and imports the stubs of all proto files."""
    out = tempfile.mkdtemp()
    files = sorted(str(p.relative_to(protos)) for p in pathlib.Path(protos).rglob("*.proto"))
    include = pathlib.Path(importlib.import_module("grpc_tools").__file__).parent / "_proto"
    arguments = [f"-I{protos}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}"]
    # The health protocol would hide the package `grpc`, so its messages are loaded only.
    health = [name for name in files if name.startswith("grpc/")]
    others = [name for name in files if name not in health]
    if protoc.main(["protoc", *arguments, *others]) != 0:
        sys.exit("protoc failed")
    descriptors = pathlib.Path(out) / "health.bin"
    set_out = [f"-I{protos}", f"--descriptor_set_out={descriptors}"]
    if protoc.main(["protoc", *set_out, *health]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, out)
    for name in others:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    from google.protobuf import descriptor_pb2

    pool = descriptor_pool.Default()
    found = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    for file in found.file:
        pool.Add(file)


def main():
    protos, target, method, request, *rest = sys.argv[1:]
    count = int(rest[0]) if rest else 0
    make_stubs(protos)
    service, name = method.split("/")
    pool = descriptor_pool.Default()
    found = pool.FindServiceByName(service).methods_by_name[name]
    make = message_factory.GetMessageClass
    request = json_format.ParseDict(json.loads(request), make(found.input_type)())
    if len(rest) > 1:
        ca, certificate, key, server_name = rest[1:]
        read = lambda path: pathlib.Path(path).read_bytes() if path else None
        credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(certificate))
        options = [("grpc.ssl_target_name_override", server_name)]
        channel = grpc.secure_channel(target, credentials, options)
    else:
        # By default it would be the encoded path of a unix socket, which is no authority (RFC 3986).
        options = [("grpc.default_authority", "localhost")]
        channel = grpc.insecure_channel(target, options)
    streams = found.server_streaming
    kind = channel.unary_stream if streams else channel.unary_unary
    call = kind(
        f"/{method}",
        request_serializer=make(found.input_type).SerializeToString,
        response_deserializer=make(found.output_type).FromString,
    )
    try:
        answered = call(request, timeout=30, wait_for_ready=False)
        for index, response in enumerate(answered if streams else [answered]):
            line = json_format.MessageToJson(
                response,
                preserving_proto_field_name=True,
                indent=None,
                always_print_fields_with_no_presence=False,
            )
            print(line, flush=True)
            if count and index + 1 == count:
                answered.cancel()
                break
    except grpc.RpcError as error:
        print(f"error {error.code().name}: {error.details()}", flush=True)
        sys.exit(4)


if __name__ == "__main__":
    main()
