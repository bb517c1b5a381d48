"""`SSPSAMPredictor`: the public API; `sspsam.segmentation.pipeline` computes the answers step by step."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Self, Unpack, cast, overload

import torch

from sspsam import hub
from sspsam.checkpoints.reload import encoder_identity, load_again, load_by_name, with_encoders_of
from sspsam.checkpoints.writer import CheckpointWriter
from sspsam.config import ModelConfig
from sspsam.devices import (
    checked_device,
    checked_dtype,
    default_dtype,
    named_out_of_memory,
    naming_out_of_memory,
    require_working_thread_pool,
)
from sspsam.errors import ConfigError, SSPSAMError
from sspsam.identity import LoadedCheckpoint, PredictorIdentity
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput
from sspsam.models import SSPSAM, DeviceModel
from sspsam.segmentation.answers import AnswerSettings, PredictOptions
from sspsam.segmentation.calibration import Calibration, CalibrationChoice, calibration_of, write_calibration
from sspsam.segmentation.described import DescribedPredictor
from sspsam.segmentation.image_batches import ImageBatches
from sspsam.segmentation.pipeline import Pipeline
from sspsam.segmentation.result import Segmentation
from sspsam.utils.arguments import NOT_GIVEN, NotGiven, true_or_false


class SSPSAMPredictor(CheckpointWriter, DescribedPredictor):
    """Referring expression segmentation: masks of the objects that expressions refer to.

    An image is encoded once; then any number of expressions can be segmented in it. Threads may share a predictor if
    each passes its own `embedding=`. `sspsam.devices.ieee_float32` states the one process-wide setting that a call may
    change until it returns. A predictor from a checkpoint can be pickled; the pickle holds no weights.

    Args:
        model: the network in float32; it is set to evaluation mode and must not change afterwards. On the CPU in
            float32 the predictor computes with it, otherwise with a copy on `device`; the model stays where it is.
        config: of the model.
        device: None: a GPU if PyTorch finds one, else the CPU.
        dtype: float32: everything in float32, TF32 off. float16 or bfloat16: mixed precision in the image encoders,
            and with float16 on a CUDA GPU in the rest of the network too: matrices are kept and multiplied in half
            precision; norms, softmax, residuals and similarities are float32. None: float16 on a CUDA GPU,
            float32 elsewhere.
        compile: whether to compile SAM's image encoder with `torch.compile` at its first use, for services on a GPU: it
            needs a C++ compiler and about 20 s, and may shorten the time of a new image (`docs/gpu.md`).
        embedding_cache: folder or `EmbeddingCache` for embeddings on disk; None: no cache. It is used by models that
            were loaded from a checkpoint, since other models have no lasting identity.
        checkpoint: source of `model`, passed by `from_pretrained`. None: the model was made in memory.
        encoders_of: predictor whose image encoders `model` has in the same memory, passed by `with_weights`.
        calibration: of the model, for `Segmentation.presence`; None: answers have no probability.

    Raises:
        DeviceError: this computer has no such device.
        ConfigError: `config` does not fit the model, or its vocabulary is too small for CLIP's tokenizer.
    """

    def __init__(
        self,
        model: SSPSAM,
        config: ModelConfig,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        embedding_cache: EmbeddingCache | str | os.PathLike[str] | None = None,
        checkpoint: LoadedCheckpoint | None = None,
        compile: bool = False,
        encoders_of: "SSPSAMPredictor | None" = None,
        calibration: Calibration | None = None,
    ) -> None:
        chosen, compiled = checked_device(device), true_or_false("compile", compile)
        precision = default_dtype(chosen) if dtype is None else checked_dtype(dtype)
        if model.config != config.architecture:
            raise ConfigError("the configuration describes another architecture than that of the model")
        if not isinstance(embedding_cache, EmbeddingCache | None):
            embedding_cache = EmbeddingCache(embedding_cache)
        identity = PredictorIdentity.of(config, checkpoint, chosen, precision)
        self._model, self._compile = model.eval(), compiled
        shared = None if encoders_of is None else encoders_of._pipeline
        encoder_model = None if shared is None else shared.model
        on_device = DeviceModel.of(model, chosen, precision, compiled=compiled, encoders_of=encoder_model)
        encoders = shared.encoders if shared is not None else encoder_identity(model, config, checkpoint)
        super().__init__(config, Pipeline.of(on_device, config, identity, embedding_cache, encoders, calibration))
        self._embedding: ImageEmbedding | None = None  # of set_image

    @classmethod
    @naming_out_of_memory("not enough memory to load the model")
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
        compile: bool = False,
        calibration: CalibrationChoice = None,
    ) -> Self:
        """Load a predictor from a checkpoint.

        Args:
            name_or_path: a directory with `config.json` and `model.safetensors`; a published name such as
                `"ssp-sam-224-grefcoco"`; a Hub repository `owner/name[/folder]` in this format; an authors' file on
                the Hub, `owner/name:path.pth`; or `"shapes"`, the bundled model for drawn shapes. `sspsam models`
                lists the names.
            revision: branch, tag or commit on the Hub; a commit (recommended) is looked up only once.
            device, dtype, embedding_cache, compile: see the class.
            cache_dir: of files from the Hub; None: that of `huggingface_hub`.
            local_files_only: never use the network.
            token: for private repositories.
            verify: whether to check the SHA-256 of the weights. None: when this state of the file is seen for the first
                time. True: now. False: never.
            repository: of converted checkpoints, searched first for published names; None: the environment variable
                `SSPSAM_REPOSITORY`, else none.
            calibration: a file of `sspsam calibrate`; None: `calibration.json` beside the weights, if any; False: none.

        Raises:
            CheckpointNotFoundError: no checkpoint of that name, or no name at all; the message lists the names.
            HubError: the Hub cannot be reached, or refuses; `sspsam.errors` has a class for each cause.
            ConfigError, CheckpointError: the checkpoint, or its calibration, is damaged or of another model.
            DeviceError: this computer has no such device.
            ForkedProcessError: the process was forked after a computation.
        """
        require_working_thread_pool()
        chosen = checked_device(device)
        true_or_false("compile", compile)  # before files are downloaded
        options = hub.HubOptions.of(revision, cache_dir, local_files_only, token)
        loaded, file = load_by_name(name_or_path, options, repository, verify)
        presence = calibration_of(calibration, file.path, loaded.config.fingerprint)
        of_checkpoint = partial(cls, loaded.model, loaded.config, device=chosen, dtype=dtype, checkpoint=file)
        return of_checkpoint(embedding_cache=embedding_cache, compile=compile, calibration=presence)

    @naming_out_of_memory("not enough memory to load the model")
    def with_weights(
        self,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        verify: bool | None = None,
        repository: str | None = None,
    ) -> Self:
        """Load a second predictor that shares this one's image encoders, in host memory and on the device.

        Both accept each other's embeddings, and the new one begins with the image of `set_image`. Device, precision,
        compilation and embedding cache are those of this predictor.

        Args:
            name_or_path, revision, cache_dir, local_files_only, token, verify, repository: as in `from_pretrained`.

        Raises:
            EncodersDifferError: the checkpoint has other image encoders; the message names the difference.
            CheckpointNotFoundError, HubError, ConfigError, CheckpointError: as `from_pretrained`.
        """
        options = hub.HubOptions.of(revision, cache_dir, local_files_only, token)
        loaded, file = load_by_name(name_or_path, options, repository, verify)
        other = type(self)(
            with_encoders_of(self._model, loaded, file, self._pipeline.encoders),
            loaded.config,
            device=self.device,
            dtype=self.dtype,
            embedding_cache=self.embedding_cache,
            checkpoint=file,
            compile=self._compile,
            calibration=calibration_of(None, file.path, loaded.config.fingerprint),
            encoders_of=self,
        )
        other._embedding = self._embedding
        return other

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of presence, if there is one."""
        return self._pipeline.calibration

    def to(self, device: str | torch.device | None) -> Self:
        """Move the model to a device; `None` and errors are those of the constructor. Embeddings follow when used.

        On the device where it is already, nothing happens: caches and recordings stay.
        """
        chosen = checked_device(device)
        if chosen == self.device:
            return self
        model = DeviceModel.of(self._model, chosen, self.dtype, compiled=self._compile)
        self._pipeline = self._pipeline.on(chosen, model)
        return self

    def _write_companions(self, directory: str | os.PathLike[str], config: ModelConfig) -> None:
        if self.calibration is not None:
            write_calibration(self.calibration.of_fingerprint(config.fingerprint), directory)

    def encode(self, image: ImageInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageEmbedding:
        """Encode an image; the predictor does not change.

        Args:
            image: a path, bytes, a file, a PIL image or an RGB array (h, w, 3) uint8; `cv2.COLOR_BGR2RGB` for OpenCV's.
            max_pixels: largest width times height, checked before decoding.

        Raises:
            ImageError: the image cannot be used; the message gives the reason.
            NumericalError: the features are not finite.
            DeviceError: with `compile=True`, PyTorch cannot compile here.
        """
        with named_out_of_memory():
            return self._pipeline.encode_image(image, max_pixels)

    def set_image(self, image: ImageInput, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageEmbedding:
        """Encode an image, as `encode` does, and keep its embedding for `predict`. After an error no image is set."""
        self._embedding = None
        self._embedding = self.encode(image, max_pixels=max_pixels)
        return self._embedding

    @overload
    def predict(
        self,
        texts: str,
        *,
        image: ImageInput | NotGiven = NOT_GIVEN,
        embedding: ImageEmbedding | NotGiven = NOT_GIVEN,
        **options: Unpack[PredictOptions],
    ) -> Segmentation: ...

    @overload
    def predict(
        self,
        texts: list[str] | tuple[str, ...],
        *,
        image: ImageInput | NotGiven = NOT_GIVEN,
        embedding: ImageEmbedding | NotGiven = NOT_GIVEN,
        **options: Unpack[PredictOptions],
    ) -> list[Segmentation]: ...

    def predict(
        self,
        texts: str | list[str] | tuple[str, ...],
        *unnamed: object,
        image: ImageInput | NotGiven = NOT_GIVEN,
        embedding: ImageEmbedding | NotGiven = NOT_GIVEN,
        **options: Unpack[PredictOptions],
    ) -> Segmentation | list[Segmentation]:
        """Segment the objects that expressions refer to in one image.

        Args:
            texts: one expression, or a list of them.
            image: to segment; not given: `embedding`, else the image of `set_image`. None is an error.
            embedding: from `encode`; None is an error. Neither `embedding` nor `image` changes the image of
                `set_image`.
            options: `mask_threshold`: probability from which a pixel is foreground; None: the model's (0.5).
                `no_target_pixels`: fewer foreground pixels mean no target; None: the model's (50). They are counted at
                probability 0.5 in the authors' frame of 512 x 512, whatever `mask_threshold` is.
                `presence_threshold`: instead, `presence` from which there is a target, if the mask is not empty.
                `return_logits`: `"low_res"` or `"full"` to return logits as well.
                `explain`: whether to return the model's maps and word weights as well.
                `return_features`: whether to return the numbers behind `presence` as well.
                `max_pixels`: of `image`, as in `encode`.

        Returns:
            A `Segmentation` for a string; for a list, a list in the same order.

        Raises:
            NoImageError: no image was given or set.
            TextError: an expression is empty or far too long.
            ImageError: `image` cannot be used.
            EmbeddingError: `embedding` belongs to other image encoders.
            ConfigError: a threshold is out of range, or needs a calibration that the model lacks.
            NumericalError: the prediction is not finite.
        """
        settings = AnswerSettings.of(self._config, options, unnamed, calibrated=self.calibration is not None)
        expressions = self._pipeline.tokenize(texts)
        with named_out_of_memory():
            results = self._pipeline.results(image, embedding, self._embedding, expressions, settings)
        return results[0] if isinstance(texts, str) else results

    @overload
    def predict_batch(
        self,
        images: Iterable[ImageInput],
        texts: Sequence[str] | Iterable[Sequence[str]],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[PredictOptions],
    ) -> Iterator[list[Segmentation]]: ...

    @overload
    def predict_batch(
        self,
        images: Iterable[ImageInput],
        texts: Sequence[str] | Iterable[Sequence[str]],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        return_errors: Literal[True],
        **options: Unpack[PredictOptions],
    ) -> Iterator[list[Segmentation] | SSPSAMError]: ...

    def predict_batch(
        self,
        images: Iterable[ImageInput],
        texts: Sequence[str] | Iterable[Sequence[str]],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        return_errors: bool = False,
        **options: Unpack[PredictOptions],
    ) -> Iterator[list[Segmentation]] | Iterator[list[Segmentation] | SSPSAMError]:
        """Segment many images lazily: threads load and resize the next images while the model computes.

        Args:
            images: any iterable; a few images are taken in advance.
            texts: a list of expressions for every image, or a list for each image.
            batch_size: images that are encoded together; None: 1 on the CPU, 4 elsewhere. It is halved, with a warning,
                when memory runs out.
            workers: threads that load images; None: 2, on a GPU as many as the cores, at most 8.
            return_errors: yield an error in the place of an image that cannot be loaded or segmented, whose own texts
                are invalid, or for which alone there is not enough memory; and continue.
            options: as in `predict`.

        Yields:
            For each image, in order, a `Segmentation` for each expression. Results are large: use them one by one.

        Raises:
            ImageError: an image cannot be used; the results of all earlier images have been yielded before.
            OutOfMemoryError: not enough memory for a single image.
            ValueError: fewer lists of texts than images, or more.
            TextError, ConfigError, NumericalError: as `predict`.
        """
        settings = AnswerSettings.of(self._config, options, calibrated=self.calibration is not None)
        return_errors = true_or_false("return_errors", return_errors)
        outcomes = ImageBatches(self._pipeline, settings).answers(images, texts, batch_size, workers, return_errors)
        return outcomes if return_errors else cast(Iterator[list[Segmentation]], outcomes)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by checkpoint, without weights.

        Raises:
            UnsavedModelError: the model does not come from a checkpoint.
        """
        pipeline = self._pipeline
        pipeline.identity.require_checkpoint()
        own = self._embedding, self._compile, self.calibration
        return _unpickled, (type(self), pipeline.identity, pipeline.cache, *own)


def _unpickled(
    kind: type[SSPSAMPredictor],
    identity: PredictorIdentity,
    cache: EmbeddingCache | None,
    embedding: ImageEmbedding | None,
    compile: bool = False,
    calibration: Calibration | None = None,
) -> SSPSAMPredictor:
    """Load a pickled predictor from its checkpoint."""
    require_working_thread_pool()
    loaded, checkpoint = load_again(identity)
    device, dtype = identity.device, identity.dtype
    of_checkpoint = partial(kind, loaded.model, loaded.config, device=device, dtype=dtype, checkpoint=checkpoint)
    predictor = of_checkpoint(embedding_cache=cache, compile=compile, calibration=calibration)
    predictor._embedding = embedding
    return predictor
