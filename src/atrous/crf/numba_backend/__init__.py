"""The CRF on the CPU: numba kernels for the permutohedral lattice and the mean field."""
