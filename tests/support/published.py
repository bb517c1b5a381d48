"""Published checkpoints: a name, and files in the authors' repository."""

NAME = "ssp-sam-336-refcoco"
UNC = "output/unc/336/checkpoint_best_miou.pth"  # the file of NAME
GREF = "output/grefcoco/224/checkpoint_best_miou.pth"
