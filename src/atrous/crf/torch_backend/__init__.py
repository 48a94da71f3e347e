"""The CRF in torch: batched, on any device, differentiable."""
