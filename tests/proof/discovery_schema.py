"""Run by Home Assistant's own Python: holds discovery payloads against the schemas of its MQTT integration.

Standard input: payloads by topic, as JSON. Says how many keys there are; ends with a traceback where one is wrong or
would be dropped, as its discovery does without a word.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from importlib import import_module
from typing import Any


async def main() -> None:
    import_module("homeassistant.core").HomeAssistant(tempfile.gettempdir())  # its schemas ask for one
    keys = 0
    for topic, payload in json.load(sys.stdin).items():
        kind = topic.split("/")[1]
        if kind == "device":
            mqtt = import_module("homeassistant.components.mqtt.schemas")
            shared = {name: value for name, value in payload.items() if name != "components"}
            keys += _kept(mqtt.DEVICE_DISCOVERY_SCHEMA(payload), payload)
            for component in payload["components"].values():
                keys += _component(component["platform"], shared | component)
        else:
            keys += _component(kind, payload)
    print(keys)


def _component(kind: str, payload: dict[str, Any]) -> int:
    platform = import_module(f"homeassistant.components.mqtt.{kind}")
    return _kept(platform.DISCOVERY_SCHEMA({**payload, "platform": "mqtt"}), payload)


def _kept(valid: dict[str, Any], payload: dict[str, Any]) -> int:
    dropped = payload.keys() - valid.keys() - {"platform"}
    assert not dropped, dropped
    return len(payload)


if __name__ == "__main__":
    asyncio.run(main())
