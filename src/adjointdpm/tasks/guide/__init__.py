"""Guidance through the sampler: where the object stands, how large, in which colour, and what of an image is kept."""
