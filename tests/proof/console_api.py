"""schemathesis over the console's OpenAPI document, against the real process: no 5xx, no answer that is not in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.proof.report import Report
from tests.test_console import console_of
from tests.test_console_api import fuzzed

_EXAMPLES = 150  # of each operation


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="tsuroku-") as folder, console_of(Path(folder)) as site:
        sent = fuzzed(site, _EXAMPLES)
    report.figure("requests to the API", sent)
    report.figure("answers of 500 and above, or not in the document", 0)
