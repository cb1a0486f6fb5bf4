"""Policies by name, the Hugging Face Hub, and model cards."""
