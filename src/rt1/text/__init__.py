"""Instructions to text embeddings. Start at :mod:`rt1.text.encoder`."""
