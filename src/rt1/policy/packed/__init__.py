"""The network in packed weights, for one step on a CPU."""
