"""`SSPSAMPredictor`: the whole way from a picture and words to masks, in the order in which it happens."""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal, Self, overload

import numpy as np
import torch
from PIL import Image

from sspsam import hub
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.publish import push_checkpoint
from sspsam.config import ModelConfig
from sspsam.devices import checked_device, checked_dtype, default_dtype, inference_context
from sspsam.errors import ConfigError, EmbeddingError, NoImageError, OutOfMemoryError, SSPSAMError
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.encoder import UNSAVED, ImageEncoder
from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput
from sspsam.images.preprocessing import PreprocessedImage
from sspsam.models import SSPSAM, ExpressionFeatures, ImageFeatures, PreparedImage
from sspsam.segmentation.answers import PredictOptions, ReturnLogits, to_segmentation
from sspsam.segmentation.result import Segmentation
from sspsam.text.encoder import TextEncoder, Tokenized
from sspsam.utils.batching import (
    compute_in_batches,
    default_batch_size,
    pair_images_with_texts,
    raise_error,
    raise_first_error,
    raise_if_error,
    result_or_error,
)

# expressions that go through the decoder together: two stay in a CPU's cache and need nothing of 32 MB or more (see
# models.image_encoder), a GPU wants many
_CHUNK: Final = {"cpu": 2}
_CHUNK_ELSEWHERE: Final = 32
_WORKERS: Final = 2  # threads that read pictures


class SSPSAMPredictor:
    """Point at things in a picture with words.

    A picture is encoded once; then any number of expressions can be asked about it. Threads may share a predictor if
    each passes its own `embedding=`. Nothing outside the predictor is changed: no thread counts, random state or flags.

    Args:
        model: the network; put into evaluation mode and moved to `device`.
        config: what belongs to it; the model must not change afterwards.
        device: None: a GPU if PyTorch sees one, else the CPU.
        dtype: float32: all in float32, TF32 off. float16 or bfloat16: mixed precision of the image encoders, their
            matrix products in half; norms, softmax, residual, everything else and the weights stay in float32.
            None: float16 on a GPU, float32 elsewhere.
        embedding_cache: where embeddings of pictures are kept on disk, a folder or an `EmbeddingCache`; None: nowhere.
            For models that were loaded from a checkpoint; others have no lasting name.

    Raises:
        DeviceError: this computer has no such device.
        ConfigError: `config` does not fit the model, or its vocabulary is too small for CLIP's tokeniser.
    """

    def __init__(
        self,
        model: SSPSAM,
        config: ModelConfig,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        embedding_cache: EmbeddingCache | str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = config
        self.origin = "memory"
        chosen = checked_device(device)
        self.dtype = default_dtype(chosen) if dtype is None else checked_dtype(dtype)
        if model.config != config.architecture:
            raise ConfigError("the configuration describes another architecture than the model has")
        # only weights that were just read are known to be those of the configuration; no other model may pass for them
        self.fingerprint = f"{UNSAVED}{secrets.token_hex(16)}"
        if isinstance(embedding_cache, str | os.PathLike):
            embedding_cache = EmbeddingCache(embedding_cache)
        self._model = model.eval()
        self._encoder = ImageEncoder(self._model, config, self.dtype, embedding_cache)
        self._reader = TextEncoder(self._model, config)
        self._embedding: ImageEmbedding | None = None
        self.to(chosen)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        verify: bool | None = None,
        repository: str | None = None,
        embedding_cache: EmbeddingCache | str | os.PathLike[str] | None = None,
    ) -> Self:
        """A predictor with the weights of a checkpoint.

        Args:
            name_or_path: a directory with `config.json` and `model.safetensors`; a published name such as
                `"ssp-sam-336-refcoco"`; a Hub repository `owner/name[/folder]` in this format; an authors' file on
                the Hub, `owner/name:path.pth`; or `"shapes"`, the bundled model for drawn shapes. `sspsam models`
                lists the names.
            revision: branch, tag or commit on the Hub; a commit (recommended) is never asked for twice.
            device: None: a GPU if PyTorch sees one, else the CPU.
            dtype: see the class.
            cache_dir: of files from the Hub; None: as `huggingface_hub` has it.
            local_files_only: never use the network.
            token: for private repositories.
            verify: whether to check the SHA-256 of the weights. None: the first time that the file is seen in its
                present state. True: now. False: never.
            repository: of converted checkpoints, where published names are looked for first; None: the environment
                variable `SSPSAM_REPOSITORY`, else none.
            embedding_cache: see the class.

        Raises:
            CheckpointNotFoundError: no checkpoint of that name, or no name at all; the message lists the names.
            HubError: the Hub cannot be reached, or refuses; `sspsam.errors` has a class for each cause.
            ConfigError, CheckpointError: the checkpoint is damaged or does not fit its configuration.
            DeviceError: this computer has no such device.
        """
        chosen = checked_device(device)
        options = HubOptions(revision, None if cache_dir is None else Path(cache_dir), local_files_only, token)
        found = hub.resolve(name_or_path, options, repository=repository)
        with hub.repair_command_in_errors(found):
            model, config = load_checkpoint(found.path, verify=verify)
        predictor = cls(model, config, device=chosen, dtype=dtype, embedding_cache=embedding_cache)
        predictor.origin, predictor.fingerprint = found.origin, config.fingerprint
        return predictor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    @property
    def embedding_cache(self) -> EmbeddingCache | None:
        """Where embeddings are kept on disk."""
        return self._encoder.cache

    def to(self, device: str | torch.device | None) -> Self:
        """Move the model; embeddings follow when they are used.

        Args:
            device: None: a GPU if PyTorch sees one, else the CPU.

        Raises:
            DeviceError: this computer has no such device.
        """
        chosen = checked_device(device)
        self._model.to(chosen)
        self._device = chosen
        self._reader.forget()
        return self

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, dtype: str | torch.dtype = "float32"
    ) -> ModelConfig:
        """Write the checkpoint, also onto the directory that it was loaded from.

        Args:
            directory: made if need be; other files in it stay.
            dtype: of the stored weights.

        Returns:
            The configuration as written.

        Raises:
            StorageError: not enough space, or not writable; what was there before is still there.
        """
        return save_checkpoint(directory, self.config, self._model.state_dict(), dtype)

    def push_to_hub(
        self,
        repository: str,
        *,
        dtype: str | torch.dtype = "float32",
        private: bool = False,
        token: str | bool | None = None,
    ) -> str:
        """Publish the checkpoint on the Hub with a model card; returns the commit.

        Args:
            repository: `owner/name`; made if need be.
            dtype: of the stored weights.
            private: whether a repository that is made is private.
            token: that may write; None: the one of `hf auth login` or `HF_TOKEN`.

        Raises:
            HubError: the Hub cannot be reached, or refuses.
        """
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, dtype=dtype)
            return push_checkpoint(directory, repository, private=private, token=token)

    def encode(self, image: ImageInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageEmbedding:
        """Look at a picture; changes nothing in the predictor.

        Args:
            image: a path, bytes, a PIL image or an RGB (h, w, 3) uint8 array; `sspsam.images` lists what else.
            max_pixels: largest width times height, checked before decoding.

        Raises:
            ImageError: the picture cannot be taken; the message says why.
            NumericalError: the model's features are not finite.
        """
        picture = self._encoder.read(image, max_pixels)
        return raise_if_error(self._encoder.encode([picture], self._device, self.fingerprint)[0])

    def set_image(self, image: ImageInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageEmbedding:
        """`encode`, and remember the result for the next `predict`. If it fails, no picture is remembered.

        Args:
            image: as in `encode`.
            max_pixels: as in `encode`.

        Raises:
            ImageError, NumericalError: as `encode`.
        """
        self._embedding = None
        self._embedding = self.encode(image, max_pixels=max_pixels)
        return self._embedding

    @overload
    def predict(
        self,
        texts: str,
        *,
        image: ImageInput | None = None,
        embedding: ImageEmbedding | None = None,
        mask_threshold: float | None = None,
        no_target_pixels: int | None = None,
        return_logits: ReturnLogits | None = None,
        explain: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Segmentation: ...

    @overload
    def predict(
        self,
        texts: list[str] | tuple[str, ...],
        *,
        image: ImageInput | None = None,
        embedding: ImageEmbedding | None = None,
        mask_threshold: float | None = None,
        no_target_pixels: int | None = None,
        return_logits: ReturnLogits | None = None,
        explain: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> list[Segmentation]: ...

    def predict(
        self,
        texts: str | list[str] | tuple[str, ...],
        *,
        image: ImageInput | None = None,
        embedding: ImageEmbedding | None = None,
        mask_threshold: float | None = None,
        no_target_pixels: int | None = None,
        return_logits: ReturnLogits | None = None,
        explain: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Segmentation | list[Segmentation]:
        """Find what the words point at.

        Args:
            texts: one expression, or a list of them.
            image: a picture to ask about; None: `embedding`, else the picture of `set_image`.
            embedding: from `encode`. Neither it nor `image` changes the remembered picture.
            mask_threshold: probability from which a pixel is foreground; None: the model's (0.5).
            no_target_pixels: fewer foreground pixels mean no target; None: the model's (50). They are counted at
                probability 0.5 in the authors' padded 512 x 512 frame, whatever `mask_threshold` is.
            return_logits: `"low_res"` or `"full"` to have the logits as well.
            explain: whether to have the model's maps and word weights as well.
            max_pixels: of `image`, as in `encode`.

        Returns:
            A `Segmentation` for a string; for a list, a list in the same order.

        Raises:
            NoImageError: no picture was given or set.
            TextError: an expression is empty or far too long.
            ImageError: `image` cannot be taken.
            EmbeddingError: `embedding` belongs to another model.
            ConfigError: `mask_threshold` or `no_target_pixels` is out of range.
            NumericalError: the model's answer is not finite.
        """
        options = PredictOptions.checked(self.config, mask_threshold, no_target_pixels, return_logits, explain)
        tokenized = self._reader.tokenize(texts)
        results = self._answer(self._embedding_for(image, embedding, max_pixels), tokenized, options)
        return results[0] if isinstance(texts, str) else results

    @overload
    def predict_batch(
        self,
        images: Iterable[ImageInput],
        texts: Sequence[str] | Iterable[Sequence[str]],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        mask_threshold: float | None = None,
        no_target_pixels: int | None = None,
        return_logits: ReturnLogits | None = None,
        explain: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        return_errors: Literal[False] = False,
    ) -> Iterator[list[Segmentation]]: ...

    @overload
    def predict_batch(
        self,
        images: Iterable[ImageInput],
        texts: Sequence[str] | Iterable[Sequence[str]],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        mask_threshold: float | None = None,
        no_target_pixels: int | None = None,
        return_logits: ReturnLogits | None = None,
        explain: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        return_errors: Literal[True],
    ) -> Iterator[list[Segmentation] | SSPSAMError]: ...

    def predict_batch(
        self,
        images: Iterable[ImageInput],
        texts: Sequence[str] | Iterable[Sequence[str]],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        mask_threshold: float | None = None,
        no_target_pixels: int | None = None,
        return_logits: ReturnLogits | None = None,
        explain: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        return_errors: bool = False,
    ) -> Iterator[list[Segmentation]] | Iterator[list[Segmentation] | SSPSAMError]:
        """Ask about many pictures, lazily: threads read and resize the next ones while the model looks at this one.

        Args:
            images: pictures, taken a few in advance; a generator will do.
            texts: a list of expressions to ask about every picture, or one such list for each picture.
            batch_size: pictures that are encoded together; None: 1 on the CPU, 4 elsewhere. Halved, with a warning,
                when memory runs out.
            workers: threads that read pictures; None: 2.
            mask_threshold, no_target_pixels, return_logits, explain, max_pixels: as in `predict`.
            return_errors: give the error of a picture that cannot be read or answered, whose own texts cannot be asked,
                or for which alone there is not enough memory, in its place, and go on.

        Yields:
            For each picture, in order, a `Segmentation` for each of its expressions. The results can be long: take
            them one by one, rather than as a list.

        Raises:
            ImageError: a picture cannot be taken; the results of those before it have come by then.
            OutOfMemoryError: not enough memory for a single picture.
            ValueError: fewer lists of texts than pictures, or the other way round.
            TextError, ConfigError, NumericalError: as `predict`.
        """
        options = PredictOptions.checked(self.config, mask_threshold, no_target_pixels, return_logits, explain)
        for name, count in (("batch_size", batch_size), ("workers", workers)):
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                raise ValueError(f"{name} is a whole number, 1 or more, not {count!r}")
        if isinstance(texts, str):
            raise TypeError("texts is a list of expressions, or one such list for each picture, not a string")
        if isinstance(images, str | bytes | bytearray | os.PathLike | Image.Image | np.ndarray):
            raise TypeError("images are many pictures, such as a list or generator of them; for one there is predict()")
        tokenize = partial(result_or_error, self._reader.tokenize) if return_errors else self._reader.tokenize
        tasks = pair_images_with_texts(images, texts, tokenize)

        def read(task: tuple[ImageInput, Tokenized | SSPSAMError]) -> tuple[PreprocessedImage, Tokenized] | SSPSAMError:
            image, asked = task
            if isinstance(asked, SSPSAMError):
                return asked
            try:
                picture = result_or_error(self._encoder.read, image, max_pixels)
            except MemoryError:
                return OutOfMemoryError("not enough memory to read the picture")
            return picture if isinstance(picture, SSPSAMError) else (picture, asked)

        def answer(
            ready: list[tuple[PreprocessedImage, Tokenized] | SSPSAMError],
        ) -> list[list[Segmentation] | SSPSAMError]:
            pictures = [one[0] for one in ready if isinstance(one, tuple)]
            encoded = iter(self._encoder.encode(pictures, self._device, self.fingerprint))
            outcomes: list[list[Segmentation] | SSPSAMError] = []
            for one in ready:
                if isinstance(one, SSPSAMError):
                    outcomes.append(one)
                    continue
                seen = next(encoded)
                outcomes.append(
                    seen if isinstance(seen, SSPSAMError) else result_or_error(self._answer, seen, one[1], options)
                )
            return outcomes

        size = default_batch_size(self._device) if batch_size is None else batch_size
        outcomes = compute_in_batches(
            *(tasks, read, answer),
            batch_size=size,
            workers=workers or _WORKERS,
            on_single_item_oom=(lambda error: error) if return_errors else raise_error,
        )
        return outcomes if return_errors else raise_first_error(outcomes)

    def _answer(self, asked: ImageEmbedding, tokenized: Tokenized, options: PredictOptions) -> list[Segmentation]:
        """Answers about one picture, in order."""
        results: list[Segmentation] = []
        chunk = _CHUNK.get(self._device.type, _CHUNK_ELSEWHERE)
        with inference_context(self._device):
            prepared = self._prepared(asked)
            expressions = self._reader.read(tokenized)
            for start in range(0, len(expressions), chunk):
                part = expressions[start : start + chunk]
                answers = self._model.segment(prepared, ExpressionFeatures.join([each.features for each in part]))
                for row, expression in enumerate(part):
                    words = self._reader.words(expression.token_ids) if options.explain else []
                    results.append(to_segmentation(expression, words, answers, row, asked, self.config, options))
        return results

    def _prepared(self, embedding: ImageEmbedding) -> PreparedImage:
        """What every question about a picture begins with, computed for the first and kept for the others."""
        prepared = embedding.prepared
        if prepared is None:
            prepared = self._model.prepare(ImageFeatures(embedding.clip_features, embedding.sam_embedding))
            object.__setattr__(embedding, "prepared", prepared)  # threads may both do so: what they write is equal
        return prepared

    def _embedding_for(
        self, image: ImageInput | None, embedding: ImageEmbedding | None, max_pixels: int
    ) -> ImageEmbedding:
        if image is not None and embedding is not None:
            raise TypeError("give predict() an image or an embedding, not both")
        asked = self._embedding if embedding is None else embedding
        if image is not None:
            asked = self.encode(image, max_pixels=max_pixels)
        if asked is None:
            raise NoImageError("no picture to ask about: call set_image(image) first, or pass image= or embedding=")
        if not isinstance(asked, ImageEmbedding):
            raise TypeError(f"embedding must be an ImageEmbedding from encode(), not {type(asked).__name__}")
        if asked.fingerprint != self.fingerprint:
            raise EmbeddingError(
                f"the embedding was made by another model ({asked.fingerprint[:20]}..., this is "
                f"{self.fingerprint[:20]}...): encode the picture with this one"
            )
        sizes = self.config.architecture
        expected = [(sizes.clip.grid**2, sizes.clip.embed_dim), (sizes.sam.prompt_width, *[sizes.sam.grid] * 2)]
        shapes = [tuple(asked.clip_features.shape), tuple(asked.sam_embedding.shape)]
        if shapes != expected:
            raise EmbeddingError(f"the embedding has tensors of shapes {shapes}; this model makes {expected}")
        return asked.to(self._device)
