"""A device that serves on the DTLS session it opened: aiocoap (tinydtls).

aiocoap_served.py URI IDENTITY KEY LOG

It posts a reading, and serves `sensors/temp`, which may be observed. Each line of standard input is its new value. Each GET
that it answers, and each notification, is a line of LOG.
"""

import asyncio
import sys

from aiocoap import CONTENT, POST, Context, Message
from aiocoap.resource import ObservableResource, Site


class Temperature(ObservableResource):
    def __init__(self, log):
        super().__init__()
        self.log = log
        self.value = b"20"

    async def render_get(self, request):
        with open(self.log, "a") as log:
            print("GET", request.opt.observe, self.value.decode(), file=log, flush=True)
        return Message(code=CONTENT, payload=self.value, content_format=0)


async def main(uri, identity, key, log):
    context = await Context.create_client_context(transports=["tinydtls"])
    temperature = Temperature(log)
    site = Site()
    site.add_resource(["sensors", "temp"], temperature)
    context.serversite = site
    context.client_credentials.load_from_dict(
        {uri + "/*": {"dtls": {"psk": {"ascii": key}, "client-identity": {"ascii": identity}}}}
    )
    request = Message(code=POST, uri=uri + "/t/hello", payload=b"hello")
    kept = [(await asyncio.wait_for(context.request(request).response, 100)).remote]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        temperature.value = line.strip()
        temperature.updated_state()
    del kept


asyncio.run(main(*sys.argv[1:]))
