"""What every room uses: files, progress, signals, the machine, JSON, names."""
