"""A page to look at: a policy in a simulator, live in a browser; start at server.py."""
