"""The network: start at rt1.py."""
