"""Instructions to text embeddings; start at :mod:`rt1.text.encoder`."""
