"""A client that sends what it is told, in one DTLS session: libcoap, by its C interface, without what it does of blocks and
observations by itself.

libcoap_client.py PORT IDENTITY KEY

A line of standard input is a request: `TYPE CODE TOKEN PATH [NUMBER=HEX…] [:PAYLOAD]`. TYPE is 0 (confirmable) or 1, CODE a
number (1: GET), TOKEN hex or `-`, NUMBER=HEX an option behind the path. `ping` sends a CoAP ping. After `forget` it knows none of its requests
any more, says so, and resets confirmable responses. libcoap writes each message that is sent or received to standard output.
"""

import ctypes
import queue
import socket
import struct
import sys
import threading
from ctypes import c_int, c_void_p

sys.dont_write_bytecode = True  # the tree of the source stays as it is

from libcoap_library import COAP_PROTO_DTLS, DEBUG, URI_PATH, coap

FAIL, OK = 0, 1

knows = [True]


@ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int)
def answered(session, sent, received, message_id):
    return OK if knows[0] else FAIL


def send(session, line):
    head, _, payload = line.partition(" :")
    kind, code, token, path, *rest = head.split()
    pdu = coap.coap_pdu_init(int(kind), int(code), coap.coap_new_message_id(session), 1152)
    token = b"" if token == "-" else bytes.fromhex(token)
    coap.coap_add_token(pdu, len(token), token)
    options = [(URI_PATH, segment.encode()) for segment in path.split("/")]
    for option in rest:
        number, _, value = option.partition("=")
        options.append((int(number), bytes.fromhex(value)))
    for number, value in sorted(options, key=lambda option: option[0]):
        coap.coap_add_option(pdu, number, len(value), value)
    if payload:
        coap.coap_add_data(pdu, len(payload.encode()), payload.encode())
    coap.coap_send(session, pdu)


def main(port, identity, key):
    coap.coap_startup()
    coap.coap_set_log_level(DEBUG)
    coap.coap_set_show_pdu_output(0)
    context = coap.coap_new_context(None)
    coap.coap_register_response_handler(context, answered)
    # coap_address_t: its length, then a sockaddr_in in room for a sockaddr_in6.
    address = struct.pack("=I", 16) + struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", int(port), b"\x7f\0\0\1")
    session = coap.coap_new_client_session_psk(
        context, None, address + bytes(24), COAP_PROTO_DTLS, identity.encode(), key.encode(), len(key)
    )
    assert session
    lines = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line.strip()) for line in sys.stdin], daemon=True).start()
    while coap.coap_io_process(context, 20) >= 0:
        while not lines.empty():
            line = lines.get()
            if line == "ping":
                coap.coap_session_send_ping(session)
            elif line == "forget":
                knows[0] = False
                print("forgotten", flush=True)
            else:
                send(session, line)


main(*sys.argv[1:])
