"""Inference engines: one protocol, and the function that opens a model package on the engine its manifest names."""

import sys

# At import, OpenVINO sends telemetry to its makers and writes files to the home folder; without the module it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
