"""On the robot: the wire format, a client without torch, the server."""
