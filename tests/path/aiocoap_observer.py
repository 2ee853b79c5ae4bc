"""A device that observes paths of its own over DTLS: aiocoap (tinydtls).

aiocoap_observer.py URI IDENTITY KEY LOG PATH…

It observes each PATH and answers requests with 4.05. Each answer and notification is a line of LOG: path, code, Observe,
number of bytes, SHA-256 of the payload (its first 16 hex digits), payload if it is short. A line "get PATH" on standard
input is a plain GET, "block PATH NUMBER" one for a block of 1,024 bytes. Of "lazy:PATH" only the first block of a
notification is taken.
"""

import asyncio
import hashlib
import sys

from aiocoap import GET, Context, Message


def show(log, path, message):
    digest = hashlib.sha256(message.payload).hexdigest()[:16]
    text = message.payload.decode(errors="replace") if len(message.payload) < 40 else ""
    observe = message.opt.observe if message.opt.observe is not None else "-"
    with open(log, "a") as out:
        print(path, message.code.dotted, observe, len(message.payload), digest, text, file=out, flush=True)


async def observe(context, uri, log, path):
    is_lazy, path = path.startswith("lazy:"), path.removeprefix("lazy:")
    message = Message(code=GET, uri=uri + "/" + path, observe=0)
    request = context.request(message, handle_blockwise=not is_lazy)
    show(log, path, await asyncio.wait_for(request.response, 20))
    try:
        async for message in request.observation:
            show(log, path, message)
    except Exception as error:
        with open(log, "a") as out:
            print(path, "ended", type(error).__name__, file=out, flush=True)


async def main(uri, identity, key, log, *paths):
    context = await Context.create_client_context(transports=["tinydtls"])
    context.client_credentials.load_from_dict(
        {uri + "/*": {"dtls": {"psk": {"ascii": key}, "client-identity": {"ascii": identity}}}}
    )
    tasks = [asyncio.create_task(observe(context, uri, log, path)) for path in paths]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        word, path, *rest = line.decode().split()
        if word == "block":
            message = Message(code=GET, uri=uri + "/" + path, block2=(int(rest[0]), False, 6))
            request = context.request(message, handle_blockwise=False)
            show(log, "block:" + path, await asyncio.wait_for(request.response, 20))
        if word == "get":
            response = await asyncio.wait_for(context.request(Message(code=GET, uri=uri + "/" + path)).response, 20)
            show(log, "get:" + path, response)
    del tasks


asyncio.run(main(*sys.argv[1:]))
