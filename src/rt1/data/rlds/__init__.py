"""RLDS data sets, read in place and written, and Open X-Embodiment."""
