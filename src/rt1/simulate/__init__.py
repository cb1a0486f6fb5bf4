"""Policies and experts in an environment: rollouts, recording, trials."""
