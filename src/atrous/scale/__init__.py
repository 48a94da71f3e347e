"""Many machines: segment, evaluate and refine images on a Ray cluster, and serve networks by Ray Serve."""
