"""What runs the network of a policy: torch, ONNX Runtime, OpenVINO. Start at base.py."""
