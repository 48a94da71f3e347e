"""The CRF in torch: the same lattice and mean field as `numba_backend`, on any device and differentiable."""
