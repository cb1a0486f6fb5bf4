"""Where a policy acts: start at base.py (what an environment must offer) and registry.py (environments by name)."""
