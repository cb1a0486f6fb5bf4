"""A policy as two graphs that other runtimes run: start at exporter.py (writing) and host.py (acting)."""
