#!/usr/bin/env python3
"""Signs a TUF repository for gateways, with python-tuf. docs/updates.md says when to run what.

    publish-updates.py REPOSITORY KEYS init
    publish-updates.py REPOSITORY KEYS add FILE VERSION [KEY=VALUE ...]
    publish-updates.py REPOSITORY KEYS set VERSION|FILE KEY=VALUE ...
    publish-updates.py REPOSITORY KEYS remove VERSION|FILE
    publish-updates.py REPOSITORY KEYS refresh
    publish-updates.py REPOSITORY KEYS renew-root
    publish-updates.py REPOSITORY KEYS rotate ROLE

REPOSITORY gets metadata/ and targets/, to be served by any web server over HTTPS. KEYS has one PEM file a role; only
`init`, `renew-root` and `rotate` need root.pem, so it can lie elsewhere. A VERSION means all its targets, a FILE the
one of that name. Needs tuf and cryptography: pip install tuf cryptography
"""

import datetime
import inspect
import re
import shutil
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

ROLES = ("root", "targets", "snapshot", "timestamp")
# How long each role's signature holds: the longer, the longer a copy of the past can be shown to a gateway.
DAYS = {"root": 365, "targets": 90, "snapshot": 90, "timestamp": 7}
# So long before root.json expires, every command says so.
ROOT_SOON = datetime.timedelta(60)
LISTS = {"hardware"}
# Which gateway takes a target: with one value for several targets, a gateway would be offered more than one.
PRODUCT = {"class", "compatible", "hardware"}
SETTINGS = LISTS | PRODUCT | {"version-scheme", "min-version", "rollout", "not-before", "notes"}
TEXT_MAX, NOTES_MAX, HARDWARE_MAX = 128, 1024, 64
IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
NUMBER = "(?:0|[1-9][0-9]*)"
SCHEMES = {
    "debian": re.compile(r"(?=.*[0-9])(?:[0-9]+:)?[A-Za-z0-9.+~:-]+"),
    "semver": re.compile(rf"{NUMBER}\.{NUMBER}\.{NUMBER}(?:-{IDENTIFIERS})?(?:\+{IDENTIFIERS})?"),
}
NAME = re.compile(r"[A-Za-z0-9._~+-]+")


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Repository:
    def __init__(self, folder, keys):
        self.metadata, self.targets, self.keys = Path(folder, "metadata"), Path(folder, "targets"), Path(keys)

    def make_key(self, role):
        file = self.keys / f"{role}.pem"
        if not file.exists():
            signer = CryptoSigner.generate_ed25519()
            file.touch(mode=0o600)
            file.write_bytes(signer.private_bytes)
        return self.read_key(role)

    def read_key(self, role):
        file = self.keys / f"{role}.pem"
        try:
            return CryptoSigner(load_pem_private_key(file.read_bytes(), None))
        except OSError as error:
            sys.exit(f"{file}: {error.strerror}; KEYS is the folder with the key of each role, which `init` makes")
        except (TypeError, ValueError) as error:
            sys.exit(f"{file} is not a private key in PEM without a password: {error}")

    def key(self, role):
        """The key of a role, if it is the one that root.json names: by another nothing is signed."""
        signer, root = self.read_key(role), self.newest("root").signed
        if not any(root.keys[key].keyval == signer.public_key.keyval for key in root.roles[role].keyids):
            sys.exit(f"{self.keys / role}.pem is not the key of {role} in {root.version}.root.json; is it of another repository?")
        return signer

    def newest(self, role):
        if role == "timestamp":
            files = [self.metadata / "timestamp.json"]
        else:
            files = [file for file in self.metadata.glob(f"*.{role}.json") if file.name.split(".")[0].isdigit()]
        file = max(files, key=lambda file: file.name == "timestamp.json" or int(file.name.split(".")[0]), default=None)
        if file is None or not file.is_file():
            sys.exit(f"{self.metadata} has no {role}.json; correct REPOSITORY, or begin one with `init`")
        return Metadata.from_file(str(file))

    def sign(self, role, content, *signers):
        content.expires = now() + datetime.timedelta(DAYS[role])
        metadata = Metadata(content)
        for signer in signers or (self.key(role),):
            metadata.sign(signer, append=True)
        data = metadata.to_bytes(JSONSerializer(compact=True))
        name = "timestamp.json" if role == "timestamp" else f"{content.version}.{role}.json"
        # Beside it, then renamed: a gateway that asks now gets one or the other.
        beside = self.metadata / f".{name}"
        beside.write_bytes(data)
        beside.rename(self.metadata / name)
        return MetaFile.from_data(content.version, data, ["sha256"])

    def publish(self, targets):
        """The order matters: what is referred to is there before what refers to it."""
        self.have_keys()
        targets.version += 1
        listed = self.sign("targets", targets)
        snapshot = self.newest("snapshot").signed
        snapshot.version += 1
        snapshot.meta = {"targets.json": listed}
        self.stamp(self.sign("snapshot", snapshot))

    def stamp(self, snapshot):
        timestamp = self.newest("timestamp").signed
        timestamp.version += 1
        timestamp.snapshot_meta = snapshot
        self.sign("timestamp", timestamp)

    def have_keys(self):
        """Ends before anything is changed if a key is missing."""
        for role in ROLES[1:]:
            self.key(role)

    def init(self):
        for folder in (self.metadata, self.targets, self.keys):
            folder.mkdir(parents=True, exist_ok=True)
        if any(self.metadata.iterdir()):
            sys.exit(f"{self.metadata} is not empty")
        root = Root(version=1, consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self.make_key(role).public_key, role)
        self.sign("root", root, self.read_key("root"))
        listed = self.sign("targets", Targets(version=1))
        snapshot = self.sign("snapshot", Snapshot(version=1, meta={"targets.json": listed}))
        self.sign("timestamp", Timestamp(version=1, snapshot_meta=snapshot))

    def add(self, file, version, *pairs):
        if not Path(file).is_file():
            sys.exit(f"{file} is not a file")
        target = TargetFile.from_file(Path(file).name, file, ["sha256"])
        if not target.length:
            sys.exit(f"{file} is empty: no gateway takes it")
        if not NAME.fullmatch(target.path) or len(target.path) > TEXT_MAX:
            sys.exit(f"{target.path!r}: name the file with at most {TEXT_MAX} letters, digits and . _ ~ + -, or no gateway takes it")
        about = {"class": "gateway", "version": version, **custom(pairs)}
        judge(about)
        target.unrecognized_fields["custom"] = {"tombolo": about}
        targets = self.newest("targets").signed
        if before := targets.targets.get(target.path):
            listed = version_of(before)
            if listed != version:
                sys.exit(f"{target.path} is version {listed} already: give the file another name, or remove {listed} first")
        self.have_keys()
        shutil.copyfile(file, self.targets / f"{target.hashes['sha256']}.{target.path}")
        targets.targets[target.path] = target
        self.publish(targets)

    def set(self, named, pair, *pairs):
        targets, changes = self.newest("targets").signed, custom((pair, *pairs))
        found = meant(targets, named)
        if len(found) > 1 and PRODUCT & changes.keys():
            sys.exit(f"version {named} has several targets: name one by its file: {', '.join(target.path for target in found)}")
        for target in found:
            about = target.unrecognized_fields["custom"]["tombolo"]
            about.update(changes)
            judge(about)
        self.publish(targets)
        print("changed:", *(target.path for target in found))

    def remove(self, named):
        targets = self.newest("targets").signed
        found = meant(targets, named)
        for target in found:
            del targets.targets[target.path]
        self.publish(targets)
        print("removed:", *(target.path for target in found))

    def refresh(self):
        """Signs the timestamp anew, and the others once half of their time has passed."""
        old = [role for role in ("targets", "snapshot") if self.newest(role).signed.expires - now() < datetime.timedelta(DAYS[role] / 2)]
        if old:
            self.publish(self.newest("targets").signed)
        else:
            self.stamp(self.newest("timestamp").signed.snapshot_meta)

    def renew_root(self):
        """The same keys for another year. Nothing else is signed, so no other key is needed."""
        root = self.newest("root").signed
        root.version += 1
        self.sign("root", root)
        print(f"{root.version}.root.json is valid until {root.expires:%Y-%m-%d}")

    def rotate(self, role):
        """A new key for a role. The next root is signed by the root key before and the one from now on."""
        if role not in ROLES:
            sys.exit(f"{role!r} is no role; use one of {', '.join(ROLES)}")
        root, before = self.newest("root").signed, self.key("root")
        if role != "root":
            self.have_keys()
        (self.keys / f"{role}.pem").rename(self.keys / f"{role}.{root.version}.old.pem")
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(self.make_key(role).public_key, role)
        root.version += 1
        self.sign("root", root, *([before, self.read_key("root")] if role == "root" else [before]))
        if role != "root":
            self.publish(self.newest("targets").signed)

    def warn(self):
        root = self.newest("root").signed
        name, day = f"{root.version}.root.json", f"{root.expires:%Y-%m-%d}"
        way = "run `renew-root` where root.pem is, publish its file, then `refresh`"
        if root.expires <= now():
            sys.exit(f"{name} expired on {day}, and no gateway takes anything of the repository: {way}")
        if root.expires - now() < ROOT_SOON:
            print(f"{name} expires on {day}; before that, {way}", file=sys.stderr)


def version_of(target):
    return target.unrecognized_fields.get("custom", {}).get("tombolo", {}).get("version")


def meant(targets, named):
    """The target of that file name, or all of that version."""
    found = [target for target in targets.targets.values() if target.path == named or version_of(target) == named]
    return found or sys.exit(f"there is no target of version {named}, and none of that file name")


def custom(pairs):
    """`rollout=25` is a number, `hardware=a,b` a list, all else a text."""
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or name not in SETTINGS:
            sys.exit(f"{pair!r} is not KEY=VALUE with one of the keys {', '.join(sorted(SETTINGS))}")
        if name == "rollout":
            try:
                value = float(value)
            except ValueError:
                sys.exit(f"{pair!r}: rollout is a number of 0 to 100 percent")
            found[name] = int(value) if value.is_integer() else value
        else:
            found[name] = value.split(",") if name in LISTS else value
    return found


def judge(about):
    """Ends with the reason if gateways cannot use it."""
    scheme = about.get("version-scheme", "debian")
    if scheme not in SCHEMES:
        sys.exit(f"version-scheme={scheme} is not one of {', '.join(SCHEMES)}")
    for key in ("version", "min-version"):
        if key in about and not SCHEMES[scheme].fullmatch(about[key]):
            sys.exit(f"{about[key]!r} is no {key} by the scheme {scheme}; a version is like 2.4.1")
    if not 0 <= about.get("rollout", 100) <= 100:
        sys.exit(f"rollout={about['rollout']}: it is 0 to 100 percent")
    if "not-before" in about:
        try:
            datetime.datetime.strptime(about["not-before"], "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            sys.exit(f"not-before={about['not-before']}: it is a time in UTC like 2026-12-01T00:00:00Z")
    for key, value in about.items():
        longest = NOTES_MAX if key == "notes" else TEXT_MAX
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not (0 < len(text.encode()) <= longest and (key == "notes" or text.isprintable())):
                sys.exit(f"{key}={text!r}: it is 1 to {longest} bytes without control characters")
    if len(about.get("hardware", ())) > HARDWARE_MAX:
        sys.exit(f"hardware: at most {HARDWARE_MAX} revisions")


COMMANDS = ("init", "add", "set", "remove", "refresh", "renew-root", "rotate")


def main():
    if len(sys.argv) < 4 or sys.argv[3] not in COMMANDS:
        sys.exit(__doc__)
    repository, arguments = Repository(sys.argv[1], sys.argv[2]), sys.argv[4:]
    command = getattr(repository, sys.argv[3].replace("-", "_"))
    try:
        inspect.signature(command).bind(*arguments)
    except TypeError as error:
        sys.exit(f"{sys.argv[3]}: {error}\n{__doc__}")
    try:
        command(*arguments)
        repository.warn()
    except (OSError, DeserializationError) as error:
        sys.exit(f"{error}: nothing more was done")


if __name__ == "__main__":
    main()
