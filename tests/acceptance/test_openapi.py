"""The running API against its own description: requests that schemathesis makes of the OpenAPI document.

No answer may be an error of ours, have a status or a form that is not documented, or a body that its schema does not allow; every
method that is not there is refused as the header Allow says. Bounded in time, and of one seed, so that a run says the same as the
one before; what it finds it shows as curl commands.
"""

import os
import subprocess
import sys
from pathlib import Path

#: s. Examples and edge cases of each parameter take some twenty, the rest is random.
BUDGET = 60
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "unsupported_method,allow_header_conformance,ignored_auth"
)


def test_the_service_is_as_it_says(service_to_spoil, tmp_path):
    service = service_to_spoil
    done = subprocess.run(
        [
            Path(sys.executable).with_name("st"),
            "run",
            f"{service.url}/openapi.json",
            "--max-time",
            str(BUDGET),
            "--checks",
            CHECKS,
            "--header",
            f"Authorization: Bearer {service.key}",
            "--exclude-path",
            "/v1/stream",  # its answer has no end to wait for: tests/integration/test_api_stream.py
            "--seed",
            os.environ.get("CITYBEAT_OPENAPI_SEED", "1"),
            "--continue-on-failure",
            "--no-color",
            "--request-timeout",
            "20",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
