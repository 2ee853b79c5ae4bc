"""A Debian system in qemu, on the disk of disk.py: what the tests of a whole machine share.

It boots from an ext4 image with a kernel and busybox of the mirror, which are unpacked and not installed. `agent` in it runs what the
test asks for. Needs root.
"""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
# The Debian packages of this machine that a machine in qemu needs.
PACKAGES = ["nbdkit", "nbdkit-plugin-python", "e2fsprogs", "cpio", "kmod", "openssl"]
MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio-rng"]
E2FSCK = "/sbin/e2fsck"
IN_GUEST = "/usr/local/lib/machine"
FORWARDS = [("coap", "udp", 5683), ("dtls", "udp", 5684), ("mqtt", "tcp", 8884), ("agent", "tcp", 7000)]
# For each architecture: qemu's package, program, board, and processor where there is no KVM; the kernel's package and console.
HARDWARE = {
    "amd64": {"package": "qemu-system-x86", "program": "qemu-system-x86_64", "board": "q35", "processor": "max",
              "kernel": "linux-image-cloud-amd64", "console": "ttyS0"},
    "arm64": {"package": "qemu-system-arm", "program": "qemu-system-aarch64", "board": "virt", "processor": "cortex-a53",
              "kernel": "linux-image-cloud-arm64", "console": "ttyAMA0"},
}
# What runs once a day on a board, or shows a console, has no part in this.
MASKED = ["apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "dpkg-db-backup.timer",
          "getty@tty1.service", "serial-getty@ttyS0.service", "serial-getty@ttyAMA0.service", "systemd-logind.service", "remote-fs.target", "systemd-pstore.service"]


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(*words, **options):
    return subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(what, seconds, condition):
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.1)


def install_packages(names):
    missing = [name for name in names if subprocess.run(["dpkg-query", "--status", name], capture_output=True).returncode]
    if missing:
        say(f"installing {' '.join(missing)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing, env=environment)


def apt_of(folder, architecture):
    """What makes apt speak of another architecture than this machine's, with lists of its own."""
    if architecture == subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip():
        return []
    place = folder / "apt"
    for name in ["lists/partial", "archives/partial"]:
        (place / name).mkdir(parents=True, exist_ok=True)
    settings = {"APT::Architecture": architecture, "APT::Architectures": architecture, "Dir::State": place, "Dir::State::status": "/dev/null",
                "Dir::Cache": place}
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def fetch(folder, architecture):
    """A kernel and busybox, unpacked side by side and not installed."""
    fetched = folder / "fetched"
    if not (fetched / ".complete").exists():
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        settings = ["-o", "APT::Sandbox::User=root", *apt_of(folder, architecture)]
        if len(settings) > 2:
            run("apt-get", *settings, "update", "-q")
        shown = subprocess.run(["apt-cache", *settings, "depends", HARDWARE[architecture]["kernel"]], capture_output=True, text=True, check=True)
        for name in ["busybox-static", re.search(r"Depends: (linux-image-\S+)", shown.stdout)[1]]:
            run("apt-get", *settings, "download", name, cwd=fetched)
        for package in fetched.glob("*.deb"):
            run("dpkg-deb", "--extract", package, fetched)
            package.unlink()
        (fetched / ".complete").touch()
    return fetched


def make_initramfs(folder, fetched, own):
    """`own`: it is of this machine's architecture, whose e2fsck it gets."""
    tree = folder / "initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ["bin", "modules", "proc", "sys", "dev", "root"]:
        (tree / name).mkdir(parents=True)
    shutil.copy(HERE / "init", tree / "init")
    shutil.copy(fetched / "bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    if own:
        found = subprocess.run(["ldd", E2FSCK], capture_output=True, text=True, check=True).stdout
        for path in [E2FSCK, *re.findall(r"/\S+", found)]:
            (tree / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / path[1:])
    order = []

    def add(name):
        """A module, after those it needs; what is built in has no file."""
        found = next((path for spelling in (name, name.replace("_", "-")) for path in fetched.glob(f"lib/modules/*/kernel/**/{spelling}.ko")), None)
        if found is None or found.name in order:
            return
        needs = subprocess.run(["modinfo", "-F", "depends", found], capture_output=True, text=True, check=True).stdout.strip()
        for need in filter(None, needs.split(",")):
            add(need)
        shutil.copy(found, tree / "modules")
        order.append(found.name)

    for name in MODULES:
        add(name)
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in order))
    archive = folder / "initramfs.cpio"
    run("sh", "-c", 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"', "sh", tree, archive)
    return archive


def pki(folder):
    openssl = lambda *words: run("openssl", *words)  # noqa: E731
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-days", 30, "-subj", "/CN=Test CA", "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    openssl("req", *new, "-subj", "/CN=broker.test", "-keyout", folder / "server.key", "-out", folder / "server.csr")
    (folder / "server.ext").write_text("subjectAltName = DNS:broker.test\n")
    openssl("x509", "-req", "-days", 30, "-in", folder / "server.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
            "-extfile", folder / "server.ext", "-out", folder / "server.pem")


def furnish(root, name):
    """Into a Debian tree: the agent, who the machine is, its disk, a system journal that stays."""
    etc, place = root / "etc", root / IN_GUEST[1:]
    place.mkdir(parents=True)
    shutil.copy(HERE / "agent", place)
    units = etc / "systemd/system"
    (units / "agent.socket").write_text("[Socket]\nListenStream=7000\nAccept=yes\n[Install]\nWantedBy=sockets.target\n")
    (units / "agent@.service").write_text(f"[Unit]\nCollectMode=inactive-or-failed\n[Service]\nExecStart={IN_GUEST}/agent\n"
                                          "StandardInput=socket\nStandardOutput=socket\nStandardError=null\n")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (units / "sockets.target.wants").mkdir(exist_ok=True)
    (units / "sockets.target.wants/agent.socket").symlink_to("/etc/systemd/system/agent.socket")
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n10.0.2.2 broker.test\n")
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "fstab").write_text("/dev/vda / ext4 noatime,commit=60,errors=remount-ro 0 0\n")
    (root / "var/log/journal").mkdir(exist_ok=True)
    (etc / "systemd/journald.conf.d").mkdir(exist_ok=True)
    (etc / f"systemd/journald.conf.d/{name}.conf").write_text("[Journal]\nSystemMaxUse=24M\nRateLimitIntervalSec=0\n")


def make_image(image, root, megabytes):
    """The ext4 image of a tree, which goes."""
    image.unlink(missing_ok=True)
    run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", root, image, f"{megabytes}M")
    shutil.rmtree(root)


def accelerator(kernel, hardware):
    """KVM is used if a kernel comes to its end in it: there are machines where /dev/kvm exists and does not work."""
    if not os.path.exists("/dev/kvm"):
        return "tcg"
    trial = ["timeout", "10", hardware["program"], "-M", f"{hardware['board']},accel=kvm", "-cpu", "host", "-m", "256", "-nographic",
             "-no-reboot", "-kernel", kernel, "-append", f"console={hardware['console']} panic=-1"]
    done = subprocess.run(trial, capture_output=True, stdin=subprocess.DEVNULL)
    return "kvm" if b"Kernel panic" in done.stdout else "tcg"


class Machine:
    """The board: qemu and its disk. Powered for as long as between start and cut."""

    def __init__(self, folder, disk, ports, architecture="amd64", keeps="flushed"):
        """Of `ports`, those that FORWARDS has lead into the machine."""
        self.folder, self.disk, self.ports, self.keeps = folder, disk, ports, keeps
        fetched = fetch(folder, architecture)
        self.kernel = next(fetched.glob("boot/vmlinuz-*"))
        self.initramfs = make_initramfs(folder, fetched, not apt_of(folder, architecture))
        self.hardware = HARDWARE[architecture]
        self.accelerator = accelerator(self.kernel, self.hardware)
        self.qemu = self.nbd = None
        self.boots = 0

    def start(self, seed, words="", second=None, counted=False):
        """`words` are added to the kernel's; `second` is another disk, read only. Counted, with one processor: its clock goes by one
        nanosecond an instruction."""
        if shutil.disk_usage(self.folder).free < 1 << 30:
            # A full disk here would be a broken one there.
            raise SystemExit(f"less than 1 GiB is free in {self.folder}")
        self.boots += 1
        link, self.report, self.end = self.folder / "disk.sock", self.folder / "disk.json", self.folder / "disk.end"
        for path in (link, self.report, self.end):
            path.unlink(missing_ok=True)
        self.nbd = subprocess.Popen(["nbdkit", "--foreground", "--unix", link, "python", HERE / "disk.py", f"file={self.disk}", f"seed={seed}",
                                     f"report={self.report}", f"end={self.end}", f"keeps={self.keeps}"], stderr=open(self.folder / "nbdkit.log", "a"))
        until("the disk", 20, link.exists)
        self.console = self.folder / "console.log"
        forwards = ",".join(f"hostfwd={kind}:127.0.0.1:{self.ports[name]}-10.0.2.15:{port}" for name, kind, port in FORWARDS if name in self.ports)
        hardware, kvm = self.hardware, self.accelerator == "kvm" and not counted
        options = ["-smp", "1", "-icount", "shift=0"] if counted else ["-smp", "2"]
        if second:
            options += ["-drive", f"file={second},format=raw,if=virtio,readonly=on"]
        self.qemu = subprocess.Popen(
            [hardware["program"], "-M", f"{hardware['board']},accel={'kvm' if kvm else 'tcg'}", "-cpu", "host" if kvm else hardware["processor"],
             "-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{self.console}", "-kernel", self.kernel,
             "-initrd", self.initramfs, "-append", f"console={hardware['console']} quiet loglevel=4 mitigations=off systemd.show_status=0 {words}",
             "-drive", f"file=nbd:unix:{link},format=raw,if=virtio,cache=writeback", "-netdev", f"user,id=net,{forwards}".rstrip(","),
             "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.folder / "qemu.log", "a"))

    def cut(self):
        """The power goes. Returns what became of the writes that were not flushed."""
        # From here on the disk completes no flush.
        self.end.touch()
        self.qemu.kill()
        self.qemu.wait()
        self.nbd.terminate()
        self.nbd.wait(60)
        self.qemu = self.nbd = None
        return json.loads(self.report.read_text())

    def ask(self, script, seconds=60):
        """(exit status, output) of a script on the machine; None if the machine did not answer to the end."""
        try:
            with socket.create_connection(("127.0.0.1", self.ports["agent"]), 5) as link:
                link.settimeout(seconds)
                link.sendall(base64.b64encode(script.encode()) + b"\n")
                answer = b""
                while part := link.recv(65536):
                    answer += part
        except OSError:
            return None
        text = answer.decode(errors="replace")
        end = re.search(r"\nstatus (\d+)\n$", text)
        return (int(end[1]), text[:end.start()]) if end else None

    def wait_until_up(self, seconds, unit="tombolo"):
        """Seconds until the service runs; None if it does not come to that."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            # A unit that waits for Restart= is "activating"; "failed" is for good.
            answer = self.ask(f"systemctl is-active {unit}", 20)
            if answer and answer[0] == 0:
                return time.monotonic() - began
            if self.qemu.poll() is not None or answer and "failed" in answer[1]:
                return None
            time.sleep(0.5)
        return None

    def power_off(self, seconds=90):
        """Whether it powers off when told to."""
        self.ask("sync; systemctl poweroff --no-block", 20)
        return self.wait_until_off(seconds)

    def wait_until_off(self, seconds):
        try:
            self.qemu.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.cut()
        return True

    def check_disk(self):
        """What e2fsck finds; empty if nothing."""
        done = subprocess.run(["e2fsck", "-fn", self.disk], capture_output=True, text=True)
        return done.stdout[-800:] if done.returncode else ""

    def close(self):
        for process in [self.qemu, self.nbd]:
            if process and process.poll() is None:
                process.kill()
                process.wait()
