"""Analyze networks: stages, receptive fields, parameters and multiply-adds."""
