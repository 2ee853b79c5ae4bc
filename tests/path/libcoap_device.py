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
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

COAP_PROTO_DTLS = 2
CONFIRMABLE = 0
GET, POST, PUT, DELETE = 1, 2, 3, 4
DELETED, CHANGED, CONTENT = 0x42, 0x44, 0x45
DEBUG = 7
URI_PATH = 11
USE_LIBCOAP, SINGLE_BODY = 1, 2

LONG = "".join(f"{number:03} " for number in range(1000)).encode()


class String(ctypes.Structure):
    _fields_ = [("length", c_size_t), ("text", c_void_p)]


class Address(ctypes.Structure):
    _fields_ = [("size", c_uint32), ("address", c_uint8 * 28)]


coap = ctypes.CDLL("libcoap-3-openssl.so.3")
for name, result, arguments in [
    ("coap_set_log_level", None, [c_int]),
    ("coap_set_show_pdu_output", None, [c_int]),
    ("coap_new_context", c_void_p, [c_void_p]),
    ("coap_context_set_block_mode", None, [c_void_p, c_uint8]),
    ("coap_resource_unknown_init", c_void_p, [c_void_p]),
    ("coap_register_request_handler", None, [c_void_p, c_int, c_void_p]),
    ("coap_add_resource", None, [c_void_p, c_void_p]),
    (
        "coap_new_client_session_psk",
        c_void_p,
        [c_void_p, c_void_p, c_void_p, c_int, c_char_p, c_char_p, ctypes.c_uint],
    ),
    ("coap_new_message_id", c_uint16, [c_void_p]),
    ("coap_pdu_init", c_void_p, [c_int, c_int, c_uint16, c_size_t]),
    ("coap_add_option", c_size_t, [c_void_p, c_uint16, c_size_t, c_char_p]),
    ("coap_add_data", c_int, [c_void_p, c_size_t, c_char_p]),
    ("coap_send", c_int, [c_void_p, c_void_p]),
    ("coap_io_process", c_int, [c_void_p, c_uint32]),
    ("coap_pdu_set_code", None, [c_void_p, c_int]),
    ("coap_get_uri_path", POINTER(String), [c_void_p]),
    (
        "coap_get_data_large",
        c_int,
        [c_void_p, POINTER(c_size_t), POINTER(c_void_p), POINTER(c_size_t), POINTER(c_size_t)],
    ),
    (
        "coap_add_data_large_response",
        c_int,
        [
            c_void_p,
            c_void_p,
            c_void_p,
            c_void_p,
            c_void_p,
            c_uint16,
            c_int,
            c_uint64,
            c_size_t,
            c_char_p,
            c_void_p,
            c_void_p,
        ],
    ),
]:
    function = getattr(coap, name)
    function.restype, function.argtypes = result, arguments

HANDLER = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)


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
