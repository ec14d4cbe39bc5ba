"""`python -m adjointdpm.demo`: the main job in a few minutes on a laptop, ending in demo/report.html.

Checks the gradient against plain backpropagation, inverts two visual effects into text embeddings, and applies them to
prompts and noises that were never optimised on.  Stopped at any time, it goes on where it was.
"""
