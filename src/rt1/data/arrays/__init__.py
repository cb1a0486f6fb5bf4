"""Episodes in npz, HDF5 and Hugging Face files."""
