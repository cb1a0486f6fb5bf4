"""Environments, one optional extra each: start at open.py."""
