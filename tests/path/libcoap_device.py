"""A device that listens on the DTLS session it opened: libcoap, by its C interface.

libcoap_device.py HOST PORT IDENTITY KEY LOG

It posts a reading, and answers requests meanwhile: GET of `long`, and POST of `both`, with 4,000 bytes, which libcoap sends in
blocks; GET of any other path with its name; PUT and POST of any other path with 2.04, DELETE with 2.02. Each request that it
carries out is a line of LOG: method, path, number of bytes, SHA-256 of the payload (its first 16 hex digits). libcoap writes each
message to standard output.
"""

import ctypes
import hashlib
import socket
import struct
import sys
from ctypes import byref, c_size_t, c_void_p

sys.dont_write_bytecode = True  # the tree of the source stays as it is

from libcoap_library import (
    CONTENT, COAP_PROTO_DTLS, DEBUG, DELETE, GET, HANDLER, POST, PUT, SINGLE_BODY, URI_PATH, USE_LIBCOAP, Address, coap,
)

CONFIRMABLE = 0
DELETED, CHANGED = 0x42, 0x44

LONG = "".join(f"{number:03} " for number in range(1000)).encode()


def main(host, port, identity, key, log):
    coap.coap_startup()
    coap.coap_set_log_level(DEBUG)
    coap.coap_set_show_pdu_output(0)
    context = coap.coap_new_context(None)
    coap.coap_context_set_block_mode(context, USE_LIBCOAP | SINGLE_BODY)

    def note(method, request):
        length, data, offset, total = c_size_t(), c_void_p(), c_size_t(), c_size_t()
        found = coap.coap_get_data_large(request, byref(length), byref(data), byref(offset), byref(total))
        payload = ctypes.string_at(data, length.value) if found else b""
        path = coap.coap_get_uri_path(request).contents
        path = ctypes.string_at(path.text, path.length).decode()
        with open(log, "a") as out:
            print(method, path, len(payload), hashlib.sha256(payload).hexdigest()[:16], file=out, flush=True)
        return path

    def handler(method, code):
        def handle(resource, session, request, query, response):
            path = note(method, request)
            coap.coap_pdu_set_code(response, code)
            if path in ("long", "both"):
                coap.coap_add_data_large_response(
                    resource, session, request, response, query, 0, -1, 1, len(LONG), LONG, None, None
                )
            elif code == CONTENT:
                coap.coap_add_data(response, len(path), path.encode())

        return HANDLER(handle)

    others = {GET: handler("GET", CONTENT), POST: handler("POST", CHANGED), DELETE: handler("DELETE", DELETED)}
    put = handler("PUT", CHANGED)
    resource = coap.coap_resource_unknown_init(put)
    for method, handle in others.items():
        coap.coap_register_request_handler(resource, method, handle)
    coap.coap_add_resource(context, resource)

    peer = Address()
    packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H", int(port)) + socket.inet_aton(host) + bytes(8)
    peer.size, peer.address[: len(packed)] = len(packed), list(packed)
    session = coap.coap_new_client_session_psk(
        context, None, byref(peer), COAP_PROTO_DTLS, identity.encode(), key.encode(), len(key)
    )
    assert session
    pdu = coap.coap_pdu_init(CONFIRMABLE, POST, coap.coap_new_message_id(session), 1152)
    for segment in [b"t", b"hello"]:
        coap.coap_add_option(pdu, URI_PATH, len(segment), segment)
    coap.coap_add_data(pdu, 5, b"hello")
    assert coap.coap_send(session, pdu) >= 0
    while coap.coap_io_process(context, 1000) >= 0:
        pass


main(*sys.argv[1:])
