"""Engines: run a network by PyTorch or another runtime, from a batch of images to its coarse scores."""
