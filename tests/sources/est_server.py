#!/usr/bin/env python3
"""An EST server for the tests (RFC 7030), made of openssl and http.server; the label says how it misbehaves.

    est_server.py FOLDER

It makes its PKI in FOLDER, listens on a free port of 127.0.0.1, prints the port, and ends when its standard input does.
Every request is a line of FOLDER/requests.jsonl: label, operation, the subject of the client certificate, and the
Authorization field.

Two files change what it does for every label, at any time: FOLDER/issuer (the CA that issues, by its name here), and
FOLDER/offered.pem (a CA that cacerts has too).

FOLDER gets: root.pem (the CA of the server), issuing.pem (an intermediate that issues), other.pem (a CA of
somebody else), factory.pem and factory.key (a bootstrap certificate, of a CA of its own, ending 99991231235959Z).
"""

import base64
import http.server
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time

FOLDER = sys.argv[1]
USER = "Basic " + base64.b64encode(b"gateway:open sesame").decode()
LOCK = threading.Lock()
SEEN = set()
STOP = threading.Event()

CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
email_in_dn = no
[any]
commonName = supplied
organizationName = optional
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
[server-only]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
[dtls-server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
"""


def path(name):
    return os.path.join(FOLDER, name)


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


def stamp(seconds):
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))


def issue(csr_pem, ca, extensions="leaf", start=-60, end=3600, subject=None):
    """A certificate in PEM for a signing request in PEM. `end`: seconds from now, or a time as openssl writes it."""
    with tempfile.TemporaryDirectory() as folder:
        config, csr, out = (os.path.join(folder, name) for name in ("ca.cnf", "csr.pem", "out.pem"))
        open(os.path.join(folder, "index.txt"), "w").close()
        with open(config, "w") as file:
            file.write(CONFIG.format(folder=folder))
        with open(csr, "wb") as file:
            file.write(csr_pem)
        arguments = ["ca", "-batch", "-notext", "-config", config, "-in", csr, "-out", out, "-extensions", extensions]
        arguments += ["-startdate", stamp(start), "-enddate", end if isinstance(end, str) else stamp(end)]
        if subject:
            arguments += ["-subj", subject]
        if ca is None:
            arguments += ["-selfsign", "-keyfile", path("root.key")]
        else:
            arguments += ["-cert", path(ca + ".pem"), "-keyfile", path(ca + ".key")]
        openssl(*arguments)
        with open(out, "rb") as file:
            return file.read()


def request(name, subject):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path(name + ".key"))
    return openssl("req", "-new", "-key", path(name + ".key"), "-subj", subject)


def store(name, pem):
    with open(path(name + ".pem"), "wb") as file:
        file.write(pem)


def self_signed(name, subject):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650", "-subj",
            subject, "-keyout", path(name + ".key"), "-out", path(name + ".pem"), "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def make_pki():
    self_signed("root", "/CN=EST Root")
    self_signed("other", "/CN=Somebody Else")
    self_signed("factory-ca", "/CN=Factory CA")
    store("issuing", issue(request("issuing", "/CN=EST Issuing"), "root", "authority", end=10_000_000))
    store("server", issue(request("server", "/CN=localhost"), "root", "server", end=5_000_000))
    store("factory", issue(request("factory", "/CN=serial-0001"), "factory-ca", end="99991231235959Z"))
    request("stranger", "/CN=stranger")


def pem(name):
    with open(path(name + ".pem"), "rb") as file:
        return file.read()


def certs_only(*pems):
    arguments = []
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(pems):
            name = os.path.join(folder, str(number))
            with open(name, "wb") as file:
                file.write(text)
            arguments += ["-certfile", name]
        der = openssl("crl2pkcs7", "-nocrl", "-outform", "DER", *arguments)
    text = base64.b64encode(der)
    return b"\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + b"\r\n"


def version_1(csr):
    """As `openssl x509 -req` makes it without -extfile (before OpenSSL 3.5): X.509 version 1."""
    with tempfile.TemporaryDirectory() as folder:
        name, empty = os.path.join(folder, "csr.pem"), os.path.join(folder, "empty")
        with open(name, "wb") as file:
            file.write(csr)
        open(empty, "w").close()
        return openssl("x509", "-req", "-in", name, "-CA", path("issuing.pem"), "-CAkey", path("issuing.key"), "-days", "1",
                       "-set_serial", "7")


def issued(label, csr):
    """The certificates an enrolment is answered with, in PEM."""
    if label == "wrong-key":
        return [issue(openssl("req", "-new", "-key", path("stranger.key"), "-subj", "/CN=serial-0001"), "issuing")]
    if label == "ca-instead":
        return [pem("issuing")]
    if label == "with-chain":
        return [pem("root"), pem("issuing"), issue(csr, "issuing")]
    options = {
        "authority": {"extensions": "authority"},
        "server-only": {"extensions": "server-only"},
        "dtls-server": {"extensions": "dtls-server"},
        "other-subject": {"subject": "/CN=somebody-else"},
        "not-yet": {"start": 86_400, "end": 172_800},
        "short": {"end": 30},
        "five-minutes": {"end": 300},
        "forever": {"end": "99991231235959Z"},
    }
    if label == "version-1":
        return [version_1(csr)]
    issuer = "other" if label in ("other-ca", "unknown-ca") else "issuing"
    if os.path.exists(path("issuer")):
        with open(path("issuer")) as file:
            issuer = file.read().strip()
    return [issue(csr, issuer, **options.get(label, {}))]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.handle_one()

    def do_POST(self):
        self.handle_one()

    def answer(self, status, body=b"", content_type=None, **fields):
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def certificates(self, *pems):
        self.answer(200, certs_only(*pems), "application/pkcs7-mime; smime-type=certs-only", Content_Transfer_Encoding="base64")

    def handle_one(self):
        self.close_connection = True
        parts = self.path.strip("/").split("/")
        label, operation = (parts[-2], parts[-1]) if len(parts) >= 2 else ("", parts[-1])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        peer = self.connection.getpeercert() or {}
        subject = "/".join(value for part in peer.get("subject", ()) for _, value in part)
        line = {"label": label, "operation": operation, "client": subject, "authorization": self.headers.get("Authorization")}
        with LOCK, open(path("requests.jsonl"), "a") as file:
            file.write(json.dumps(line) + "\n")
        if operation == "cacerts":
            return self.cacerts(label)
        if operation == "csrattrs":
            wanted = "MBIGByqGSM49AgExBwYFK4EEACI="  # ecPublicKey, secp384r1
            text = base64.b64encode(b"\x30\x14" + base64.b64decode(wanted))
            return self.answer(200, text, "application/csrattrs") if label == "wants-p384" else self.answer(204)
        if label == "pages":
            return self.page(operation)
        return self.enrol(label, body)

    def cacerts(self, label):
        if label == "no-cacerts":
            self.answer(404)
        elif label == "missing-intermediate":
            self.certificates(pem("root"))
        elif label in ("other-in-cacerts", "unknown-ca"):
            self.certificates(pem("root"), pem("issuing"), pem("other"))
        elif label == "cacerts-html":
            self.answer(200, b"<html>portal</html>", "text/html")
        else:
            self.certificates(pem("root"), pem("issuing"), *([pem("offered")] if os.path.exists(path("offered.pem")) else []))

    def enrol(self, label, body):
        if label.startswith("status-"):
            return self.answer(int(label.removeprefix("status-")), b"the registration authority says no\n", "text/plain")
        if label == "busy":
            return self.answer(503, Retry_After="90")
        if label == "wants-p384":
            return self.answer(400)
        if label.startswith("basic-") and self.headers.get("Authorization") != USER:
            return self.answer(401, WWW_Authenticate='Basic realm="est"')
        if label == "digest":
            return self.answer(401, WWW_Authenticate='Digest realm="est", nonce="x"')
        if label == "later" and body not in SEEN:
            SEEN.add(body)
            return self.answer(202, Retry_After="120")
        if label == "redirect":
            return self.answer(302, Location="https://127.0.0.1:1/est/simpleenroll")
        if label == "html":
            return self.answer(200, b"<html>Please log in</html>", "text/html")
        if label == "server-key":
            return self.answer(200, b"--x\r\n", "multipart/mixed; boundary=x")
        csr = b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"\n".join(body.split()) + b"\n-----END CERTIFICATE REQUEST-----\n"
        if label == "wrong-type":
            return self.answer(200, certs_only(issue(csr, "issuing")), "application/octet-stream")
        if not self.page(label):
            self.certificates(*issued(label, csr))

    def page(self, kind):
        """What a server may do with any request. Whether it did."""
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/pkcs7-mime\r\n"
        if kind == "hang":
            STOP.wait(30)
        elif kind == "drip":
            self.wfile.write((head + "Content-Length: 100000\r\n\r\n").encode())
            for _ in range(300):
                self.wfile.write(b"A")
                self.wfile.flush()
                if STOP.wait(0.1):
                    break
        elif kind == "truncated":
            self.wfile.write((head + "Content-Length: 100000\r\n\r\nMIIB").encode())
        elif kind == "ten-megabytes":
            self.answer(200, b"A" * 10_000_000, "application/pkcs7-mime")
        elif kind == "endless":
            self.wfile.write((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
            for _ in range(1_000):
                self.wfile.write(b"4000\r\n" + b"A" * 0x4000 + b"\r\n")
        elif kind == "long-header":
            self.wfile.write(("HTTP/1.1 200 OK\r\nX-Long: " + "a" * 100_000 + "\r\n\r\n").encode())
        elif kind == "no-http":
            self.wfile.write(b"220 mail.test ESMTP ready\r\n")
        elif kind == "compressed":
            self.answer(200, b"\x1f\x8b", "text/plain", Content_Encoding="gzip")
        elif kind == "moved":
            self.answer(302, Location="/pages/plain")
        elif kind == "moved-away":
            self.answer(302, Location="https://localhost:1/pages/plain")
        elif kind == "moved-to-itself":
            self.answer(302, Location="/pages/moved-to-itself")
        elif kind == "plain":
            self.answer(200, b"a plain page", "text/plain", Retry_After="7")
        else:
            return False
        return True


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


def main():
    os.makedirs(FOLDER, exist_ok=True)
    make_pki()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path("server.pem"), path("server.key"))
    # A certificate is asked for, and need not be shown.
    context.verify_mode = ssl.CERT_OPTIONAL
    for name in ("factory-ca", "root", "issuing"):
        context.load_verify_locations(path(name + ".pem"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server = Server(context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    STOP.set()


if __name__ == "__main__":
    main()
