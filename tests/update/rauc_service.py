#!/usr/bin/python3
"""RAUC's service as its client sees it: `de.pengutronix.rauc` on a private D-Bus, without slots and without a boot loader.

    rauc_service.py FOLDER

DBUS_SYSTEM_BUS_ADDRESS says the bus. `FOLDER/version` is the version that runs; what is asked goes to `FOLDER/asked`, a
bundle that is installed to `FOLDER/slot`. `FOLDER/outcome` says how an installation ends:

| outcome | then |
|---|---|
| none | progress in steps, then Completed(0) |
| failed | LastError, then Completed(1) |
| gone | the process ends after 40 % |
| busy | InstallBundle is answered by an error |
| unanswered | InstallBundle is not answered |
| held | it stands at 40 % until the file has another content |

It prints a line when it has its name.
"""

import os
import shutil
import sys

import dbus
import dbus.mainloop.glib
import dbus.service
from gi.repository import GLib

FOLDER = sys.argv[1]
INTERFACE = "de.pengutronix.rauc.Installer"
STEPS = ((0, "Installing", 1), (20, "Checking bundle", 2), (40, "Checking bundle done.", 2), (60, "Updating slots", 2),
         (100, "Installing done.", 1))
FAILED = "org.gtk.GDBus.UnmappedGError.Quark._gio_2derror"
LAST_ERROR = "Installation error: Failed to write to slot rootfs.1: No space left on device"


def stored(name, default=""):
    try:
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return default


def note(line):
    with open(os.path.join(FOLDER, "asked"), "a", encoding="utf-8") as file:
        file.write(line + "\n")


def progress(percent, message, depth):
    return dbus.Struct((dbus.Int32(percent), message, dbus.Int32(depth)), signature="isi")


class Installer(dbus.service.Object):
    def __init__(self, bus):
        super().__init__(bus, "/")
        self.properties = {"Operation": "idle", "LastError": "", "Progress": progress(0, "", 0), "Compatible": "acme-gw2",
                           "Variant": "", "BootSlot": "A"}

    def change(self, **properties):
        self.properties.update(properties)
        self.PropertiesChanged(INTERFACE, dbus.Dictionary(properties, signature="sv"), dbus.Array([], signature="s"))

    @dbus.service.method(INTERFACE, in_signature="sa{sv}", async_callbacks=("answer", "refuse"))
    def InstallBundle(self, source, _arguments, answer, refuse):
        outcome = stored("outcome")
        note(f"install {source} {outcome}".rstrip())
        if outcome == "busy":
            return refuse(dbus.DBusException("already processing a different method", name=FAILED))
        if outcome == "unanswered":
            return None
        self.change(Operation="installing", LastError="")
        GLib.timeout_add(10, self.go_on, str(source), outcome, list(STEPS))
        return answer()

    def go_on(self, source, outcome, steps):
        percent, message, depth = steps[0]
        if percent > 40 and stored("outcome") == "held":
            return True
        steps.pop(0)
        self.change(Progress=progress(percent, message, depth))
        if outcome == "gone" and percent == 40:
            self.connection.flush()
            os._exit(1)
        if outcome == "failed" and percent == 60:
            self.change(LastError=LAST_ERROR)
            self.Completed(1)
            self.change(Operation="idle")
            return False
        if steps:
            return True
        shutil.copyfile(source, os.path.join(FOLDER, "slot"))
        self.Completed(0)
        self.change(Operation="idle")
        return False

    @dbus.service.method(INTERFACE, in_signature="ss", out_signature="ss")
    def Mark(self, state, slot):
        note(f"mark {state} {slot}")
        return "rootfs.0", f"marked slot rootfs.0 as {state}"

    @dbus.service.method(INTERFACE, out_signature="s")
    def GetPrimary(self):
        return "rootfs.0"

    @dbus.service.method(INTERFACE, out_signature="a(sa{sv})")
    def GetSlotStatus(self):
        def slot(state, **more):
            return dbus.Dictionary({"class": "rootfs", "device": "/dev/null", "type": "raw", "state": state, **more}, signature="sv")

        running = slot("booted", bootname="A", **{"bundle.version": stored("version"), "bundle.compatible": "acme-gw2"})
        slots = [("rootfs.0", running), ("rootfs.1", slot("inactive", bootname="B"))]
        return dbus.Array([dbus.Struct(one, signature="sa{sv}") for one in slots], signature="(sa{sv})")

    @dbus.service.signal(INTERFACE, signature="i")
    def Completed(self, result):
        pass

    @dbus.service.method(dbus.PROPERTIES_IFACE, in_signature="ss", out_signature="v")
    def Get(self, _interface, name):
        return self.properties[name]

    @dbus.service.method(dbus.PROPERTIES_IFACE, in_signature="s", out_signature="a{sv}")
    def GetAll(self, _interface):
        return dbus.Dictionary(self.properties, signature="sv")

    @dbus.service.signal(dbus.PROPERTIES_IFACE, signature="sa{sv}as")
    def PropertiesChanged(self, interface, changed, invalidated):
        pass


def main():
    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    bus = dbus.SystemBus()
    name = dbus.service.BusName("de.pengutronix.rauc", bus, do_not_queue=True)
    installer = Installer(bus)
    print(name.get_name(), flush=True)
    GLib.MainLoop().run()
    del installer


if __name__ == "__main__":
    main()
