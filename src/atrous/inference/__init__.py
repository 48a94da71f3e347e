"""Images in, segmentations out."""
