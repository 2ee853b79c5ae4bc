"""A device that serves on the DTLS session it opened: libcoap, by its C interface.

libcoap_served.py HOST PORT IDENTITY KEY LOG

It opens a session, and serves `sensors/temp`, which may be observed and whose notifications are confirmable,
`sensors/long`, the same value 1,000 times, in blocks, and `level`, which may not be observed. Each line of standard input is a
new value of all three. Each GET that it answers is a line of LOG: its path.
"""

import os
import select
import socket
import struct
import sys
from ctypes import byref

sys.dont_write_bytecode = True  # the tree of the source stays as it is

from libcoap_library import (
    CONTENT, COAP_PROTO_DTLS, GET, HANDLER, SINGLE_BODY, USE_LIBCOAP, Address, coap,
)

NOTIFY_CONFIRMABLE = 2


def main(host, port, identity, key, log):
    coap.coap_startup()
    context = coap.coap_new_context(None)
    coap.coap_context_set_block_mode(context, USE_LIBCOAP | SINGLE_BODY)
    state = {"value": b"20", "etag": 1}
    kept = []

    def serve(path, times, observable):
        def get(resource, session, request, query, response):
            with open(log, "a") as out:
                print(path, file=out, flush=True)
            body = state["value"] * times
            kept[:] = [*kept[-8:], body]
            coap.coap_pdu_set_code(response, CONTENT)
            coap.coap_add_data_large_response(
                resource, session, request, response, query, 0, -1, state["etag"], len(body), body, None, None
            )

        handler = HANDLER(get)
        resource = coap.coap_resource_init(coap.coap_make_str_const(path.encode()), NOTIFY_CONFIRMABLE)
        coap.coap_register_request_handler(resource, GET, handler)
        coap.coap_resource_set_get_observable(resource, observable)
        coap.coap_add_resource(context, resource)
        return resource, handler

    served = [serve("sensors/temp", 1, 1), serve("sensors/long", 1000, 1), serve("level", 1, 0)]
    peer = Address()
    packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(host) + bytes(8)
    peer.size, peer.address[: len(packed)] = len(packed), list(packed)
    session = coap.coap_new_client_session_psk(
        context, None, byref(peer), COAP_PROTO_DTLS, identity.encode(), key.encode(), len(key)
    )
    assert session
    lines = b""
    while coap.coap_io_process(context, 50) >= 0:
        if not select.select([0], [], [], 0)[0]:
            continue
        part = os.read(0, 4096)
        if not part:
            return
        lines += part
        while b"\n" in lines:
            state["value"], lines = lines.split(b"\n", 1)
            state["etag"] += 1
            for resource, _ in served[:2]:
                coap.coap_resource_notify_observers(resource, None)
            coap.coap_io_process(context, 50)


main(*sys.argv[1:])
