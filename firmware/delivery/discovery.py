"""What Home Assistant is told of a unit, so that it finds everything by itself (MQTT discovery). Pure.

One payload of the whole device (2024.11 and later), or one for each component (before). In either the topics are whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from firmware.core.outbox import CALL_EVENTS

# An event entity wants its type as event_type, and keeps the rest as attributes. It passes over what renders to
# nothing: what another consumer has asked for again is no news.
_EVENT = (
    "{% if not value_json.replayed %}{% set d = value_json.data %}"
    "{% set who = d.get('waiting') or d.caller or d.dialled or {} %}"
    "{{ {'event_type': value_json.type, 'time': value_json.time, 'call_id': value_json.subject,"
    " 'line': d.line, 'direction': d.get('direction'), 'presentation': who.get('presentation'),"
    " 'number': who.get('display') or who.get('number') or who.get('last4'),"
    " 'name': d.get('contact', {}).get('name') or who.get('name'), 'region': who.get('region_ja'),"
    " 'duration_s': d.get('duration_s'), 'outcome': d.get('outcome')} | tojson }}{% endif %}"
)
_IN_USE = "{{ 'ON' if value_json.state in ['dialling', 'in_call', 'flash', 'held_open'] else 'OFF' }}"
_FAULT = "{{ 'ON' if value_json.state in ['line_cut', 'held_open'] else 'OFF' }}"


def messages(
    style: Literal["device", "components"], prefix: str, branch: str, name: str, lines: int, info: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Retained payloads by topic. prefix: Home Assistant's; name: the unit's own among all of a broker."""
    node = f"tsuroku-{name}"
    device = {
        "identifiers": [node],
        "name": f"Tsuroku {name}",
        "manufacturer": "Tsuroku",
        "model": info["model"],
        "sw_version": info["version"],
    }
    availability = {
        "availability_topic": f"{branch}/status",
        "availability_template": "{{ 'online' if value == 'online' else 'offline' }}",  # maintenance: it is away
        "payload_available": "online",
        "payload_not_available": "offline",
    }
    found = {
        key: {"unique_id": f"{node}-{key}", **component, **availability}
        for key, component in _components(branch, lines).items()
    }
    origin = {"name": "tsuroku", "sw_version": info["version"]}
    if style == "device":
        whole = {"device": device, "origin": origin, "components": found, "qos": 1}
        return {f"{prefix}/device/{node}/config": whole}
    return {
        f"{prefix}/{component['platform']}/{node}/{key}/config": {
            **{name: value for name, value in component.items() if name != "platform"},
            "device": device,
            "origin": origin,
            "qos": 1,
        }
        for key, component in found.items()
    }


def _components(branch: str, lines: int) -> dict[str, dict[str, Any]]:
    recorder = f"{branch}/state/recorder"
    found: dict[str, dict[str, Any]] = {
        "call": {
            "platform": "event",
            "name": "Call",
            "icon": "mdi:phone",
            "state_topic": f"{branch}/event/call",
            "event_types": list(CALL_EVENTS),  # Home Assistant refuses any other
            "value_template": _EVENT,
        },
        "recording": {
            "platform": "switch",
            "name": "Recording",
            "icon": "mdi:record-rec",
            "state_topic": recorder,
            "value_template": "{{ 'ON' if value_json.enabled else 'OFF' }}",
            "command_topic": f"{branch}/set/recording",
            "payload_on": "ON",
            "payload_off": "OFF",
            "optimistic": False,
        },
        "last_call": {
            "platform": "sensor",
            "name": "Last call",
            "icon": "mdi:phone-log",
            "state_topic": f"{branch}/state/last_call",
            "value_template": "{{ value_json.outcome }}",
            "json_attributes_topic": f"{branch}/state/last_call",
        },
        "disk": {
            "platform": "sensor",
            "name": "Free space",
            "icon": "mdi:harddisk",
            "state_topic": recorder,
            "value_template": "{{ value_json.disk_free_mb }}",
            "unit_of_measurement": "MB",
            "device_class": "data_size",
            "state_class": "measurement",
            "entity_category": "diagnostic",
        },
        "callbacks": {
            "platform": "sensor",
            "name": "Callbacks waiting",
            "icon": "mdi:phone-return",
            "state_topic": recorder,
            "value_template": "{{ value_json.callbacks_waiting }}",
            "state_class": "measurement",
        },
    }
    for number in range(1, lines + 1):
        own = f" {number}" if lines > 1 else ""
        state = f"{branch}/state/line/{number}"
        found[f"line_{number}_in_use"] = {
            "platform": "binary_sensor",
            "name": f"Line{own} in use",
            "icon": "mdi:phone-in-talk",
            "state_topic": state,
            "value_template": _IN_USE,
        }
        found[f"line_{number}_fault"] = {
            "platform": "binary_sensor",
            "name": f"Line{own} fault",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": state,
            "value_template": _FAULT,
        }
    return found
