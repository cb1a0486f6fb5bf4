"""LEARNING FROM ITSELF: start at loop.py. A policy acts, its successes become data, it learns from them, again."""
