"""Speed on this machine, side by side with PyTorch: `make bench`."""
