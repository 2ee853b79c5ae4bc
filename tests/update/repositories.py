#!/usr/bin/env python3
"""TUF repositories signed by python-tuf, and a server that serves them over HTTPS; the first folder of a path says which.

    repositories.py FOLDER

It makes its CA and the repositories in FOLDER, listens on a free port of 127.0.0.1, prints the port, and ends when its
standard input does. FOLDER gets ca.pem (the CA of the server), other-ca.pem (a CA of somebody else), root.json (what a
gateway is delivered with), two-of-two.json (the same, with two keys for the targets) and the repositories.

Metadata expires in 2090, but for timestamps, which expire on 2027-01-01: tests bring their own clock.
"""

import copy
import datetime
import hashlib
import http.server
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import threading

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

FOLDER = sys.argv[1]
STOP = threading.Event()
YEARS = datetime.datetime(2090, 1, 1, tzinfo=datetime.timezone.utc)
SOON = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)
ROLES = ("root", "timestamp", "snapshot", "targets")
KEYS = {name: CryptoSigner.generate_ed25519() for name in (*ROLES, "second", "new-root", "new-timestamp", "stranger")}
SERIALIZER = JSONSerializer(compact=True)


def signed(metadata, *keys):
    metadata.signatures.clear()
    for key in keys:
        metadata.sign(KEYS[key], append=True)
    return metadata.to_bytes(SERIALIZER)


def root_of(version=1, targets=("targets",), threshold=1, expires=YEARS, **replaced):
    """The root of these keys, not yet signed. `replaced`: the keys of roles that have another one."""
    root = Root(version=version, expires=expires, consistent_snapshot=True)
    for role in ROLES:
        for key in targets if role == "targets" else (replaced.get(role, role),):
            root.add_key(KEYS[key].public_key, role)
    root.roles["targets"].threshold = threshold
    return Metadata(root)


# The images of firmware, by the names of their files.
IMAGES = {}


def firmware(version, size=0, content=None, **custom):
    content = content or f"firmware {version}".encode().ljust(size, b".")
    custom = {"class": "gateway", "version": version, "version-scheme": "semver", **custom}
    target = TargetFile.from_data(f"gateway-{version}.bin", content, ["sha256"])
    target.unrecognized_fields["custom"] = {"tombolo": custom}
    IMAGES[f"{hashlib.sha256(content).hexdigest()}.gateway-{version}.bin"] = content
    return target


def sensor(version, head=b"", **custom):
    """256 KiB for the sensors of the class door, which begin with `head`."""
    content = head + random.Random(version).randbytes(256 * 1024 - len(head))
    target = TargetFile.from_data(f"door-{version}.bin", content, ["sha256"])
    target.unrecognized_fields["custom"] = {"tombolo": {"class": "door", "version": version, "version-scheme": "semver", **custom}}
    IMAGES[f"{hashlib.sha256(content).hexdigest()}.door-{version}.bin"] = content
    return target


def repository(roots=(), timestamp=1, snapshot=1, targets=1, offers=("2.0.0",), keys=None, hashes=True, soon=SOON, years=YEARS, delegated=()):
    """The files of a repository. `roots`: bytes of 2.root.json and so on; `keys`: what each role is signed by;
    `delegated`: names of roles that have no target."""
    keys = {"timestamp": ("timestamp",), "snapshot": ("snapshot",), "targets": ("targets",), **(keys or {})}
    offers = [offer if isinstance(offer, TargetFile) else firmware(offer) for offer in offers]
    listed = Targets(version=targets, expires=years, targets={offer.path: offer for offer in offers})
    files = {f"{number + 2}.root.json": content for number, content in enumerate(roots)}

    def meta(version, content):
        return MetaFile.from_data(version, content, ["sha256"]) if hashes else MetaFile(version)

    if delegated:
        key = KEYS["targets"].public_key
        roles = {name: DelegatedRole(name, [key.keyid], 1, False, paths=["x*"]) for name in delegated}
        listed.delegations = Delegations({key.keyid: key}, roles)
        files |= {f"1.{name}.json": signed(Metadata(Targets(1, expires=years)), "targets") for name in delegated}
    content = files[f"{targets}.targets.json"] = signed(Metadata(listed), *keys["targets"])
    content = signed(Metadata(Snapshot(snapshot, expires=years, meta={"targets.json": meta(targets, content), **{f"{name}.json": MetaFile(1) for name in delegated}})), *keys["snapshot"])
    files[f"{snapshot}.snapshot.json"] = content
    content = signed(Metadata(Timestamp(timestamp, expires=soon, snapshot_meta=meta(snapshot, content))), *keys["timestamp"])
    files["timestamp.json"] = content
    return files


def edited(files, name, old, new):
    assert old in files[name], name
    return {**files, name: files[name].replace(old, new)}


def repositories():
    first = repository()
    second = {"timestamp": 3, "snapshot": 2, "targets": 2, "offers": ("2.0.0", "2.1.0")}
    newer = repository(**second)
    yield "first", first
    yield "newer", newer
    # Everything in these is signed by the right keys.
    yield "older-timestamp", repository(**{**second, "timestamp": 2})
    yield "older-snapshot", repository(**{**second, "timestamp": 4, "snapshot": 1})
    yield "older-targets", repository(**{**second, "timestamp": 4, "snapshot": 3, "targets": 1})
    yield "signed-anew", repository(**{**second, "timestamp": 4, "soon": YEARS})
    yield "targets-expired", repository(**{**second, "soon": YEARS, "years": SOON})
    yield "other-product", repository(offers=(firmware("3.0.0", compatible="another"),))
    # Signed as a repository is today: for a month.
    month = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(30)
    yield "this-month", repository(**{**second, "soon": month, "years": month})
    yield "this-month-before", repository(soon=month, years=month)
    weeks = month - datetime.timedelta(10)
    yield "root-ends", repository(roots=(signed(root_of(2, expires=weeks), "root"),), soon=month, years=month)
    # Of a size that comes in pieces.
    yield "large", repository(offers=(firmware("3.0.0", size=200_000),), soon=YEARS)
    # For sensors: one version after the other is published.
    for number in (1, 2, 3):
        versions = [sensor(f"{version}.0.0") for version in range(1, number + 1)]
        yield f"sensors-{number}", repository(timestamp=number, snapshot=number, targets=number, offers=versions, soon=YEARS)
    # A SUIT envelope is CBOR with tag 107 around a map; the other one only looks like it further in.
    envelope, other = sensor("5.0.0", b"\xd8\x6b\xa2\x02"), sensor("6.0.0", b"\xa2\xd8\x6b\x02")
    yield "sensors-suit-1", repository(offers=(envelope,), soon=YEARS)
    yield "sensors-suit-2", repository(timestamp=2, snapshot=2, targets=2, offers=(envelope, other), soon=YEARS)
    # Of no size that a disk has.
    huge = firmware("3.0.0")
    huge.length = 2**62
    yield "huge", repository(offers=(huge,), soon=YEARS)
    if content := bundle("3.0.0"):
        yield "bundle", repository(offers=(firmware("3.0.0", content=content),))
    yield "expired", repository(soon=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc))
    yield "unusable", repository(offers=(firmware("3.0.0", rollout="all"),))
    evil = firmware("9.0.0")
    evil.path = "../../gateway-9.0.0.bin"
    yield "outside", repository(offers=(evil,))
    # Nothing in these is to be believed.
    for role in ROLES[1:]:
        yield f"{role}-of-a-stranger", repository(keys={role: ("stranger",)})
        yield f"{role}-not-signed", repository(keys={role: ()})
    yield "timestamp-edited", edited(newer, "timestamp.json", b'"version":3', b'"version":9')
    yield "snapshot-edited", edited(newer, "2.snapshot.json", b'"version":2}', b'"version":3}')
    yield "targets-edited", edited(repository(hashes=False), "1.targets.json", b'"version":"2.0.0"', b'"version":"9.0.0"')
    # The listed hash is of other bytes, of the same length: the firmware is of the same key, and another one.
    yield "wrong-bytes", {**newer, "2.targets.json": repository(**{**second, "offers": ("2.0.0", "2.1.7")})["2.targets.json"]}
    unhashed = repository(**second, hashes=False)
    yield "mixed-targets", {**unhashed, "2.targets.json": first["1.targets.json"]}
    yield "mixed-snapshot", {**unhashed, "2.snapshot.json": first["1.snapshot.json"]}
    yield "targets-missing", {name: content for name, content in newer.items() if name != "2.targets.json"}
    yield "no-json", {**newer, "timestamp.json": b"<html>Please log in to the hotel's network</html>"}
    yield "deep-json", {**newer, "timestamp.json": b"[" * 8_000}
    yield "long-timestamp", {**newer, "timestamp.json": newer["timestamp.json"] + b" " * 20_000}
    # Roots.
    rotated = signed(root_of(2, root="new-root", timestamp="new-timestamp"), "root", "new-root")
    renewed = {"timestamp": ("new-timestamp",)}
    yield "rotated", repository(roots=(rotated,), keys=renewed)
    # The root key that was replaced there goes on by itself, from the same first root.json.
    forged = [signed(root_of(number, timestamp="stranger"), "root") for number in range(2, 9)]
    yield "forked", repository(roots=forged, keys={"timestamp": ("stranger",)}, timestamp=9, snapshot=9, targets=9, offers=("9.0.0",), soon=YEARS)
    yield "rotated-for-years", repository(roots=(rotated,), keys=renewed, soon=YEARS)
    # Signed once more by another root key, and written otherwise: what is signed is the same.
    content = json.loads(rotated)
    content["signatures"].reverse()
    yield "rotated-again", repository(roots=(json.dumps(content, indent=1).encode(), signed(root_of(3, root="new-root", timestamp="new-timestamp"), "new-root")), keys=renewed)
    yield "roots-withdrawn", repository(keys=renewed)
    yield "stolen-timestamp-key", repository(timestamp=2**62)
    yield "revoked-timestamp-key", repository(roots=(rotated,), timestamp=9)
    # Of another owner, or of this one after the root key was stolen: another root-file, lower versions.
    yield "another", repository(keys={role: ("stranger",) for role in ROLES[1:]})
    yield "another-later", repository(timestamp=2, keys={role: ("stranger",) for role in ROLES[1:]})
    yield "root-of-the-new-key-alone", repository(roots=(signed(root_of(2, root="new-root"), "new-root"),))
    yield "root-of-the-old-key-alone", repository(roots=(signed(root_of(2, root="new-root"), "root"),))
    yield "root-of-a-stranger", repository(roots=(signed(root_of(2, root="stranger"), "stranger"),))
    yield "root-version-skipped", repository(roots=(signed(root_of(3), "root"),))
    yield "roots-without-end", repository(roots=[signed(root_of(number), "root") for number in range(2, 70)])
    yield "roots-many", repository(roots=[signed(root_of(number), "root") for number in range(2, 62)])
    yield "delegations-many", repository(delegated=[f"role-{number}" for number in range(120)])
    # The targets need two keys here.
    yield "one-of-two", repository(keys={"targets": ("targets",)})
    yield "two-of-two", repository(keys={"targets": ("targets", "second")})
    twice = json.loads(repository()["1.targets.json"])
    twice["signatures"].append(copy.deepcopy(twice["signatures"][0]))
    yield "one-twice", {**repository(hashes=False), "1.targets.json": json.dumps(twice).encode()}


def stored(name, folder, file):
    try:
        with open(os.path.join(FOLDER, name, folder, file), "rb") as stored:
            return stored.read()
    except OSError:
        return None


def etag_of(content):
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in fields:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        """`/REPOSITORY/metadata/FILE`, or `/REPOSITORY:FAULT:FILE/metadata/…`: that file is answered by that fault."""
        name, folder, file = self.path[1:].split("/")
        name, _, fault = name.partition(":")
        fault, _, faulty = fault.partition(":")
        content = stored(name, folder, file)
        if faulty and faulty in (file, file.partition(".")[2]):
            return getattr(self, "fault_" + fault)(name, file)
        if content is None:
            return self.answer(404)
        if folder == "targets":
            return self.answer_range(content, etag_of(content))
        return self.answer(200, content, Content_Type="application/json")

    def answer_range(self, content, etag):
        """RFC 9110 §14.2: the rest, if the file is still the one that If-Range names."""
        begin, is_same = self.headers.get("Range", ""), self.headers.get("If-Range") == etag
        if begin.startswith("bytes=") and is_same:
            begin = int(begin[len("bytes="):-1])
            rest = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[begin:], ETag=etag, Content_Range=rest)
        return self.answer(200, content, ETag=etag)

    def fault_half(self, name, file):
        """Half of it, then the connection ends; the rest, if that is asked for."""
        content = stored(name, "targets", file)
        if "Range" in self.headers:
            return self.answer_range(content, etag_of(content))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", etag_of(content))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def fault_waits(self, name, file):
        """Half of it; the rest once the file `go-on` is in the folder of the repositories."""
        content = stored(name, "targets", file)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        while not os.path.exists(path("go-on")) and not STOP.wait(0.05):
            pass
        self.wfile.write(content[len(content) // 2 :])

    def fault_misplaced(self, name, file):
        """All of it, as a part that begins elsewhere."""
        content = stored(name, "targets", file)
        self.answer(206, content, ETag=etag_of(content), Content_Range=f"bytes 5-{len(content) - 1}/{len(content)}")

    def fault_changed(self, name, file):
        """Half of another file; then that is gone, and the right one is there."""
        content = stored(name, "targets", file)
        if "Range" in self.headers:
            return self.answer_range(content, etag_of(content))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"another"')
        self.end_headers()
        self.wfile.write(bytes(len(content) // 2))

    def fault_other(self, name, file):
        """As many bytes, and others."""
        self.answer(200, bytes(len(stored(name, "targets", file))), ETag='"other"')

    def fault_longer(self, name, file):
        """More than was signed, without saying how many."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(stored(name, "targets", file) + b"and more")

    def fault_shorter(self, name, file):
        self.answer(200, stored(name, "targets", file)[:-1])

    def fault_endless(self, *_):
        self.send_response(200)
        self.end_headers()
        while not STOP.is_set():
            self.wfile.write(b" " * 65536)

    def fault_announced(self, *_):
        self.answer(200, b"{", Content_Length="104857600")

    def fault_drip(self, *_):
        self.send_response(200)
        self.end_headers()
        while not STOP.wait(0.05):
            self.wfile.write(b" ")

    def fault_silent(self, *_):
        STOP.wait()

    def fault_gzip(self, *_):
        self.answer(200, b"\x1f\x8b\x08\x00", Content_Encoding="gzip")

    def fault_plain(self, name, file):
        self.answer(302, Location=f"http://127.0.0.1:{self.server.server_address[1]}/{name}/metadata/{file}")

    def fault_elsewhere(self, name, file):
        self.answer(302, Location=f"https://localhost:{self.server.server_address[1]}/{name}/metadata/{file}")

    def fault_moved(self, name, file):
        self.answer(302, Location=f"/{name}/metadata/{file}")

    def fault_broken(self, *_):
        self.answer(503)

    def fault_cut(self, *_):
        self.answer(200, b"{", Content_Length="1000")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context):
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = context

    def finish_request(self, request, client_address):
        # In the connection's own thread: a client that says nothing holds up no other.
        request.settimeout(30)
        try:
            with self.context.wrap_socket(request, server_side=True) as connection:
                self.RequestHandlerClass(connection, client_address, self)
                connection.settimeout(1)
                connection.unwrap()
        except OSError:
            pass

    def handle_error(self, *_):
        pass


def path(name):
    return os.path.join(FOLDER, name)


def write(name, content):
    os.makedirs(os.path.dirname(path(name)), exist_ok=True)
    with open(path(name), "wb") as file:
        file.write(content)


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def make_certificates():
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name, subject in (("ca", "/CN=Repository CA"), ("other-ca", "/CN=Somebody Else")):
        openssl("req", "-x509", *new_key, "-days", "3650", "-subj", subject, "-keyout", path(name + ".key"), "-out", path(name + ".pem"))
    openssl("req", "-new", *new_key, "-subj", "/CN=localhost", "-keyout", path("server.key"), "-out", path("server.csr"))
    write("server.ext", b"basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("x509", "-req", "-in", path("server.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"), "-CAcreateserial",
            "-days", "3650", "-extfile", path("server.ext"), "-out", path("server.pem"))


def bundle(version):
    """A bundle of RAUC, signed by the key of ca.pem; None where there is no RAUC."""
    if not shutil.which("rauc") or not shutil.which("mksquashfs"):
        return None
    write("bundle/rootfs.img", random.Random(1).randbytes(100_000))
    manifest = f"[update]\ncompatible=acme-gw2\nversion={version}\n\n[bundle]\nformat=verity\n\n[image.rootfs]\nfilename=rootfs.img\n"
    write("bundle/manifest.raucm", manifest.encode())
    keys = (f"--cert={path('ca.pem')}", f"--key={path('ca.key')}")
    subprocess.run(["rauc", "bundle", *keys, path("bundle"), path("out.raucb")], check=True, capture_output=True)
    with open(path("out.raucb"), "rb") as file:
        return file.read()


def main():
    os.makedirs(FOLDER, exist_ok=True)
    make_certificates()
    write("root.json", signed(root_of(), "root"))
    write("two-of-two.json", signed(root_of(targets=("targets", "second"), threshold=2), "root"))
    write("another.json", signed(root_of(targets=("stranger",), **{role: "stranger" for role in ("root", "timestamp", "snapshot")}), "stranger"))
    for name, files in repositories():
        for file, content in files.items():
            write(f"{name}/metadata/{file}", content)
        write(f"{name}/metadata/1.root.json", signed(root_of(), "root"))
        for file, content in IMAGES.items():
            write(f"{name}/targets/{file}", content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path("server.pem"), path("server.key"))
    server = Server(context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    STOP.set()


if __name__ == "__main__":
    main()
