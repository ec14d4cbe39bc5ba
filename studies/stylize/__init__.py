"""The stylization study: one reference image as the style of all images, on the embedded model (docs/stylize.md).

python -m studies.stylize            # about an hour on two cores; resumes where it was stopped
python -m studies.stylize --tiny     # a minute: one style, two steps, nothing in docs touched
python -m studies.stylize --full     # the paper's 10 x 10 pairs and more test images: hours
python -m studies.stylize --page     # the page and pictures again, from the results that are there

Needs the extras vgg and efficientnet: pip install 'adjointdpm[vgg,efficientnet]'.
"""
