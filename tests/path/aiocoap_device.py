"""A device that listens on the DTLS session it opened: aiocoap (tinydtls).

aiocoap_device.py URI IDENTITY KEY LOG

It posts a reading, then one for each line of standard input, and answers requests meanwhile. Each answer to a reading is
a line of standard output: code, payload of the reading. Each request that it
carries out is a line of LOG: method, path, payload. `set/…` keeps what it is PUT until it is DELETEd, `slow` answers after two
seconds, so that the response is separate, `made` says that it made something and where, `big` is the first of several blocks, of
`long` there are four, and everything else is 4.04.
"""

import asyncio
import sys

from aiocoap import CHANGED, CONTENT, CREATED, DELETE, DELETED, GET, NOT_FOUND, POST, Context, Message
from aiocoap.resource import Resource


class Device(Resource):
    def __init__(self, log):
        super().__init__()
        self.log = log
        self.values = {}

    async def render(self, request):
        path = "/".join(request.opt.uri_path)
        with open(self.log, "a") as log:
            print(request.code.name, path, request.payload.decode(), file=log, flush=True)
        if path == "slow":
            await asyncio.sleep(2)
            return Message(code=CONTENT if request.code == GET else CHANGED, payload=b"at last")
        if path == "made":
            response = Message(code=CREATED, payload=b"there")
            response.opt.location_path = ("location1", "location2", "location3")
            response.opt.location_query = ("first=1", "second=2")
            return response
        if path == "big":
            return Message(code=CONTENT, payload=b"x" * 512, block2=(0, True, 5))
        if path == "long":
            whole = "".join(f"{number:03} " for number in range(1000)).encode()
            number = request.opt.block2.block_number if request.opt.block2 else 0
            part, rest = whole[number * 1024 :][:1024], whole[(number + 1) * 1024 :]
            return Message(code=CONTENT, payload=part, block2=(number, bool(rest), 6), etag=b"1")
        if not path.startswith("set/"):
            return Message(code=NOT_FOUND)
        if request.code == GET:
            return Message(code=CONTENT, payload=self.values.get(path, b"none"), content_format=0)
        if request.code == DELETE:
            self.values.pop(path, None)
            return Message(code=DELETED)
        self.values[path] = request.payload
        return Message(code=CHANGED)

    def get_resources_as_linkheader(self):
        raise NotImplementedError

    async def needs_blockwise_assembly(self, request):
        return False

    # The whole tree is this one resource.
    async def render_to_pipe(self, pipe):
        pipe.add_response(await self.render(pipe.request), is_last=True)


async def main(uri, identity, key, log):
    context = await Context.create_client_context(transports=["tinydtls"])
    context.serversite = Device(log)
    context.client_credentials.load_from_dict(
        {uri + "/*": {"dtls": {"psk": {"ascii": key}, "client-identity": {"ascii": identity}}}}
    )
    kept = []

    async def post(payload):
        request = Message(code=POST, uri=uri + "/t/hello", payload=payload.encode())
        response = await asyncio.wait_for(context.request(request).response, 100)
        kept[:] = [response.remote]
        print(response.code.dotted, payload, flush=True)

    await post("hello")
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await post(line.decode().strip())


asyncio.run(main(*sys.argv[1:]))
