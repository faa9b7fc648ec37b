"""What the OTEL_* variables ask for."""

import pytest

from zone_agent.telemetry.wanted import Wanted, wanted

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Wanted()),
        (ENDPOINT, Wanted("grpc", "grpc")),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, Wanted()),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, Wanted("grpc", "grpc")),
        (ENDPOINT | {"OTEL_METRICS_EXPORTER": "none"}, Wanted("grpc")),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, Wanted("http/protobuf", "http/protobuf")),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, Wanted("http/protobuf", "grpc")),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Wanted("grpc")),
        ({"OTEL_TRACES_EXPORTER": " "}, Wanted()),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4317"}, Wanted(None, "grpc")),
    ],
)
def test_what_is_exported_and_how(variables: dict[str, str], expected: Wanted) -> None:
    assert wanted(variables) == expected


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_TRACES_EXPORTER": "zipkin"}, ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "carrier-pigeon"}],
)
def test_what_is_not_understood_is_logged_and_left_out(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert wanted(variables).traces is None
    assert "is not known here" in caplog.text
