"""The recipe behind the bundled model `"shapes"`; not installed with the listing.

python -m training.train --output runs/shapes        # every stage, from nothing; the same command resumes
python -m training.evaluate runs/shapes/model        # mIoU, Pr@k, N-acc, T-acc, and every kind of expression
"""
