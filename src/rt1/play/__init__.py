"""The live page: a policy in a simulator, shown in a browser. Start at server.py."""
