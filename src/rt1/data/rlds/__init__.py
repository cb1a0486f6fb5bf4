"""RLDS data sets, read in place and written; Open X-Embodiment."""
