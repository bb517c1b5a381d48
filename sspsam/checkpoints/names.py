"""Parse the name of a checkpoint; nothing is looked up on disk or on the Hub.

Published checkpoints are named `ssp-sam-<CLIP size>-<dataset>`, for example `ssp-sam-336-refcoco`. The folders of the
authors' repository may have the authors' names of the datasets (`unc`) or the usual ones (`refcoco`); both are known
here. `shapes`, in exactly this spelling, is the small model that is bundled with the library; no other name means it.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sspsam.errors import CheckpointNotFoundError
from sspsam.utils.paths import shown

AUTHORS_REPOSITORY: Final = "wayneicloud/SSP-SAM"
AUTHORS_LICENSE: Final = "apache-2.0"  # from the repository's model card
BUNDLED: Final = "shapes"
BUNDLED_PURPOSE: Final = "drawn shapes (sspsam.shapes) only, not photographs; for trying things out and for tests"
BUNDLED_LICENSE: Final = "apache-2.0"
RECOMMENDED: Final = "ssp-sam-224-grefcoco"  # known to be published, and trained on expressions without a target too
VARIANTS: Final = ("224", "336")
# datasets of the field on which the authors train no checkpoint, in plain spelling, with the advice of the error
_UNTRAINED: Final = {
    "phrasecut": f"The authors train no checkpoint on PhraseCut. For phrases, use {RECOMMENDED}, which knows several "
    "targets and none, or for one target one of the ssp-sam-*-refcoco models."
}
_DATASET: Final = r"[\w+.-]{1,60}"
_PATH_PART: Final = r"\w[\w.-]*"
_MAX_LENGTH: Final = 1000
_FILE_ENDINGS: Final = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".json")


@dataclass(frozen=True)
class Dataset:
    """The dataset that a checkpoint was trained on.

    Args:
        folders: names that its folder in the authors' repository may have, the authors' own first.
        purpose: what a checkpoint trained on it is good for.
    """

    folders: tuple[str, ...]
    purpose: str


DATASETS: Final[Mapping[str, Dataset]] = {
    "refcoco": Dataset(("unc", "refcoco"), "short expressions, places allowed; one target"),
    "refcoco+": Dataset(
        ("unc+", "refcoco+", "refcocoplus", "uncplus"), "short expressions about looks, not places; one target"
    ),
    "refcocog": Dataset(("gref_umd", "refcocog", "refcocog_umd", "refcocog_u"), "long sentences; one target"),
    "refcocog-google": Dataset(("gref", "refcocog_google", "refcocog_g"), "long sentences, Google's split; one target"),
    "referit": Dataset(("referit", "referitgame", "refclef"), "short expressions, also about regions such as sky"),
    "grefcoco": Dataset(("grefcoco",), "one, several or no targets (GRES)"),
}


@dataclass(frozen=True)
class Published:
    """A checkpoint in the authors' repository, by variant and dataset; `DATASETS` may not have the dataset."""

    variant: str
    dataset: str

    @property
    def name(self) -> str:
        """The name in its usual spelling."""
        return f"ssp-sam-{self.variant}-{self.dataset}"

    @property
    def is_expected(self) -> bool:
        """True if the dataset is a known one; any other is a misspelling, or known only to a repository's listing."""
        return self.dataset in DATASETS

    @property
    def repository(self) -> str:
        """The authors' repository."""
        return AUTHORS_REPOSITORY

    @property
    def folders(self) -> tuple[str, ...]:
        """Names that its folder may have, the authors' own first."""
        known = DATASETS.get(self.dataset)
        return known.folders if known else (self.dataset,)

    def find(self, files: Iterable[str]) -> str | None:
        """Find its file among the paths of the repository."""
        return find_published(self, files)

    def is_stored_in(self, path: str) -> bool:
        """True if a file is this checkpoint and not another one of its folder."""
        return name_of_file(path) == self.name and _is_best(path)

    def is_certain(self, path: str) -> bool:
        """True if a file that `find` returned is right even if the repository has more files than were searched."""
        return _is_best(path)


@dataclass(frozen=True)
class RepositoryFile:
    """A `.pth` file in a Hub repository."""

    repository: str
    path: str

    @property
    def name(self) -> str:
        """`owner/name:path`."""
        return f"{self.repository}:{self.path}"

    def find(self, files: Iterable[str]) -> str | None:
        """Return its path if the repository has it."""
        return self.path if self.path in files else None

    def is_stored_in(self, path: str) -> bool:
        """True if a path is that of this file."""
        return path == self.path

    def is_certain(self, path: str) -> bool:
        """True if a file that `find` returned is right even if the repository has more files than were searched."""
        return path == self.path


@dataclass(frozen=True)
class Repository:
    """A Hub repository in the library's own format, or a folder of one."""

    repository: str
    folder: str = ""

    def path_of(self, file_name: str) -> str:
        """The path of one of its files in the repository."""
        return f"{self.folder}/{file_name}" if self.folder else file_name


AuthorsCheckpoint = Published | RepositoryFile
Name = AuthorsCheckpoint | Repository


@dataclass(frozen=True)
class Source:
    """The file of the Hub that a converted checkpoint was made from."""

    repository: str
    commit: str
    path: str
    sha256: str | None = None

    def __str__(self) -> str:
        digest = f", SHA-256 {self.sha256}" if self.sha256 else ""
        return f"{self.repository}@{self.commit}:{self.path}{digest}"


def published_names() -> list[str]:
    """Every published name that is expected: one for each variant and dataset."""
    return [Published(variant, dataset).name for variant in VARIANTS for dataset in DATASETS]


def parse_name(name: str) -> Name:
    """Parse a name that is not a local path.

    Raises:
        CheckpointNotFoundError: the name has none of the known forms; the message gives the nearest names.
    """
    if not name.strip():
        raise CheckpointNotFoundError(missing_name_message())
    published = re.fullmatch(rf"ssp-sam-({'|'.join(VARIANTS)})-({_DATASET})", name, flags=re.IGNORECASE)
    if published:
        return Published(published[1], _usual_name(published[2]))
    repository, colon, path = name.partition(":")
    parts = repository.split("/")
    if len(name) <= _MAX_LENGTH and len(parts) >= 2 and all(re.fullmatch(_PATH_PART, part) for part in parts):
        if not colon and not parts[-1].endswith(_FILE_ENDINGS):
            return Repository("/".join(parts[:2]), "/".join(parts[2:]))
        if colon and len(parts) == 2 and is_plain_path(path):
            return RepositoryFile(repository, path)
    raise CheckpointNotFoundError(unknown_name_message(name))


def is_plain_path(path: str) -> bool:
    """True if a path stays in its repository and can be printed on one line."""
    return path.isprintable() and all(part not in ("", ".", "..") for part in path.split("/"))


def missing_name_message() -> str:
    """The error message for a missing model name."""
    return (
        f"name a model. For photographs, {RECOMMENDED!r} is recommended; expected are "
        f"{', '.join(published_names())}. A directory made by `sspsam convert` or a Hub repository owner/name works "
        f"too; {BUNDLED!r} comes with sspsam, for drawn shapes only. List all models with: sspsam models"
    )


def unknown_name_message(name: str, published: Sequence[str] | None = None) -> str:
    """The error message for an unknown name, with the nearest known names and the forms that a name can have.

    Args:
        name: as the caller gave it.
        published: the names that the repository has; None: the expected ones and the bundled model.
    """
    nearest = _nearest(name[:_MAX_LENGTH].lower(), [*published_names(), BUNDLED] if published is None else published)
    hint = f" Did you mean {', '.join(map(shown, nearest))}?" if nearest else ""
    advice = next((f" {advice}" for dataset, advice in _UNTRAINED.items() if dataset in _plain(name)), "")
    return (
        f"no checkpoint '{shown(name)}': there is no such directory, and it is neither a published name (see: sspsam "
        f"models) nor a Hub repository owner/name.{advice}{hint} Convert an authors' .pth file with: "
        "sspsam convert CHECKPOINT.pth OUT_DIR"
    )


def _nearest(name: str, candidates: Sequence[str]) -> list[str]:
    """Up to three names like `name`, the nearest first; before all published names the recommended one."""
    nearest = difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)
    if RECOMMENDED in candidates and any(candidate != BUNDLED for candidate in nearest):
        nearest = [RECOMMENDED, *(candidate for candidate in nearest if candidate != RECOMMENDED)][:3]
    return nearest


def find_published(published: Published, files: Iterable[str]) -> str | None:
    """Find the file of a published checkpoint in the listing of a repository.

    Args:
        published: variant and dataset.
        files: paths in the repository.

    Returns:
        The path, or None. Of several files in the folder the one with the best mean IoU on validation is preferred.
    """
    checkpoints = [path for path in files if path.endswith(".pth") and is_plain_path(path)]
    for folder in published.folders:
        candidates = [path for path in checkpoints if _folder_and_variant(path) == (_plain(folder), published.variant)]
        if candidates:
            return min(candidates, key=lambda path: ("best_miou" not in path, "best" not in path, len(path), path))
    return None


def name_of_file(path: str) -> str | None:
    """The published name of a file in the authors' repository; None for a file that is no such checkpoint."""
    parts = path.split("/")
    if _folder_and_variant(path) is None or not path.endswith(".pth") or not re.fullmatch(_DATASET, parts[-3]):
        return None
    return Published(parts[-2], _usual_name(parts[-3])).name


def _is_best(path: str) -> bool:
    """True if a file is the best checkpoint of its folder, according to its name."""
    return "best" in path.rpartition("/")[2]


def _folder_and_variant(path: str) -> tuple[str, str] | None:
    """The dataset's folder, in plain spelling, and the variant of `.../<dataset>/<variant>/<file>`."""
    parts = path.split("/")
    if len(parts) < 3 or parts[-2] not in VARIANTS:
        return None
    return _plain(parts[-3]), parts[-2]


def _usual_name(dataset: str) -> str:
    """The usual name of a dataset, from any of its names."""
    for usual, known in DATASETS.items():
        if _plain(dataset) in map(_plain, (usual, *known.folders)):
            return usual
    return dataset.lower()


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
