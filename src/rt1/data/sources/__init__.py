"""Episodes by index: the protocol that every format implements. Start at base.py."""
