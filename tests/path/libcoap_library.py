"""libcoap by its C interface, for the devices and clients beside this file."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

GET, POST, PUT, DELETE = 1, 2, 3, 4
CONTENT = 0x45
COAP_PROTO_DTLS = 2
URI_PATH = 11
DEBUG = 7
# Modes of the block-wise transfer.
USE_LIBCOAP, SINGLE_BODY = 1, 2


class String(ctypes.Structure):
    _fields_ = [("length", c_size_t), ("text", c_void_p)]


class Address(ctypes.Structure):
    _fields_ = [("size", c_uint32), ("address", c_uint8 * 28)]


# Results and arguments, as coap3/*.h declare them; pointers to what is not looked into are c_void_p.
FUNCTIONS = {
    "coap_startup": (None, []),
    "coap_set_log_level": (None, [c_int]),
    "coap_set_show_pdu_output": (None, [c_int]),
    "coap_new_context": (c_void_p, [c_void_p]),
    "coap_context_set_block_mode": (None, [c_void_p, c_uint8]),
    "coap_new_client_session_psk": (
        c_void_p,
        [c_void_p, c_void_p, c_void_p, c_int, c_char_p, c_char_p, c_uint],
    ),
    "coap_session_send_ping": (c_int, [c_void_p]),
    "coap_io_process": (c_int, [c_void_p, c_uint32]),
    "coap_register_response_handler": (None, [c_void_p, c_void_p]),
    "coap_make_str_const": (c_void_p, [c_char_p]),
    "coap_resource_init": (c_void_p, [c_void_p, c_int]),
    "coap_resource_unknown_init": (c_void_p, [c_void_p]),
    "coap_resource_set_get_observable": (None, [c_void_p, c_int]),
    "coap_resource_notify_observers": (c_int, [c_void_p, c_void_p]),
    "coap_register_request_handler": (None, [c_void_p, c_int, c_void_p]),
    "coap_add_resource": (None, [c_void_p, c_void_p]),
    "coap_get_uri_path": (POINTER(String), [c_void_p]),
    "coap_get_data_large": (
        c_int,
        [c_void_p, POINTER(c_size_t), POINTER(c_void_p), POINTER(c_size_t), POINTER(c_size_t)],
    ),
    "coap_add_data_large_response": (
        c_int,
        [c_void_p] * 5 + [c_uint16, c_int, c_uint64, c_size_t, c_char_p, c_void_p, c_void_p],
    ),
    "coap_new_message_id": (c_uint16, [c_void_p]),
    "coap_pdu_init": (c_void_p, [c_int, c_int, c_uint16, c_size_t]),
    "coap_pdu_set_code": (None, [c_void_p, c_int]),
    "coap_add_token": (c_int, [c_void_p, c_size_t, c_char_p]),
    "coap_add_option": (c_size_t, [c_void_p, c_uint16, c_size_t, c_char_p]),
    "coap_add_data": (c_int, [c_void_p, c_size_t, c_char_p]),
    "coap_send": (c_int, [c_void_p, c_void_p]),
}

coap = ctypes.CDLL("libcoap-3-openssl.so.3")
for name, (result, arguments) in FUNCTIONS.items():
    function = getattr(coap, name)
    function.restype, function.argtypes = result, arguments

# What answers a request: resource, session, request, query, response.
HANDLER = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
