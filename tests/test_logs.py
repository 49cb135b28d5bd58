"""What log lines tell, and what they must not."""

import json
import subprocess
import sys

import pytest

FAILING = """
import sys
import structlog
from cotenant.runtime import logs

def serve(metadata):
    token = metadata["authorization"]
    raise ValueError("of no use")

logs.configure("tested", style=sys.argv[1])
try:
    serve({"authorization": "Bearer hush-hush"})
except ValueError as error:
    structlog.get_logger().exception("failed")
    structlog.get_logger().critical("failed again", exc_info=error)
"""


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_trace_tells_where_and_why_and_no_values(style: str) -> None:
    done = subprocess.run([sys.executable, "-c", FAILING, style], capture_output=True, text=True, check=True)
    assert done.stderr.count("of no use") >= 2
    assert "serve" in done.stderr
    assert "hush" not in done.stderr
    if style == "json":
        for line in done.stderr.splitlines():
            assert json.loads(line)["exception"][0]["exc_type"] == "ValueError"
