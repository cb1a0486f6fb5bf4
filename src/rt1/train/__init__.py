"""How a policy learns: start at loop.py."""
