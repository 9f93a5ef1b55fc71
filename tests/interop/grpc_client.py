"""A gRPC client without protos: `grpc_client.py ADDRESS CASE`, all calls on one channel.

Prints a status code for each call, as the case says.
"""

import sys

import grpc

BOUND = 30
OPTIONS = {
    "keepalive": [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
}

address, case = sys.argv[1:]
channel = grpc.insecure_channel(
    address, options=[("grpc.enable_http_proxy", 0), *OPTIONS.get(case, [])]
)


def call(method, request=b"request", timeout=BOUND):
    return channel.unary_unary(f"/test.Echo/{method}").future(request, timeout=timeout)


def code(future, request=b"request"):
    status = future.code()
    if status == grpc.StatusCode.OK:
        assert future.result() == request
    elif status == grpc.StatusCode.PERMISSION_DENIED:
        assert future.details() == "Access denied", future.details()
    elif status != grpc.StatusCode.DEADLINE_EXCEEDED:
        print(status, future.details(), file=sys.stderr)
    return status.name


def unary():
    for method in ["Unary", "Secret", "Unary", "Secret", "Secret", "Unary"]:
        print(code(call(method)))
    large = b"x" * 1_000_000
    for method in ["Secret", "Unary"] * 3:
        print(code(call(method, large), large))


def concurrent():
    calls = [call("Secret" if index % 3 == 2 else "Unary") for index in range(100)]
    for future in calls:
        print(code(future))


def stream():
    messages = [str(index).encode() * 100 for index in range(500)]
    for method in ["Stream", "SecretStream", "Stream"]:
        responses = channel.stream_stream(f"/test.Echo/{method}")(iter(messages), timeout=BOUND)
        try:
            assert list(responses) == messages
        except grpc.RpcError:
            pass
        print(responses.code().name)


def server_stream():
    messages = [str(index).encode() * 100 for index in range(500)]
    for method in ["ServerStream", "SecretServerStream", "ServerStream"]:
        responses = channel.unary_stream(f"/test.Echo/{method}")(b"500", timeout=BOUND)
        try:
            assert list(responses) == messages
        except grpc.RpcError:
            pass
        print(responses.code().name)


def client_stream():
    messages = [str(index).encode() * 100 for index in range(500)]
    size = str(sum(len(message) for message in messages)).encode()
    for method in ["ClientStream", "SecretClientStream", "ClientStream"]:
        future = channel.stream_unary(f"/test.Echo/{method}").future(iter(messages), timeout=BOUND)
        print(code(future, size))


def ended():
    """Calls that the client ends, among others."""
    print(code(call("Wait", timeout=0.5)))
    waiting = call("Wait")
    print(code(call("Secret")))
    waiting.cancel()
    print(waiting.code().name)
    print(code(call("Unary")))


def keepalive():
    """A call that lasts for several pings, between others."""
    print(code(call("Unary")))
    print(code(call("Wait", timeout=5)))
    print(code(call("Secret")))
    print(code(call("Unary")))


CASES = (unary, concurrent, stream, server_stream, client_stream, ended, keepalive)
{f.__name__: f for f in CASES}[case]()
