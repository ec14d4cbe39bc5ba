"""The reward study: exact gradients against cheaper ones in equal time, on the embedded model (docs/reward.md).

python -m studies.reward            # about 80 minutes; resumes where it was stopped
python -m studies.reward --full     # longer runs, more seeds
python -m studies.reward --page     # the page only, from the results that are there
python -m studies.reward --tiny     # a minute, shows that everything runs; docs are not touched
"""
