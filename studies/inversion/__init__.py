"""The inversion study: visual effects as embeddings, on the embedded model (paper 4.1; docs/inversion.md).

python -m studies.inversion            # about a quarter of an hour on two cores; resumes where it was stopped
python -m studies.inversion --quick    # a minute: two effects, few steps, nothing in docs touched
"""
