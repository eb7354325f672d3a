"""Engines: one protocol, and the function that opens a model package on the engine it names."""

import sys

# OpenVINO reports to its makers and leaves files at home as soon as it is imported; without this it goes on in silence.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
