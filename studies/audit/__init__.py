"""How easily do classifiers and a filter fail on generated images, and what are exact gradients worth in finding out?

`python -m studies.audit` runs the cases of `design.py`, and writes results.json, docs/audit.md and its pictures.
"""
