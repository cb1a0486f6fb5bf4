"""BasePolicy: a network with its episode state. Start at policy.py."""
