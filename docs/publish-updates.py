#!/usr/bin/env python3
"""Signs a TUF repository for gateways, with python-tuf. docs/updates.md says when to run what.

    publish-updates.py REPOSITORY KEYS init
    publish-updates.py REPOSITORY KEYS add FILE VERSION [KEY=VALUE ...]
    publish-updates.py REPOSITORY KEYS set VERSION|FILE KEY=VALUE ...
    publish-updates.py REPOSITORY KEYS remove VERSION|FILE
    publish-updates.py REPOSITORY KEYS renew-targets
    publish-updates.py REPOSITORY KEYS refresh
    publish-updates.py REPOSITORY KEYS renew-root
    publish-updates.py REPOSITORY KEYS rotate ROLE [--stale-copy]

REPOSITORY gets metadata/ and targets/, to be served by any web server over HTTPS. KEYS has one PEM file a role. Where
only some of them are, the commands sign what those sign, and say what is to be run where the others are:

    root.pem                     init, renew-root, rotate (which needs those of the role and of what refers to it, too)
    targets.pem                  add, set, remove, renew-targets
    snapshot.pem, timestamp.pem  refresh, daily

A VERSION means all its targets, a FILE the one of that name. Needs tuf and cryptography: pip install tuf cryptography
"""

import datetime
import inspect
import re
import shutil
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import StorageError
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

ROLES = ("root", "targets", "snapshot", "timestamp")
# How long each role's signature holds: the longer, the longer a copy of the past can be shown to a gateway.
# An old state is shown no longer than the timestamp holds. What people sign with keys that lie elsewhere holds a year.
DAYS = {"root": 365, "targets": 365, "snapshot": 90, "timestamp": 7}
WHERE = {
    "root": "offline", "targets": "with whoever releases",
    "snapshot": "on the publishing machine", "timestamp": "on the publishing machine",
}
# So long before root.json and targets.json expire, every command says so.
SOON = datetime.timedelta(60)
# A gateway follows so many versions of root.json from its root-file on; a quarter before, every command says so.
ROOTS_MAX = 64
LISTS = {"hardware"}
# Which gateway takes a target: with one value for several targets, a gateway would be offered more than one.
PRODUCT = {"class", "compatible", "hardware"}
SETTINGS = LISTS | PRODUCT | {"version-scheme", "min-version", "rollout", "not-before", "notes"}
TEXT_MAX, NOTES_MAX, HARDWARE_MAX = 128, 1024, 64
IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
NUMBER = "(?:0|[1-9][0-9]*)"
SCHEMES = {
    "debian": re.compile(r"(?=.*[0-9])(?:[0-9]+:[A-Za-z0-9.+~:-]+|[A-Za-z0-9.+~-]+)"),
    "semver": re.compile(rf"{NUMBER}\.{NUMBER}\.{NUMBER}(?:-{IDENTIFIERS})?(?:\+{IDENTIFIERS})?"),
}
NAME = re.compile(r"[A-Za-z0-9._~+-]+")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class Unreadable(Exception):
    """A file of metadata that is none, by its name and what to do."""


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Repository:
    def __init__(self, folder, keys):
        self.metadata, self.targets, self.keys = Path(folder, "metadata"), Path(folder, "targets"), Path(keys)
        # While a key is replaced: what is signed meanwhile is signed by the new one, too.
        self.next_key = {}

    def make_key(self, role, name=None):
        file = self.keys / f"{name or role}.pem"
        if not file.exists():
            signer = CryptoSigner.generate_ed25519()
            file.touch(mode=0o600)
            file.write_bytes(signer.private_bytes)
        return self.read_key(role, name)

    def read_key(self, role, name=None):
        file = self.keys / f"{name or role}.pem"
        try:
            return CryptoSigner(load_pem_private_key(file.read_bytes(), None))
        except OSError as error:
            sys.exit(f"{file}: {error.strerror}; KEYS is the folder with the key of each role that is to sign: that of {role} lies {WHERE[role]}")
        except (TypeError, ValueError) as error:
            sys.exit(f"{file} is not a private key in PEM without a password: {error}")

    def has_key(self, role):
        return (self.keys / f"{role}.pem").exists()

    def key(self, role):
        """The key of a role, if it is the one that root.json names: by another nothing is signed."""
        signer, root = self.read_key(role), self.newest("root").signed
        if not is_named(signer, role, root):
            sys.exit(f"{self.keys / role}.pem is not the key of {role} in {root.version}.root.json; is it of another repository, was it replaced, or is the newest N.root.json not in {self.metadata} yet?")
        return signer

    def file(self, role):
        """The newest of a role."""
        if role == "timestamp":
            files = [self.metadata / "timestamp.json"]
        else:
            files = [file for file in self.metadata.glob(f"*.{role}.json") if file.name.split(".")[0].isdigit()]
        file = max(files, key=lambda file: file.name == "timestamp.json" or int(file.name.split(".")[0]), default=None)
        if file is None or not file.is_file():
            sys.exit(f"{self.metadata} has no {role}.json; correct REPOSITORY, or begin one with `init`")
        return file

    def newest(self, role):
        file = self.file(role)
        try:
            metadata = Metadata.from_file(str(file))
        except (DeserializationError, StorageError):
            metadata = None
        if metadata is None or metadata.signed.type != role:
            raise Unreadable(f"{file} is not whole, or no {role}.json: copy it here again from where it was signed or is published, or delete it if it never was")
        return metadata

    def verifies(self, role):
        """Whether the newest of a role is signed as the newest root.json says."""
        metadata = self.newest(role)
        try:
            self.newest("root").signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError:
            return False
        return True

    def listed(self, role):
        """What refers to the newest of a role."""
        return MetaFile.from_data(self.newest(role).signed.version, self.file(role).read_bytes(), ["sha256"])

    def sign(self, role, content, *signers):
        content.expires = now() + datetime.timedelta(DAYS[role])
        metadata = Metadata(content)
        for signer in (*(signers or (self.key(role),)), *self.next_key.get(role, ())):
            metadata.sign(signer, append=True)
        data = metadata.to_bytes(JSONSerializer(compact=True))
        name = "timestamp.json" if role == "timestamp" else f"{content.version}.{role}.json"
        # Beside it, then renamed: a gateway that asks now gets one or the other.
        beside = self.metadata / f".{name}"
        beside.write_bytes(data)
        beside.rename(self.metadata / name)
        return MetaFile.from_data(content.version, data, ["sha256"])

    def sign_from(self, role):
        """The newest of a role anew, and what refers to it. The order matters: what is referred to is there before."""
        if role == "targets":
            targets = self.newest("targets").signed
            targets.version += 1
            self.sign("targets", targets)
        if role != "timestamp":
            snapshot = self.newest("snapshot").signed
            snapshot.version += 1
            snapshot.meta = {"targets.json": self.listed("targets")}
            self.sign("snapshot", snapshot)
        timestamp = self.newest("timestamp").signed
        timestamp.version += 1
        timestamp.snapshot_meta = self.listed("snapshot")
        self.sign("timestamp", timestamp)

    def publish(self, targets):
        """By the keys that are here."""
        self.have_keys("targets")
        targets.version += 1
        self.sign("targets", targets)
        if self.has_key("snapshot") and self.has_key("timestamp"):
            self.sign_from("snapshot")
        else:
            name = f"{targets.version}.targets.json"
            print(f"{name} is signed: copy it, and new files of targets/, to the publishing machine, and run `refresh` there", file=sys.stderr)

    def have_keys(self, *needed):
        """Ends before anything is changed if one that is needed is missing, or one that is here is another."""
        for role in reversed(ROLES[1:]):
            if role in needed or self.has_key(role):
                self.key(role)

    def settle(self):
        """A `rotate` that was interrupted once root.json had the new key is brought to its end."""
        for role in ROLES:
            if (self.keys / f"{role}.new.pem").exists() and is_named(self.read_key(role, f"{role}.new"), role, self.newest("root").signed):
                self.exchange(role)

    def exchange(self, role):
        old, new = self.keys / f"{role}.pem", self.keys / f"{role}.new.pem"
        if old.exists():
            old.rename(self.keys / f"{role}.{self.newest('root').signed.version - 1}.old.pem")
        new.rename(old)

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
        self.have_keys("targets")
        self.targets.mkdir(exist_ok=True)
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

    def renew_targets(self):
        """The same targets for another year."""
        targets = self.newest("targets").signed
        self.publish(targets)
        print(f"{targets.version}.targets.json is valid until {targets.expires:%Y-%m-%d}")

    def refresh(self):
        """Signs the timestamp anew, and the others where that is due and their keys are here. The rest is named."""
        self.key("timestamp")
        try:
            self.newest("targets")
        except Unreadable as error:
            # What gateways were offered before stays in force: the timestamp is not to expire for it.
            self.sign_from("timestamp")
            sys.exit(f"timestamp.json is signed anew, for the snapshot before, and nothing else: {error}, then `refresh`")
        targets, snapshot, root = (self.newest(role).signed for role in ("targets", "snapshot", "root"))
        name = f"{root.version}.root.json"
        signs = {role: self.has_key(role) and is_named(self.read_key(role), role, root) for role in ("targets", "snapshot")}
        # What cannot be signed here keeps the timestamp from nothing.
        missing = [f"{role}.pem is not the key of {role} in {name}" for role in signs if self.has_key(role) and not signs[role]]
        if snapshot.meta["targets.json"].version > targets.version:
            sys.exit(f"{snapshot.version}.snapshot.json is of version {snapshot.meta['targets.json'].version} of targets.json, which is not here")
        if signs["targets"] and not missing and (is_due(targets, "targets") or not self.verifies("targets")):
            self.publish(targets)
            snapshot = self.newest("snapshot").signed
        is_targets_right = self.verifies("targets")
        if not is_targets_right:
            missing.append(f"{targets.version}.targets.json is not signed by the key of targets in {name}: run `renew-targets` where targets.pem is")
        is_old = snapshot.meta["targets.json"] != self.listed("targets") or is_due(snapshot, "snapshot") or not self.verifies("snapshot")
        if is_old and is_targets_right and not signs["snapshot"]:
            missing.append(f"snapshot.json is to be signed anew: run `refresh` where snapshot.pem is, which lies {WHERE['snapshot']}")
        self.sign_from("snapshot" if is_old and is_targets_right and signs["snapshot"] else "timestamp")
        if missing:
            sys.exit("\n".join(["timestamp.json is signed anew, and this is not:", *missing]))

    def renew_root(self):
        """The same keys for another year. Nothing else is signed, so no other key is needed."""
        root = self.newest("root").signed
        root.version += 1
        self.sign("root", root)
        print(f"{root.version}.root.json is valid until {root.expires:%Y-%m-%d}")

    def rotate(self, role, *options):
        """A new key for a role. The next root is signed by the root key before and the one from now on.

        What the role signs is signed by both keys, before that root is there: it verifies by the root before and by the
        next, whichever a gateway gets. The keys are exchanged last; what is interrupted is repeated, or `settle`d.
        An old copy of the rest would be signed anew as the newest: with another key, gateways take what is older.
        """
        if options not in ((), ("--stale-copy",)):
            sys.exit(f"rotate: {' '.join(options)!r} is not --stale-copy, which is all that may follow ROLE")
        if role not in ROLES:
            sys.exit(f"{role!r} is no role; use one of {', '.join(ROLES)}")
        root, before = self.newest("root").signed, self.key("root")
        refers = ROLES[ROLES.index(role) + 1 :] if role != "root" else ()
        for other in refers:
            self.key(other)
        is_lost = not self.has_key(role)
        if not is_lost:
            self.key(role)
        end = self.newest("timestamp").signed.expires
        if role != "root" and not options and end <= now():
            sys.exit(
                f"{self.metadata / 'timestamp.json'} expired on {end:%Y-%m-%d}: copy the newest metadata/ of the publishing machine here first."
                " If it is that already, run `refresh` there before; if that cannot sign any more, `rotate` with --stale-copy"
            )
        new = self.make_key(role, f"{role}.new")
        if role != "root" and not is_lost:
            self.next_key = {role: (new,)}
            self.sign_from(role)
            self.next_key = {}
        root.revoke_key(root.roles[role].keyids[0], role)
        root.add_key(new.public_key, role)
        root.version += 1
        self.sign("root", root, *([before, new] if role == "root" else [before]))
        self.exchange(role)
        if is_lost:
            self.sign_from(role)
            print(f"the key before was not here: until {root.version}.root.json and the rest are published, gateways find nothing", file=sys.stderr)

    def warn(self, *roles):
        root, over = self.newest("root").signed, []
        ways = {
            "root": "run `renew-root` where root.pem is, publish its file, then `refresh`",
            "targets": "run `renew-targets` where targets.pem is, then `refresh`",
        }
        for role in roles:
            signed, way = self.newest(role).signed, ways[role]
            name, day = f"{signed.version}.{role}.json", f"{signed.expires:%Y-%m-%d}"
            if role == "root" and not self.has_key("root"):
                way = f"if there is a later one, copy the newest N.root.json into {self.metadata} here; else {way}"
            if signed.expires <= now() and role == "root" and not self.has_key("root") and not self.has_key("timestamp"):
                # Neither where it is renewed nor where it is published: an old copy says nothing of what gateways get.
                print(f"{name}, which is the newest here, expired on {day}: {way}", file=sys.stderr)
            elif signed.expires <= now():
                over.append(f"{name} expired on {day}, and no gateway takes anything of the repository: {way}")
            elif signed.expires - now() < SOON:
                print(f"{name} expires on {day}; before that, {way}", file=sys.stderr)
        if root.version > ROOTS_MAX * 3 // 4:
            oldest = root.version - ROOTS_MAX * 3 // 4
            print(f"a gateway follows {ROOTS_MAX} versions of root.json from its root-file on: give those with a root-file before {oldest}.root.json a later one", file=sys.stderr)
        if over:
            sys.exit("\n".join(over))


def is_named(signer, role, root):
    """Whether that root.json names it as the key of the role."""
    return any(root.keys[key].keyval == signer.public_key.keyval for key in root.roles[role].keyids)


def is_due(signed, role):
    """Half of its time is over."""
    return signed.expires - now() < datetime.timedelta(DAYS[role] / 2)


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
            # Nothing else can be signed: TUF's JSON has no fractions.
            if not re.fullmatch("[0-9]{1,3}", value):
                sys.exit(f"{pair!r}: rollout is a whole number of 0 to 100 percent")
            found[name] = int(value)
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
            is_time = TIME.fullmatch(about["not-before"]) and datetime.datetime.strptime(about["not-before"], "%Y-%m-%dT%H:%M:%SZ").year >= 1970
        except ValueError:
            is_time = False
        if not is_time:
            sys.exit(f"not-before={about['not-before']}: it is a time in UTC like 2026-12-01T00:00:00Z")
    for key, value in about.items():
        longest = NOTES_MAX if key == "notes" else TEXT_MAX
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not (0 < len(text.encode()) <= longest and (key == "notes" or text.isprintable())):
                sys.exit(f"{key}={text!r}: it is 1 to {longest} bytes without control characters")
    if len(about.get("hardware", ())) > HARDWARE_MAX:
        sys.exit(f"hardware: at most {HARDWARE_MAX} revisions")


COMMANDS = ("init", "add", "set", "remove", "renew-targets", "refresh", "renew-root", "rotate")


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
        if sys.argv[3] != "init":
            repository.settle()
        command(*arguments)
        # Where root.json is renewed there may be an old copy of the rest.
        signs_root_alone = sys.argv[3:] in (["renew-root"], ["rotate", "root"])
        repository.warn(*(("root",) if signs_root_alone else ("root", "targets")))
    except (OSError, Unreadable) as error:
        sys.exit(f"{error}: nothing more was done")


if __name__ == "__main__":
    main()
