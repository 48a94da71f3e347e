"""Read, resize, draw and save images and label maps."""
