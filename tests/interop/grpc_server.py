"""A gRPC server without protos: `grpc_server.py PORT`. Prints a line for each call."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc


def seen(name):
    print("grpc", name, flush=True)


def unary(name):
    def handle(request, context):
        seen(name)
        return request

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(requests, context):
    seen("Stream")
    yield from requests


def server_stream(request, context):
    """As many responses as the request says."""
    seen("ServerStream")
    for index in range(int(request)):
        yield str(index).encode() * 100


def client_stream(requests, context):
    seen("ClientStream")
    return str(sum(len(request) for request in requests)).encode()


def wait(request, context):
    """Answers never, until the client has ended the call."""
    seen("Wait")
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait()
    seen("Wait ended")
    return request


HANDLERS = {
    "Unary": unary("Unary"),
    "Secret": unary("Secret"),
    "SecretStream": grpc.stream_stream_rpc_method_handler(stream),
    "Stream": grpc.stream_stream_rpc_method_handler(stream),
    "SecretServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "SecretClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
}

server = grpc.server(
    ThreadPoolExecutor(16),
    handlers=[grpc.method_handlers_generic_handler("test.Echo", HANDLERS)],
    options=[("grpc.http2.min_ping_interval_without_data_ms", 10)],
)
server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
server.start()
server.wait_for_termination()
