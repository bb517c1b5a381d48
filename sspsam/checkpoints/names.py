"""Which checkpoint a name means, before anything is looked up: a pure reading of the name.

Published checkpoints are named `ssp-sam-<CLIP size>-<dataset>`, for example `ssp-sam-336-refcoco`. The authors' folders
may carry their own names of the datasets (`unc`) or the usual ones (`refcoco`); both are known here. `shapes`, spelt
exactly so, is the small model that comes with the library; it stands for no other, and no other name for it.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sspsam.errors import CheckpointNotFoundError

AUTHORS_REPOSITORY: Final = "wayneicloud/SSP-SAM"
AUTHORS_LICENSE: Final = "apache-2.0"  # so says the repository's model card
BUNDLED: Final = "shapes"
BUNDLED_PURPOSE: Final = "drawn shapes (sspsam.shapes) only, not photographs; for trying things out and for tests"
BUNDLED_LICENSE: Final = "apache-2.0"
RECOMMENDED: Final = "ssp-sam-224-grefcoco"  # known to be published, and trained on expressions without a target too
VARIANTS: Final = ("224", "336")
_DATASET: Final = r"[\w+.-]{1,60}"
_PART: Final = r"\w[\w.-]*"
_LONGEST: Final = 1000
_FILE_ENDINGS: Final = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".json")


@dataclass(frozen=True)
class Dataset:
    """What a checkpoint was trained on: the folder names it may have, and what that makes it good for."""

    folders: tuple[str, ...]
    purpose: str


DATASETS: Final[Mapping[str, Dataset]] = {
    "refcoco": Dataset(("unc", "refcoco"), "short expressions, places allowed; one target"),
    "refcoco+": Dataset(
        ("unc+", "refcoco+", "refcocoplus", "uncplus"), "short expressions about looks, not places; one target"
    ),
    "refcocog": Dataset(("gref_umd", "refcocog", "refcocog_umd", "refcocog_u"), "long sentences; one target"),
    "refcocog-google": Dataset(("gref", "refcocog_google", "refcocog_g"), "long sentences, Google's split; one target"),
    "referit": Dataset(("referit", "referitgame", "refclef"), "short expressions, also about stuff such as sky"),
    "grefcoco": Dataset(("grefcoco",), "one, several or no targets (GRES)"),
    "phrasecut": Dataset(("phrase_cut", "phrasecut"), "phrases with attributes and relations, several targets"),
}


@dataclass(frozen=True)
class Published:
    """A published checkpoint, by variant and dataset; the dataset may be one that only the repository knows."""

    variant: str
    dataset: str

    @property
    def name(self) -> str:
        """The name in its usual spelling."""
        return f"ssp-sam-{self.variant}-{self.dataset}"

    def is_best(self, path: str) -> bool:
        """Whether a file is this checkpoint, and not another one of its folder."""
        return name_of_file(path) == self.name and "best" in path.rpartition("/")[2]

    @property
    def folders(self) -> tuple[str, ...]:
        """What its folder may be called, the authors' own name first."""
        known = DATASETS.get(self.dataset)
        return known.folders if known else (self.dataset,)


@dataclass(frozen=True)
class RepositoryFile:
    """A `.pth` file in a Hub repository."""

    repository: str
    path: str


@dataclass(frozen=True)
class Repository:
    """A Hub repository in the own format, or a folder of one."""

    repository: str
    folder: str = ""


Name = Published | RepositoryFile | Repository


def published_names() -> list[str]:
    """Every name that the datasets above make."""
    return [Published(variant, dataset).name for variant in VARIANTS for dataset in DATASETS]


def parse_name(name: str) -> Name:
    """What a name that is no local path means.

    Raises:
        CheckpointNotFoundError: it means nothing; the nearest names are given.
    """
    if not name.strip():
        raise CheckpointNotFoundError(missing_name_message())
    published = re.fullmatch(rf"ssp-sam-({'|'.join(VARIANTS)})-({_DATASET})", name, flags=re.IGNORECASE)
    if published:
        return Published(published[1], _usual_name(published[2]))
    repository, colon, path = name.partition(":")
    parts = repository.split("/")
    if len(name) <= _LONGEST and len(parts) >= 2 and all(re.fullmatch(_PART, part) for part in parts):
        if not colon and not parts[-1].endswith(_FILE_ENDINGS):
            return Repository("/".join(parts[:2]), "/".join(parts[2:]))
        if colon and len(parts) == 2 and is_plain_path(path):
            return RepositoryFile(repository, path)
    raise CheckpointNotFoundError(unknown_name_message(name))


def is_plain_path(path: str) -> bool:
    """Whether a path in a repository stays in it and can be printed on a line."""
    return path.isprintable() and all(part not in ("", ".", "..") for part in path.split("/"))


def missing_name_message() -> str:
    """The answer to somebody who named no model."""
    return (
        f"name a model. For photographs, {RECOMMENDED!r} is recommended; published are "
        f"{', '.join(published_names())}. A directory made by `sspsam convert`, or a Hub repository owner/name, will "
        f"do too; {BUNDLED!r} comes with sspsam, for drawn shapes only. See them with: sspsam models"
    )


def unknown_name_message(name: str, published: Sequence[str] | None = None) -> str:
    """The answer to a name that means nothing: the nearest ones, and which kinds of names there are.

    Args:
        name: as it was given.
        published: the names that a repository holds, where that is known.
    """
    name = name if len(name) <= 100 else name[:100] + "..."
    candidates = [*published_names(), BUNDLED] if published is None else published
    nearest = difflib.get_close_matches(name.lower(), candidates, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
    return (
        f"no checkpoint {name!r}: there is no such directory, and it is no published name (see: sspsam models) and no "
        f"Hub repository owner/name.{hint} Convert an authors' .pth file with: sspsam convert CHECKPOINT.pth OUT_DIR"
    )


def find_published(wanted: Published, files: Iterable[str]) -> str | None:
    """The file of a published checkpoint in the listing of a repository.

    Args:
        wanted: variant and dataset.
        files: paths in the repository.

    Returns:
        The path, or None. Of several files in the folder the one with the best mean IoU on validation is taken.
    """
    checkpoints = [path for path in files if path.endswith(".pth") and is_plain_path(path)]
    for folder in wanted.folders:
        found = [path for path in checkpoints if _place(path) == (_plain(folder), wanted.variant)]
        best = sorted(found, key=lambda path: ("best_miou" not in path, "best" not in path, len(path), path))
        if best:
            return best[0]
    return None


def name_of_file(path: str) -> str | None:
    """The published name of a file in the authors' repository; None for a file that is no such checkpoint."""
    parts = path.split("/")
    if _place(path) is None or not path.endswith(".pth") or not re.fullmatch(_DATASET, parts[-3]):
        return None
    return Published(parts[-2], _usual_name(parts[-3])).name


def _place(path: str) -> tuple[str, str] | None:
    """The dataset's folder, in plain spelling, and the variant of `.../<dataset>/<variant>/<file>`."""
    parts = path.split("/")
    if len(parts) < 3 or parts[-2] not in VARIANTS:
        return None
    return _plain(parts[-3]), parts[-2]


def _usual_name(dataset: str) -> str:
    """The usual name of a dataset, whichever of its names is given."""
    for usual, known in DATASETS.items():
        if _plain(dataset) in map(_plain, (usual, *known.folders)):
            return usual
    return dataset.lower()


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())


@dataclass(frozen=True)
class Source:
    """Where a converted checkpoint comes from."""

    repository: str
    commit: str
    path: str
    sha256: str | None = None

    def __str__(self) -> str:
        digest = f", SHA-256 {self.sha256}" if self.sha256 else ""
        return f"{self.repository}@{self.commit}:{self.path}{digest}"
