"""Asks a port of the machine, once.

    ask.py ping PORT [FILE]     one CoAP ping; with FILE, which is removed once it is sent: what waits for that goes on.
                                Succeeds if the answer is the reset of that ping (RFC 7252 section 4.3)
    ask.py closed PORT          succeeds if a datagram meets a closed port
    ask.py connect PORT [FILE]  one connection with an MQTT CONNECT; succeeds if it is answered with CONNACK
    ask.py fill PORT FILE FIRST readings of 1 KiB over plain CoAP, "fill N …" from N = FIRST on, until one is refused as
                                5.03: the lane is full. The numbers of those that were acknowledged are written into FILE,
                                one a line
"""

import os
import socket
import sys

what, port, *rest = sys.argv[1:]


def fill(port, file, first):
    """Eight clients at once, each with one request under way."""
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
    for client in clients:
        client.connect(("127.0.0.1", port))
        client.settimeout(20)
    number, acknowledged = first, []
    while number < first + 20_000:
        asked = []
        for client in clients:
            number += 1
            message = (number & 0xFFFF).to_bytes(2, "big")
            # Confirmable POST, Uri-Path t and fill.
            client.send(b"\x42\x02" + message + message + b"\xb1t\x04fill\xff" + f"fill {number} ".encode().ljust(1024, b"x"))
            asked.append((client, number, message))
        is_full = False
        for client, number_of, message in asked:
            answer = client.recv(64)
            assert answer[2:4] == message and answer[0] & 0x30 == 0x20, f"{number_of}: {answer.hex()}"
            if answer[1] == 0xA3:
                is_full = True
            else:
                assert answer[1] == 0x44, f"{number_of}: {answer.hex()}"
                acknowledged.append(number_of)
        if is_full:
            with open(file, "w") as written:
                written.writelines(f"{each}\n" for each in acknowledged)
            return
    sys.exit("the lane does not become full")


if what == "fill":
    fill(int(port), rest[0], int(rest[1]))
    sys.exit(0)
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
