"""Upload a checkpoint to the Hub, with a model card that credits the authors."""

import os
import re
from typing import Final

from sspsam.checkpoints.directory import CHECKPOINT_FILES, read_config
from sspsam.checkpoints.hub_errors import translated_errors
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.licenses import license_header
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, DATASETS
from sspsam.config import CALIBRATION_NAME, ModelConfig
from sspsam.errors import CheckpointError, CheckpointNotFoundError
from sspsam.utils.hub_environment import check_hub_environment
from sspsam.utils.markup import table_cell
from sspsam.utils.paths import shown, user_path

# the only place that tells how the library is installed from a model card; it is in no package index yet
_INSTALL: Final = "Install the library from a checkout of its source: `pip install .` in its folder."
_CARD: Final = """---
{license_header}
library_name: sspsam
pipeline_tag: mask-generation
language:
- en
{origin}tags:
- referring-expression-segmentation
- segment-anything
- clip
---

# {name}

SSP-SAM weights in the format of the Python library `sspsam`: referring expression segmentation, a mask for the object
in an image that a text describes. {install}

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
| no target | an answer with fewer than {pixels} foreground pixels in a {frame} x {frame} frame |
| SHA-256 of `model.safetensors` | `{digest}` |
| fingerprint | `{fingerprint}` |

## Authors

The method and, where the source above says so, the weights are by W. Tang, X. Liu, Y. Sun and Z. Li: *SSP-SAM: SAM with
Semantic-Spatial Prompt for Referring Expression Segmentation*, IEEE TCSVT 2025,
[arXiv 2603.18086](https://arxiv.org/abs/2603.18086). Their checkpoints contain CLIP (OpenAI, MIT License) and Segment
Anything (Meta, Apache License 2.0).
"""


def model_card(config: ModelConfig, repository: str) -> str:
    """Return the README of a repository that holds a checkpoint.

    Args:
        config: of the checkpoint.
        repository: `owner/name`.
    """
    clip, sam, post = config.architecture.clip, config.architecture.sam, config.postprocessing
    return _CARD.format(
        name=repository.rpartition("/")[2],
        repository=repository,
        source=table_cell(config.source),
        license=table_cell(config.license if config.license != "unknown" else "other"),
        license_header=license_header(config.license),
        origin=_origin(config.source),
        install=_INSTALL,
        clip=f"{clip.vision_layers} layers of width {clip.vision_width}, patches of {clip.patch_size} at "
        f"{clip.image_size} pixels",
        sam=f"{sam.layers} layers of width {sam.width} at {sam.image_size} pixels",
        pixels=post.no_target_pixels,
        frame=post.no_target_frame,
        digest=config.weights_sha256,
        fingerprint=config.fingerprint,
    )


def _origin(source: str) -> str:
    """The lines of the card's YAML header about the authors' checkpoint that the weights come from, as far as known.

    Args:
        source: of the weights, as `str(Source)` writes it or as a free text that begins with the authors' repository.
    """
    if not source.startswith(AUTHORS_REPOSITORY):
        return ""
    words = re.split(r"[\s,/]+", source.removeprefix(AUTHORS_REPOSITORY).lower())
    known = [
        name.replace("+", "plus")  # the Hub allows no + in the name of a dataset
        for name, dataset in DATASETS.items()
        if {name, *dataset.folders} & set(words)
    ]
    datasets = "".join(f"- {dataset}\n" for dataset in known)
    return f"base_model: {AUTHORS_REPOSITORY}\n" + (f"datasets:\n{datasets}" if datasets else "")


def push_checkpoint(
    directory: str | os.PathLike[str], repository: str, *, private: bool = False, token: str | bool | None = None
) -> str:
    """Upload a checkpoint directory and a model card as one commit.

    Args:
        directory: with `config.json` and `model.safetensors`, and `calibration.json` if there is one.
        repository: `owner/name`; created if it does not exist.
        private: whether a repository that is created is private.
        token: with write access; None: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The hash of the commit.

    Raises:
        CheckpointNotFoundError, ConfigError: no checkpoint there.
        CheckpointError: it does not hold its image encoders.
        HubError: the Hub cannot be reached, or refuses.
    """
    check_hub_environment()
    import huggingface_hub

    folder = user_path(directory, "the checkpoint", CheckpointNotFoundError)
    config = read_config(folder)
    if config.encoders is not None:
        raise CheckpointError(
            f"{shown(folder)} does not hold its image encoders, so that no other computer could load it: load it and "
            "publish it with push_to_hub, or convert it without --shared"
        )
    card = model_card(config, repository).encode()
    optional = [CALIBRATION_NAME] if os.path.isfile(folder / CALIBRATION_NAME) else []
    names = [*CHECKPOINT_FILES, *optional]
    options = HubOptions.of(token=token)
    api = huggingface_hub.HfApi(token=options.token)
    with translated_errors(repository, "", options, "hf auth whoami"):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            [
                huggingface_hub.CommitOperationAdd("README.md", card),
                *(huggingface_hub.CommitOperationAdd(name, str(folder / name)) for name in names),
            ],
            commit_message=f"Upload SSP-SAM checkpoint {config.fingerprint[:12]}",
        )
    return str(commit.oid)
