"""An application on paho that sends commands and waits for their outcomes: paho_requests.py PORT COMMAND…

A COMMAND is `METHOD DEVICE PATH CORRELATION [PAYLOAD]`; the correlation data are hex. All are published before the first
outcome is read, with one response topic. Each outcome is a line: correlation data, status, payload.
"""

import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TOPIC = "app/paho"
port, commands = int(sys.argv[1]), [command.split(" ", 4) for command in sys.argv[2:]]
ready, done, outcomes = threading.Event(), threading.Event(), []


def heard(client, user, message):
    status = dict(message.properties.UserProperty).get("status", "-")
    correlation = getattr(message.properties, "CorrelationData", b"").hex()
    outcomes.append(f"{correlation} {status} {message.payload.decode()}")
    if len(outcomes) == len(commands):
        done.set()


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_message = heard
client.on_subscribe = lambda *arguments: ready.set()
client.connect("127.0.0.1", port)
client.loop_start()
client.subscribe(TOPIC, qos=1)
assert ready.wait(30), "no SUBACK"
for method, device, path, correlation, *payload in commands:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = TOPIC
    properties.CorrelationData = bytes.fromhex(correlation)
    properties.UserProperty = ("method", method)
    client.publish(f"tombolo/gw/{device}/down/{path}", "".join(payload), qos=2, properties=properties)
assert done.wait(60), outcomes
client.loop_stop()
client.disconnect()
print("\n".join(outcomes))
