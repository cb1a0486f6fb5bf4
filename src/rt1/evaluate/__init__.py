"""How good a policy is: start at rollout.py."""
