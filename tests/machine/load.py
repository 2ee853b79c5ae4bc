"""Readings for a gateway in a machine, by CoAP, MQTT over TLS and DTLS, and the broker that they have to reach."""

import random
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter

from machine import until

# The Debian packages of this machine that it needs.
PACKAGES = ["mosquitto", "mosquitto-clients", "libcoap3-bin"]
SMALL, LARGE = 30, 900
ROLE = "load"
KEY = "a-key-of-the-load"
# What the gateway needs for them. The keys are in files beside the configuration, the server's certificate in `place`.
SITE = """
[coap]
listen = ["0.0.0.0:5684"]
insecure-listen = ["0.0.0.0:5683"]
insecure-device = "plain"
[mqtt]
listen = ["0.0.0.0:8884"]
certificate-file = "{place}/server.pem"
key-file = "{place}/server.key"
[role.load]
quota = {{ messages = 1000000, bytes = "1GiB", per = "1s", burst = 1000000 }}
max-handshakes = 10000
max-sessions = 1000
[role.load.uplink.all]
path = "t/#"
[role.load.uplink.alarm]
path = "alarm/#"
lane = "high"
[device.plain]
role = "load"
[device.door]
role = "load"
psk-file = "../secrets/door"
[device.pump]
role = "load"
password-file = "../secrets/pump"
"""

MOSQUITTO = """
persistence true
persistence_location {folder}/
allow_anonymous true
max_inflight_messages 1000
max_queued_messages 0
user root
log_dest file {folder}/mosquitto.log
log_type error
log_type warning
log_type notice
listener {tls} 127.0.0.1
cafile {folder}/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
require_certificate {certificates}
listener {plain} 127.0.0.1
"""


class Broker:
    """A mosquitto, and witnesses of what it gets from the gateway of this id."""

    def __init__(self, folder, ports, gateway, certificates=True):
        (folder / "mosquitto.conf").write_text(MOSQUITTO.format(folder=folder, tls=ports["tls"], plain=ports["plain"], certificates=str(certificates).lower()))
        self.arrived, self.notices = folder / "arrived", folder / "notices"
        self.mosquitto = subprocess.Popen(["mosquitto", "-c", folder / "mosquitto.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("mosquitto", 20, lambda: socket.socket().connect_ex(("127.0.0.1", ports["plain"])) == 0)
        common = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(ports["plain"]), "-V", "5", "-q", "1", "-c", "-x", "100000"]
        self.witnesses = [
            subprocess.Popen([*common, "-i", "readings", "-t", f"tombolo/{gateway}/+/up/#", "-F", "%p"], stdout=open(self.arrived, "w")),
            subprocess.Popen([*common, "-i", "losses", "-t", f"tombolo/{gateway}/gateway/loss", "-F", "%p"], stdout=open(self.notices, "w"))]
        self.seen, self.at = Counter(), 0

    def arrivals(self):
        """How often each reading arrived: by what is before its filling."""
        with open(self.arrived, "rb") as file:
            file.seek(self.at)
            for line in file.read().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    self.at += len(line)
                    # What `check` publishes to try the broker is empty.
                    self.seen.update(line.decode(errors="replace").split()[:1])
        return self.seen

    def losses(self):
        return self.notices.read_text().splitlines()

    def close(self):
        for process in [*self.witnesses, self.mosquitto]:
            process.kill()
            process.wait()


class Ledger:
    """Which readings were acknowledged, and in which variant."""

    def __init__(self, file):
        self.lock = threading.Lock()
        self.log = open(file, "w")
        self.variant, self.filling, self.refusals, self.stop = "steady", SMALL, 0, False
        self.acknowledged = {}

    def take(self, name):
        with self.lock:
            self.acknowledged[name] = self.variant
            self.log.write(f"{time.time():.3f} {name} {self.variant}\n")

    def refuse(self):
        with self.lock:
            self.refusals += 1

    def text(self, name):
        return f"{name} {'x' * self.filling}".encode()


class CoapSender(threading.Thread):
    """Confirmable POSTs, one at a time, each repeated with its message id until it is answered."""

    def __init__(self, number, port, ledger):
        super().__init__(daemon=True)
        self.number, self.ledger = number, ledger
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(1.5)
        self.mid = random.randrange(65536)

    def run(self):
        count = 0
        while not self.ledger.stop:
            count += 1
            name = f"c{self.number}-{count}"
            self.send(name, count % 8 == 0)

    def send(self, name, alarm):
        self.mid = (self.mid + 1) % 65536
        mid = self.mid.to_bytes(2, "big")
        # CON POST with a token, Uri-Path, a payload (RFC 7252 §3).
        path = b"\xb5alarm\x01a" if alarm else b"\xb1t\x03env"
        message = b"\x42\x02" + mid + mid + path + b"\xff" + self.ledger.text(name)
        while not self.ledger.stop:
            try:
                self.socket.send(message)
                while True:
                    answer = self.socket.recv(1500)
                    if len(answer) >= 6 and answer[1] and answer[4:6] == mid:
                        break
            except TimeoutError:
                continue
            except OSError:
                time.sleep(0.3)
                continue
            if answer[0] & 0x30 == 0:  # a separate response is confirmable
                self.socket.send(b"\x60\x00" + answer[2:4])
            if answer[1] >> 5 == 2:
                self.ledger.take(name)
            else:
                self.ledger.refuse()
                time.sleep(0.3)
            return


class MqttSender(threading.Thread):
    """QoS 1 publishes over TLS, one at a time; after a lost connection the same again."""

    def __init__(self, folder, port, ledger):
        super().__init__(daemon=True)
        self.port, self.ledger = port, ledger
        self.context = ssl.create_default_context(cafile=folder / "ca.pem")

    def run(self):
        count, waiting = 0, None
        while not self.ledger.stop:
            try:
                with self.connect() as link:
                    while not self.ledger.stop:
                        if waiting is None:
                            count += 1
                            waiting = f"m-{count}"
                        link.sendall(self.packet(0x32, self.string("t/mqtt") + (count % 65535 + 1).to_bytes(2, "big") + b"\0" + self.ledger.text(waiting)))
                        kind, body = self.read(link)
                        if kind != 4:
                            break
                        if len(body) < 3 or body[2] < 0x80:
                            self.ledger.take(waiting)
                        else:
                            self.ledger.refuse()
                            time.sleep(0.3)
                        waiting = None
            except OSError:
                pass
            time.sleep(0.5)

    @staticmethod
    def string(text):
        return len(text).to_bytes(2, "big") + text.encode()

    @staticmethod
    def packet(first, body):
        length, rest = b"", len(body)
        while True:
            length += bytes([rest % 128 | (128 if rest > 127 else 0)])
            rest //= 128
            if not rest:
                return bytes([first]) + length + body

    @staticmethod
    def read(link):
        def exactly(count):
            data = b""
            while len(data) < count:
                part = link.recv(count - len(data))
                if not part:
                    raise OSError("closed")
                data += part
            return data
        first, length, shift = exactly(1)[0], 0, 0
        while True:
            byte = exactly(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first >> 4, exactly(length)

    def connect(self):
        plain = socket.create_connection(("127.0.0.1", self.port), 10)
        plain.settimeout(15)
        link = self.context.wrap_socket(plain, server_hostname="broker.test")
        # MQTT 5, clean start, user name and password, keep alive 60 s, no properties.
        link.sendall(self.packet(0x10, self.string("MQTT") + b"\x05\xc2\x00\x3c\x00" + self.string("pump") + self.string("pump") + self.string(KEY)))
        kind, body = self.read(link)
        if kind != 2 or body[1] != 0:
            link.close()
            raise OSError("refused")
        return link


def post_by_dtls(port, device, name, ledger):
    """One reading over DTLS by libcoap; whether it was acknowledged."""
    done = subprocess.run(["timeout", "15", "coap-client-openssl", "-v", "6", "-B", "10", "-m", "post", "-u", device, "-k", KEY, "-e",
                           ledger.text(name), f"coaps://127.0.0.1:{port}/t/dtls"], capture_output=True, text=True)
    taken = "2.04" in done.stdout + done.stderr
    if taken:
        ledger.take(name)
    return taken


class DtlsSender(threading.Thread):
    def __init__(self, port, ledger):
        super().__init__(daemon=True)
        self.port, self.ledger = port, ledger

    def run(self):
        count = 0
        while not self.ledger.stop:
            count += post_by_dtls(self.port, "door", f"d-{count}", self.ledger)
            time.sleep(1)


def start_load(folder, ports, ledger, senders):
    """So many senders by CoAP, one by MQTT and one by DTLS, until the ledger says stop."""
    all_of_them = [CoapSender(number, ports["coap"], ledger) for number in range(senders)]
    for sender in [*all_of_them, MqttSender(folder, ports["mqtt"], ledger), DtlsSender(ports["dtls"], ledger)]:
        sender.start()
