"""The guidance study: boxes, inpainting and other wishes on the embedded model (docs/guide.md).

python -m studies.guide           # resumes where it was stopped
python -m studies.guide --tiny    # a minute: two questions, few steps, nothing in docs touched
python -m studies.guide --full    # four noises a prompt instead of two
python -m studies.guide --page    # writes the page from the committed data
"""
