"""Text-embedding inversion (paper 4.1 and A.1): an effect seen in images becomes an embedding that reproduces it."""
