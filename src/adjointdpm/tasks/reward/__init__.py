"""Reward maximisation: noise, an embedding or the weights are changed so that images score high."""
