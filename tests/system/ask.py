"""Asks a port of the machine, once.

    ask.py ping PORT [FILE]     one CoAP ping; with FILE, which is removed once it is sent: what waits for that goes on.
                                Succeeds if the answer is the reset of that ping (RFC 7252 section 4.3)
    ask.py closed PORT          succeeds if a datagram meets a closed port
    ask.py connect PORT [FILE]  one connection with an MQTT CONNECT; succeeds if it is answered with CONNACK
"""

import os
import socket
import sys

what, port, *rest = sys.argv[1:]
address = ("127.0.0.1", int(port))
kind = socket.SOCK_STREAM if what == "connect" else socket.SOCK_DGRAM
with socket.socket(socket.AF_INET, kind) as asking:
    asking.settimeout(20)
    try:
        asking.connect(address)
        if what == "connect":
            # A name that no device has: the answer says so.
            asking.send(b"\x10\x12\x00\x04MQTT\x04\x80\x00\x3c\x00\x01x\x00\x03who")
        else:
            asking.send(b"\x40\x00\x4a\x4a")
        for file in rest:
            os.remove(file)
        answer = asking.recv(64)
    except ConnectionRefusedError:
        print("the port is closed")
        sys.exit(0 if what == "closed" else 1)
    except TimeoutError:
        print("no answer")
        sys.exit(1)
print(answer.hex())
expected = {"ping": b"\x70\x00\x4a\x4a", "connect": b"\x20"}.get(what)
sys.exit(0 if expected and answer.startswith(expected) else 1)
