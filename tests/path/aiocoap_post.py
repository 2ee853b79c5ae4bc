"""Posts one reading over DTLS-PSK with aiocoap (tinydtls): aiocoap_post.py URI IDENTITY KEY PAYLOAD."""

import asyncio
import sys

from aiocoap import POST, Context, Message


async def main(uri, identity, key, payload):
    context = await Context.create_client_context(transports=["tinydtls"])
    context.client_credentials.load_from_dict(
        {uri: {"dtls": {"psk": {"ascii": key}, "client-identity": {"ascii": identity}}}}
    )
    request = Message(code=POST, uri=uri, payload=payload.encode(), content_format=50)
    response = await asyncio.wait_for(context.request(request).response, 20)
    print(response.code.dotted)


asyncio.run(main(*sys.argv[1:]))
