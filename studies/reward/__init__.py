"""The reward study: exact gradients against cheaper ones at equal wall time, on the embedded model (docs/reward.md).

python -m studies.reward            # about 50 minutes on two cores; resumes where it was stopped
python -m studies.reward --full     # longer runs, more seeds
python -m studies.reward --page     # the page only, from the results that are there
python -m studies.reward --tiny     # a minute, shows that everything runs; docs are not touched
"""
