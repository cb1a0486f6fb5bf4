"""rt1: the Robotics Transformer in PyTorch."""
