"""Combined outputs, which are made from all results of a run at its end: COCO, YOLO and Parquet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sspsam.batch.coco import batch_coco_file
from sspsam.batch.combined_output_names import combined_output_names, require_replaceable_outputs
from sspsam.batch.ledger import Ledger
from sspsam.batch.manifest import Task
from sspsam.batch.options import BatchOptions, Format
from sspsam.batch.parquet import require_pyarrow, write_parquet
from sspsam.batch.result_lines import result_lines
from sspsam.batch.yolo import require_label_files, write_yolo_folder
from sspsam.segmentation.exports.coco import ShapeOptions, require_coco_tools
from sspsam.segmentation.exports.images import Instances
from sspsam.utils.files import atomic_replace, write_file


@dataclass(frozen=True)
class CombinedOutputs:
    """The requested combined outputs.

    Args:
        output: folder of the run.
        tasks: all tasks of the batch, other shards' tasks included.
        stems: output stem of each image.
        options: of the batch.
    """

    output: Path
    tasks: Sequence[Task]
    stems: Mapping[str, str]
    options: BatchOptions

    def require_possible(self) -> None:
        """Check before the run that its last step can write the files.

        Raises:
            MissingExtraError: a package is not installed; the message names the extra.
            BatchError: two images would share a file, or a file of another program would be replaced.
            StorageError: a path is a link that leads out of the output folder.
        """
        formats = self.options.formats
        if "parquet" in formats:
            require_pyarrow()
        if "coco" in formats:
            require_coco_tools(self._shapes)
        if "yolo" in formats:
            require_label_files(self.stems)
        require_replaceable_outputs(self.output, self._paths().values())

    def write(self, ledger: Ledger) -> None:
        """Write the files.

        Raises:
            BatchError: a line of the results is damaged.
            StorageError: a file cannot be written.
        """
        limit, paths = self.options.max_pixels, self._paths()
        if (path := paths.get("coco")) is not None:
            with atomic_replace(path, within=ledger.temporary) as [temporary]:
                lines = result_lines(ledger.results, limit)
                pieces = batch_coco_file(lines, self.tasks, self._shapes, self.options.shard)
                write_file(temporary, lambda file: file.writelines(pieces))
        if (path := paths.get("parquet")) is not None:
            with atomic_replace(path, within=ledger.temporary) as [temporary]:
                write_file(temporary, lambda file: write_parquet(file, result_lines(ledger.results, limit)))
        if (path := paths.get("yolo")) is not None:
            lines = result_lines(ledger.results, limit)
            write_yolo_folder(
                path, lines, self.tasks, self.stems, Instances(True, self.options.min_area), ledger.temporary
            )

    @property
    def _instances(self) -> Instances:
        return Instances(self.options.instances, self.options.min_area)

    @property
    def _shapes(self) -> ShapeOptions:
        return ShapeOptions(self._instances, self.options.coco_polygons)

    def _paths(self) -> dict[Format, Path]:
        names = combined_output_names(self.options.shard)
        return {kind: self.output / name for kind, name in names.items() if kind in self.options.formats}
