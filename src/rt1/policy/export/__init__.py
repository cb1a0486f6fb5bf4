"""The network as graphs that other runtimes run: start at exporter.py. `rt1.policy.exported` acts with them."""
