"""What is not imported where nobody asked for telemetry."""

import subprocess
import sys

import pytest

COMMAND = """
from zone_agent.cli.main import run
status = run(["--endpoint", "127.0.0.1:1", "--credentials", {credentials!r}, "app", "list"])
assert status == 6, status
"""
AGENT = "import zone_agent.agent, zone_agent.telemetry.agent"


@pytest.mark.parametrize("kind", ["command", "agent"])
def test_nothing_of_opentelemetry_is_imported_and_for_a_command_nothing_of_prometheus(
    kind: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path_factory.mktemp("user") / "credentials"
    credentials.write_text("user:secret")
    for variable in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"):
        monkeypatch.delenv(variable, raising=False)
    program = COMMAND.format(credentials=str(credentials)) if kind == "command" else AGENT
    unwanted = ["opentelemetry", "prometheus_client"] if kind == "command" else ["opentelemetry"]
    check = f"\nimport sys\nassert not set(sys.modules) & set({unwanted}), set(sys.modules) & set({unwanted})"
    done = subprocess.run(
        [sys.executable, "-c", program + check], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
