"""The CRF on the CPU: the permutohedral lattice and mean-field inference, compiled by numba (`*_jit.py`)."""
