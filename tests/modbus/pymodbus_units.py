"""Units on a serial line, by pymodbus: pymodbus_units.py PORT. Says `ready` and serves until it is ended.

With a second argument they are behind a converter that listens on the TCP port PORT: `rtu` passes the line's
bytes on, `socket` is Modbus TCP. They have no faults there.

unit 1         all four tables, always answers
unit 2         every third answer has a wrong checksum
unit 3         every fourth answer comes 700 ms late; its holding registers count its requests
unit 4         every fourth answer does not come at all
unit 5         has only holding registers 0 to 4 and 8 to 9, and no others
unit 6         its holding registers count its requests; always answers
units 11 to 17 one holding register each
All other units are silent.
"""

import asyncio
import os
import sys

from pymodbus.framer import FramerRTU, FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

counts = {}


def words(address, values):
    return SimData(address, values=values, datatype=DataType.REGISTERS)


def bits(address, values):
    return SimData(address, values=values, datatype=DataType.BITS)


def device(unit, holding, inputs=None, coils=None, discrete=None):
    blocks = (
        coils or [bits(0, [False] * 16)],
        discrete or [bits(0, [False] * 16)],
        holding,
        inputs or [words(0, [0])],
    )
    return SimDevice(unit, simdata=blocks)


def with_checksum(body):
    return body + FramerRTU.compute_CRC(body).to_bytes(2, "big")


def spoil(port, units):
    """What happens to each packet on its way out."""
    late = os.open(port, os.O_WRONLY | os.O_NOCTTY)

    def packet(sending, data):
        if not sending or not data:
            return data
        unit = data[0]
        # pymodbus answers exception 4 for a unit it does not have, where a real line is silent.
        if unit not in units:
            return b""
        counts[unit] = count = counts.get(unit, 0) + 1
        if unit == 2 and count % 3 == 0:
            return data[:-1] + bytes([data[-1] ^ 0x40])
        if unit in (3, 6) and data[1] == 3:
            data = with_checksum(data[:3] + count.to_bytes(2, "big") * (data[2] // 2))
        if unit == 3 and count % 4 == 0:
            asyncio.get_running_loop().call_later(0.7, os.write, late, data)
            return b""
        if unit == 4 and count % 4 == 0:
            return b""
        return data

    return packet


async def main(port, framer=None):
    devices = [
        device(
            1,
            holding=[words(100, [0x4366, 0x1A9F, 0xFFFE, 1, 2, 3]), words(200, [0x544F, 0x4D42, 0x4F4C, 0x4F00])],
            inputs=[words(0, [0, 0x0001, 0xE240, 0x8000])],
            coils=[bits(0, [True, False, True, True] + [False] * 8 + [True] * 4)],
            discrete=[bits(0, [False, True] * 8)],
        ),
        device(2, [words(0, [22] * 10)]),
        device(3, [words(0, [33] * 10)]),
        device(4, [words(0, [44] * 10)]),
        device(5, [words(0, [50, 51, 52, 53, 54]), words(8, [58, 59])]),
        device(6, [words(0, [66] * 10)]),
        *(device(unit, [words(0, [unit] * 10)]) for unit in range(11, 18)),
    ]
    if framer:
        server = ModbusTcpServer(
            devices, framer=FramerType(framer), address=("127.0.0.1", int(port)), ignore_missing_devices=True
        )
    else:
        server = ModbusSerialServer(
            devices,
            port=port,
            baudrate=19200,
            ignore_missing_devices=True,
            trace_packet=spoil(port, {device.id for device in devices}),
        )
    await server.serve_forever(background=True)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
