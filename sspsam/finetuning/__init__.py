"""Fine-tuning on own expressions: a folder of images and a JSON lines file -> a checkpoint directory.

The image encoders are frozen, so that each image is encoded once; a step works on stored embeddings. `run.py` is the
contents page: checked lines -> examples -> steps -> the best checkpoint with its model card. The objective and the
schedule are those of the authors; `options.py` lists every number.
"""
