"""A server of Hubble's API that sends 10,000 flows a second to each client, until it is killed.

usage: ui_flood.py PROTOS SOCKET

PROTOS is the folder of the proto files. Prints `ready` when SOCKET accepts connections.
"""

import itertools
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory

from hubble_client import make_stubs

RATE = 10_000
BATCH = 100


def flow(index):
    """One of some hundred flows between 60 workloads in 12 namespaces; every fifth is denied."""
    source, destination = index % 60, (index * 7 + 3) % 60
    denied = index % 5 == 0
    end = lambda number: {
        "identity": 1000 + number,
        "namespace": f"team-{number % 12}",
        "pod_name": f"app-{number}-{index % 3}",
        "workloads": [{"name": f"app-{number}", "kind": "Deployment"}],
    }
    return {
        "verdict": "DROPPED" if denied else "FORWARDED",
        "drop_reason_desc": "POLICY_DENIED" if denied else "DROP_REASON_UNKNOWN",
        "IP": {"source": f"10.0.{source}.1", "destination": f"10.0.{destination}.1"},
        "l4": {"TCP": {"source_port": 30000 + index, "destination_port": 80 + index % 4}},
        "source": end(source),
        "destination": end(destination),
        "Type": "L3_L4",
        "node_name": "node-1",
        "event_type": {"type": 1 if denied else 4},
        "is_reply": False,
        "Summary": "TCP Flags: SYN",
    }


def main():
    protos, socket = sys.argv[1:]
    make_stubs(protos)
    pool = descriptor_pool.Default()
    message = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("observer.GetFlowsResponse")
    )
    # Serialized once: the server must not be what limits the rate.
    responses = [
        json_format.ParseDict({"flow": flow(index)}, message()).SerializeToString()
        for index in range(3000)
    ]

    def get_flows(_request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        begin = time.monotonic()
        for sent, response in enumerate(itertools.cycle(responses)):
            if sent % BATCH == 0:
                seconds, nanos = divmod(time.time_ns(), 10**9)
                now = message()
                now.flow.time.seconds, now.flow.time.nanos = seconds, nanos
                now = now.SerializeToString()
            # A message that is behind another is merged with it.
            yield response + now
            if sent % BATCH == 0:
                early = begin + sent / RATE - time.monotonic()
                if ended.wait(max(0, early)):
                    return

    method = grpc.unary_stream_rpc_method_handler(get_flows)
    handlers = grpc.method_handlers_generic_handler("observer.Observer", {"GetFlows": method})
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


main()
