"""Episodes in, batches out: start at episode.py."""
