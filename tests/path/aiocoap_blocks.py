"""Posts three bodies at once, block-wise in one DTLS-PSK session, with aiocoap: two to one path with
different Request-Tags, one with a query. aiocoap_blocks.py URI IDENTITY KEY."""

import asyncio
import sys

from aiocoap import POST, Context, Message


async def main(uri, identity, key):
    context = await Context.create_client_context(transports=["tinydtls"])
    credentials = {"dtls": {"psk": {"ascii": key}, "client-identity": {"ascii": identity}}}
    context.client_credentials.load_from_dict({uri: credentials, uri + "?n=1": credentials})

    def post(target, fill, tag):
        request = Message(code=POST, uri=target, payload=fill * 9_000, content_format=0)
        if tag is not None:
            request.opt.request_tag = [tag]
        return asyncio.wait_for(context.request(request).response, 30)

    bodies = [post(uri, b"a", b"\x01"), post(uri, b"b", b"\x02"), post(uri + "?n=1", b"c", None)]
    responses = await asyncio.gather(*bodies)
    print(*[response.code.dotted for response in responses])


asyncio.run(main(*sys.argv[1:]))
