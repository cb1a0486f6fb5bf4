"""Episodes in, batches out: start at sources/base.py."""
