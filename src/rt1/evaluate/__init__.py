"""How good a policy is: start at closed_loop.py (trials) or offline.py (recorded episodes)."""
