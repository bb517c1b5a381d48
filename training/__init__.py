"""Training of the bundled model `"shapes"`; part of the repository, not of the installed package.

python -m training.train --output runs/shapes        # all stages, from scratch; the same command resumes
python -m training.evaluate runs/shapes/model        # mIoU, Pr@k, N-acc, T-acc, and each kind of expression
"""
