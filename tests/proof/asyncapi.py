"""The contract's AsyncAPI document against the official JSON Schema of AsyncAPI 3.0, from npm."""

from __future__ import annotations

import copy
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import fastjsonschema

from tests.contract import file, messages
from tests.proof.report import Report

PACKAGE = "@asyncapi/specs@6.11.1"


def official() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tsuroku-asyncapi-") as work:
        packed = subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", work, PACKAGE],
            cwd=work,
            check=True,
            capture_output=True,
            text=True,
        )
        with tarfile.open(Path(work) / packed.stdout.split()[-1]) as archive:
            schema = archive.extractfile("package/schemas/3.0.0-without-$id.json")
            assert schema
            return dict(json.load(schema))


def without_examples(schema: Any) -> Any:
    """fastjsonschema follows every $ref, those in examples too."""
    if isinstance(schema, list):
        return [without_examples(each) for each in schema]
    if isinstance(schema, dict):
        return {
            key: without_examples(each) for key, each in schema.items() if key != "examples" or isinstance(each, dict)
        }
    return schema


def prove(report: Report) -> None:
    valid = fastjsonschema.compile(without_examples(official()))
    report.progress(0.9)
    document = file("asyncapi.json")
    valid(document)
    wrong = copy.deepcopy(document)
    wrong["operations"]["status"]["action"] = "publish"  # as AsyncAPI 2 had it
    try:
        valid(wrong)
    except fastjsonschema.JsonSchemaException as error:
        report.figure("a wrong one", f"refused: {error}")
    else:
        raise AssertionError("the official schema takes anything")
    report.figure("schema", f"{PACKAGE}, 3.0.0")
    report.figure(
        "channels, operations, messages",
        f"{len(document['channels'])}, {len(document['operations'])}, {len(messages())}",
    )
