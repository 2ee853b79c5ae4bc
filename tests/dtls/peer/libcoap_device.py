"""A device as an application on libcoap: one context, one session for as long as it runs, a confirmable POST for each line
of its standard input. It does nothing about errors but to send the next reading, as a simple application does.

    libcoap_device.py LIBRARY PORT IDENTITY KEY      LIBRARY: libcoap-3-openssl.so.3 or libcoap-3-gnutls.so.3

Prints a line a reading: the response's code, or `none` where none came within 5 s or before the session was over; and
events as `event 0x0001`.
"""

import ctypes
import socket
import struct
import sys
import time

CONFIRMABLE, POST, DTLS, URI_PATH = 0, 2, 2, 11

coap = ctypes.CDLL(sys.argv[1])
port, identity, key = int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode()
pointer = ctypes.c_void_p
for name, result, arguments in [
    ("coap_new_context", pointer, [pointer]),
    ("coap_new_client_session_psk", pointer, [pointer, pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]),
    ("coap_new_pdu", pointer, [ctypes.c_int, ctypes.c_int, pointer]),
    ("coap_add_option", ctypes.c_size_t, [pointer, ctypes.c_uint16, ctypes.c_size_t, ctypes.c_char_p]),
    ("coap_add_data", ctypes.c_int, [pointer, ctypes.c_size_t, ctypes.c_char_p]),
    ("coap_send", ctypes.c_int, [pointer, pointer]),
    ("coap_io_process", ctypes.c_int, [pointer, ctypes.c_uint32]),
    ("coap_pdu_get_code", ctypes.c_int, [pointer]),
]:
    function = getattr(coap, name)
    function.restype, function.argtypes = result, arguments

# COAP_EVENT_DTLS_CLOSED and COAP_EVENT_DTLS_ERROR.
OVER = {0x0000, 0x0200}

answers = []
events = []


@ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_int)
def answered(session, sent, received, message_id):
    answers.append(coap.coap_pdu_get_code(received))
    return 1


@ctypes.CFUNCTYPE(ctypes.c_int, pointer, ctypes.c_int)
def happened(session, event):
    events.append(event)
    print(f"event {event:#06x}", flush=True)
    return 0


coap.coap_startup()
context = coap.coap_new_context(None)
coap.coap_register_response_handler(pointer(context), answered)
coap.coap_register_event_handler(pointer(context), happened)
# coap_address_t: its length, then a sockaddr_in in room for a sockaddr_in6.
address = struct.pack("=I", 16) + struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", port, b"\x7f\0\0\1") + bytes(24)
session = coap.coap_new_client_session_psk(context, None, address, DTLS, identity, key, len(key))
if not session:
    sys.exit("no session")

for line in sys.stdin:
    reading = line.strip().encode()
    pdu = coap.coap_new_pdu(CONFIRMABLE, POST, session)
    coap.coap_add_option(pdu, URI_PATH, 1, b"t")
    coap.coap_add_data(pdu, len(reading), reading)
    answers.clear()
    events.clear()
    coap.coap_send(session, pdu)
    until = time.monotonic() + 5
    while not answers and not OVER & set(events) and time.monotonic() < until:
        coap.coap_io_process(context, 100)
    print(f"{answers[0] >> 5}.{answers[0] & 31:02}" if answers else "none", flush=True)
