"""An nbdkit plugin: a disk with a volatile write cache, whose content a power cut loses in part.

    nbdkit python disk.py file=IMAGE seed=TEXT report=FILE end=FILE [keeps=flushed|nothing]

A write is held in memory until FLUSH (or its own FUA); then it is in IMAGE. The end of the plugin is the power cut: of each
write that is still held all of it reaches IMAGE, or nothing, or it is torn: only its first sectors do. They are chosen one by
one, so later writes can be there without earlier ones. The choice depends on the seed and the number of the write alone.

A FLUSH takes as long as on an SD card, and is done at its end. Once the file `end` is there the power is off: no FLUSH comes to its
end any more.

keeps=nothing is a disk that lies: FLUSH does nothing, and a cut takes everything of the last seconds. It exists to show that
the loss is noticed.

At the cut, one JSON object is written to FILE.
"""

import json
import os
import random
import time

import nbdkit

API_VERSION = 2
SECTOR = 512
# Of the writes a cut finds in the cache, this part is kept as a whole; one of these, drawn for each cut.
KEPT = [0.0, 0.3, 0.6, 0.9]
# And of those that are not, this part is torn.
TORN = 0.4
# A disk that lies loses what was written within so many seconds; what is older it keeps.
LOST_S = (1.0, 4.0)

# How long a flush takes.
FLUSH_S = (0.005, 0.040)

settings = {"keeps": "flushed"}
image = -1
held = []  # (when, offset, data), in the order of writing
newest = {}  # sector: its bytes, of what is held
counts = {"writes": 0, "flushes": 0, "flushed": 0}


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def config(key, value):
    settings[key] = value


def config_complete():
    global image
    image = os.open(settings["file"], os.O_RDWR)


def open(readonly):  # noqa: A001, nbdkit's name
    return 1


def get_size(_):
    return os.fstat(image).st_size


def can_write(_):
    return True


def can_flush(_):
    return True


def can_fua(_):
    return nbdkit.FUA_NATIVE


def pread(_, buffer, offset, flags):
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        read = os.preadv(image, [view[done:]], offset + done)
        if read == 0:
            raise OSError("read past the end")
        done += read
    if newest:
        first = offset // SECTOR
        for number in range(len(view) // SECTOR):
            data = newest.get(first + number)
            if data is not None:
                view[number * SECTOR:(number + 1) * SECTOR] = data


def store(offset, data):
    done = 0
    while done < len(data):
        done += os.pwrite(image, data[done:], offset + done)


def keep_all():
    for _, offset, data in held:
        store(offset, data)
    counts["flushed"] += len(held)
    held.clear()
    newest.clear()


def retire():
    """The lying disk: what is old is on it."""
    limit = time.monotonic() - 2 * LOST_S[1]
    if held and held[0][0] < limit - 5:
        young = [write for write in held if write[0] >= limit]
        for _, offset, data in held[:len(held) - len(young)]:
            store(offset, data)
        held[:] = young
        newest.clear()
        for _, offset, data in held:
            remember(offset, data)


def remember(offset, data):
    first = offset // SECTOR
    for number in range(len(data) // SECTOR):
        newest[first + number] = data[number * SECTOR:(number + 1) * SECTOR]


def pwrite(_, buffer, offset, flags):
    data = bytes(buffer)
    counts["writes"] += 1
    lies = settings["keeps"] == "nothing"
    if flags & nbdkit.FLAG_FUA and not lies:
        first = offset // SECTOR
        if any(first + number in newest for number in range(len(data) // SECTOR)):
            # An older one of the same place may not come after it.
            keep_all()
        store(offset, data)
        return
    held.append((time.monotonic(), offset, data))
    remember(offset, data)
    if lies:
        retire()


def flush(_, flags):
    counts["flushes"] += 1
    time.sleep(random.uniform(*FLUSH_S))
    if os.path.exists(settings["end"]):
        # Nobody hears the answer.
        time.sleep(1)
        raise OSError("the power is off")
    if settings["keeps"] != "nothing":
        keep_all()


def cut():
    chance = random.Random(settings.get("seed", ""))
    fate = {"whole": 0, "torn": 0, "gone": 0}
    kept = chance.choice(KEPT)
    if settings["keeps"] == "nothing":
        limit = time.monotonic() - chance.uniform(*LOST_S)
        for when, offset, data in held:
            if when < limit:
                store(offset, data)
                fate["whole"] += 1
            else:
                fate["gone"] += 1
    else:
        for _, offset, data in held:
            # The same number of draws for each, so that the next one's fate does not depend on this one's size.
            stays, tears, part = chance.random(), chance.random(), chance.random()
            sectors = len(data) // SECTOR
            if stays < kept:
                store(offset, data)
                fate["whole"] += 1
            elif tears < TORN and sectors > 1:
                store(offset, data[:SECTOR * (1 + int(part * (sectors - 1)))])
                fate["torn"] += 1
            else:
                fate["gone"] += 1
    os.close(image)
    with os.fdopen(os.open(settings["report"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w") as report:
        json.dump({**counts, "held": len(held), **fate}, report)


def cleanup():
    cut()
