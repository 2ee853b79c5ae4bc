"""A sensor that fetches its firmware over DTLS: aiocoap (tinydtls).

aiocoap_sensor.py URI IDENTITY KEY

Each line of standard input is a request, and each answer a line: code, bytes of payload, its SHA-256, ETag, whether more
blocks follow, Size2, the payload in hexadecimal if it is short.

    get PATH [ACCEPT]      a GET, all blocks of it, put together by aiocoap
    block PATH NUMBER SZX  one block
    save PATH FILE         as get, and the body into a file
    post PATH TEXT         a reading in JSON
    cbor PATH HEX          a reading in CBOR
"""

import asyncio
import hashlib
import sys

from aiocoap import GET, POST, Context, Message


def line(response):
    payload, block = response.payload, response.opt.block2
    return " ".join((
        response.code.dotted,
        str(len(payload)),
        hashlib.sha256(payload).hexdigest(),
        (response.opt.etag or b"").hex() or "-",
        str(bool(block and block.more)).lower(),
        str(response.opt.size2 or "-"),
        payload.hex() if len(payload) < 300 else "-",
    ))


async def main(uri, identity, key):
    context = await Context.create_client_context(transports=["tinydtls"])
    credentials = {"dtls": {"psk": {"ascii": key}, "client-identity": {"ascii": identity}}}
    context.client_credentials.load_from_dict({uri + "/*": credentials})
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while command := await reader.readline():
        word, path, *rest = command.decode().split()
        request = Message(code=POST if word in ("post", "cbor") else GET, uri=f"{uri}/{path}")
        if word == "block":
            request.opt.block2 = (int(rest[0]), False, int(rest[1]))
            request.opt.size2 = 0
        elif word == "get" and rest:
            request.opt.accept = int(rest[0])
        elif word == "post":
            request.payload, request.opt.content_format = " ".join(rest).encode(), 50
        elif word == "cbor":
            request.payload, request.opt.content_format = bytes.fromhex(rest[0]), 60
        response = context.request(request, handle_blockwise=word != "block").response
        response = await asyncio.wait_for(response, 120)
        if word == "save":
            with open(rest[0], "wb") as file:
                file.write(response.payload)
        print(line(response), flush=True)


asyncio.run(main(*sys.argv[1:]))
