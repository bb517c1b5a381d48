"""Publishing a checkpoint on the Hub, with a model card that says whose work it is."""

import os
from pathlib import Path

from sspsam.checkpoints.directory import CHECKPOINT_FILES, read_config
from sspsam.checkpoints.hub_errors import explained
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.config import ModelConfig

_CARD = """---
license: {license}
library_name: sspsam
pipeline_tag: image-segmentation
tags:
- referring-expression-segmentation
- segment-anything
- clip
---

# {name}

SSP-SAM weights in the format of the Python library `sspsam` (`pip install sspsam`): point at things in a picture with
words.

```python
from sspsam import SSPSAMPredictor

predictor = SSPSAMPredictor.from_pretrained("{repository}")
result = predictor.predict("the mug on the left", image="photo.jpg")
```

| | |
|---|---|
| source of the weights | {source} |
| licence of the weights | {license} |
| CLIP | {clip} |
| SAM | {sam} |
| no target | fewer than {pixels} foreground pixels in a {frame} x {frame} frame |
| SHA-256 of `model.safetensors` | `{digest}` |
| fingerprint | `{fingerprint}` |

## Whose work this is

The method and, where the source above says so, the weights are by W. Tang, X. Liu, Y. Sun and Z. Li: *SSP-SAM: SAM with
Semantic-Spatial Prompt for Referring Expression Segmentation*, IEEE TCSVT 2025,
[arXiv 2603.18086](https://arxiv.org/abs/2603.18086). Their checkpoints contain CLIP (OpenAI, MIT License) and Segment
Anything (Meta, Apache License 2.0).
"""


def model_card(config: ModelConfig, repository: str) -> str:
    """The README of a repository that holds a checkpoint."""
    clip, sam, post = config.architecture.clip, config.architecture.sam, config.postprocessing
    spdx = config.license if config.license != "unknown" else "other"
    return _CARD.format(
        name=repository.rpartition("/")[2],
        repository=repository,
        source=_one_line(config.source),
        license=_one_line(spdx),
        clip=f"{clip.vision_layers} layers of width {clip.vision_width}, patches of {clip.patch_size} at "
        f"{clip.image_size} pixels",
        sam=f"{sam.layers} layers of width {sam.width} at {sam.image_size} pixels",
        pixels=post.no_target_pixels,
        frame=post.no_target_frame,
        digest=config.weights_sha256,
        fingerprint=config.fingerprint,
    )


def _one_line(text: str) -> str:
    """Safe in a table and in the card's header."""
    return " ".join(text.split()).replace("|", "/").replace(":", ": ").replace(":  ", ": ")


def push_checkpoint(
    directory: str | os.PathLike[str], repository: str, *, private: bool = False, token: str | bool | None = None
) -> str:
    """Upload a checkpoint directory and a model card as one commit.

    Args:
        directory: with `config.json` and `model.safetensors`.
        repository: `owner/name`; made if need be.
        private: whether a repository that is made is private.
        token: that may write; None: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The commit.

    Raises:
        CheckpointNotFoundError, ConfigError: no checkpoint there.
        HubError: the Hub cannot be reached, or refuses.
    """
    import huggingface_hub

    config = read_config(Path(directory))
    card = model_card(config, repository).encode()
    options = HubOptions(token=token)
    api = huggingface_hub.HfApi(token=options.token)
    with explained(repository, "", options, "hf auth whoami"):
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository,
            [
                huggingface_hub.CommitOperationAdd("README.md", card),
                *(
                    huggingface_hub.CommitOperationAdd(name, str(Path(directory) / name))
                    for name in (CONFIG_NAME, WEIGHTS_NAME)
                ),
            ],
            commit_message=f"Upload SSP-SAM checkpoint {config.fingerprint[:12]}",
        )
    return str(done.oid)
