#!/usr/bin/env python3
"""Signs a TUF repository for gateways, with python-tuf. docs/updates.md says when to run what.

    publish-updates.py REPOSITORY KEYS init
    publish-updates.py REPOSITORY KEYS add FILE VERSION [KEY=VALUE ...]
    publish-updates.py REPOSITORY KEYS set VERSION KEY=VALUE ...
    publish-updates.py REPOSITORY KEYS remove VERSION
    publish-updates.py REPOSITORY KEYS refresh
    publish-updates.py REPOSITORY KEYS rotate ROLE

REPOSITORY gets metadata/ and targets/, to be served by any web server over HTTPS. KEYS has one PEM file a role; only
`init` and `rotate` need root.pem, so it can lie elsewhere. Needs tuf and cryptography: pip install tuf cryptography
"""

import datetime
import json
import shutil
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

ROLES = ("root", "targets", "snapshot", "timestamp")
# How long each role's signature holds: the longer, the longer a copy of the past can be shown to a gateway.
DAYS = {"root": 365, "targets": 90, "snapshot": 90, "timestamp": 7}
LISTS = {"hardware"}
SETTINGS = LISTS | {"class", "version-scheme", "compatible", "min-version", "rollout", "not-before", "notes"}


class Repository:
    def __init__(self, folder, keys):
        self.metadata, self.targets, self.keys = Path(folder, "metadata"), Path(folder, "targets"), Path(keys)

    def key(self, role, make=False):
        file = self.keys / f"{role}.pem"
        if make and not file.exists():
            signer = CryptoSigner.generate_ed25519()
            file.touch(mode=0o600)
            file.write_bytes(signer.private_bytes)
        return CryptoSigner(load_pem_private_key(file.read_bytes(), None))

    def newest(self, role):
        if role == "timestamp":
            return Metadata.from_file(str(self.metadata / "timestamp.json"))
        files = self.metadata.glob(f"*.{role}.json")
        return Metadata.from_file(str(max(files, key=lambda file: int(file.name.split(".")[0]))))

    def sign(self, role, content, *signers):
        content.expires = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(DAYS[role])
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

    def init(self):
        for folder in (self.metadata, self.targets, self.keys):
            folder.mkdir(parents=True, exist_ok=True)
        if any(self.metadata.iterdir()):
            sys.exit(f"{self.metadata} is not empty")
        root = Root(version=1, consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self.key(role, make=True).public_key, role)
        self.sign("root", root)
        listed = self.sign("targets", Targets(version=1))
        snapshot = self.sign("snapshot", Snapshot(version=1, meta={"targets.json": listed}))
        self.sign("timestamp", Timestamp(version=1, snapshot_meta=snapshot))

    def add(self, file, version, *pairs):
        if not Path(file).is_file():
            sys.exit(f"{file} is not a file")
        target = TargetFile.from_file(Path(file).name, file, ["sha256"])
        target.unrecognized_fields["custom"] = {"tombolo": {"class": "gateway", "version": version, **custom(pairs)}}
        targets = self.newest("targets").signed
        if before := targets.targets.get(target.path):
            listed = before.unrecognized_fields.get("custom", {}).get("tombolo", {}).get("version")
            if listed != version:
                sys.exit(f"{target.path} is version {listed} already: give the file another name, or remove {listed} first")
        shutil.copyfile(file, self.targets / f"{target.hashes['sha256']}.{target.path}")
        targets.targets[target.path] = target
        self.publish(targets)

    def set(self, version, *pairs):
        targets = self.newest("targets").signed
        self.of(targets, version).unrecognized_fields["custom"]["tombolo"].update(custom(pairs))
        self.publish(targets)

    def remove(self, version):
        targets = self.newest("targets").signed
        del targets.targets[self.of(targets, version).path]
        self.publish(targets)

    def refresh(self):
        """Signs the timestamp anew, and the others once half of their time has passed."""
        now = datetime.datetime.now(datetime.timezone.utc)
        old = [role for role in ("targets", "snapshot") if self.newest(role).signed.expires - now < datetime.timedelta(DAYS[role] / 2)]
        if old:
            self.publish(self.newest("targets").signed)
        else:
            self.stamp(self.newest("timestamp").signed.snapshot_meta)

    def rotate(self, role):
        """A new key for a role. The next root is signed by the root key before and the one from now on."""
        root, before = self.newest("root").signed, self.key("root")
        (self.keys / f"{role}.pem").rename(self.keys / f"{role}.{root.version}.old.pem")
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(self.key(role, make=True).public_key, role)
        root.version += 1
        self.sign("root", root, *([before, self.key("root")] if role == "root" else [before]))
        if role != "root":
            self.publish(self.newest("targets").signed)

    @staticmethod
    def of(targets, version):
        for target in targets.targets.values():
            if target.unrecognized_fields.get("custom", {}).get("tombolo", {}).get("version") == version:
                return target
        sys.exit(f"there is no target of version {version}")


def custom(pairs):
    """`rollout=25` is a number, `hardware=a,b` a list, all else a text."""
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or name not in SETTINGS:
            sys.exit(f"{pair!r} is not KEY=VALUE with one of the keys {', '.join(sorted(SETTINGS))}")
        found[name] = json.loads(value) if name == "rollout" else value.split(",") if name in LISTS else value
    return found


def main():
    if len(sys.argv) < 4 or sys.argv[3] not in ("init", "add", "set", "remove", "refresh", "rotate"):
        sys.exit(__doc__)
    getattr(Repository(sys.argv[1], sys.argv[2]), sys.argv[3])(*sys.argv[4:])


if __name__ == "__main__":
    main()
