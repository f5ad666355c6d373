"""The ``checkpoints`` folder of a run: finding, verifying and rotating checkpoints."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from vtp_core.errors import CheckpointError
from vtp_core.training.ranks.rank_objects import gather_objects, on_first_rank, ranks
from vtp_core.training.saving.best import BEST, read_best
from vtp_core.training.saving.manifest import MANIFEST, Manifest, check_files, published, read_manifest
from vtp_core.training.saving.safe_reader import SafeReader

LATEST = "latest"
"""Text file with the name of the newest good checkpoint, for people and other programs."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was found complete, undamaged and finite.

    Attributes:
        path: Its folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest


def find_latest(folder: Path) -> Checkpoint:
    """The newest complete checkpoint with finite values; every rank calls it.

    ``latest`` is not used: a process may be killed after the rename and before it is replaced.

    Args:
        folder: A run folder, its ``checkpoints`` folder, a checkpoint itself, or its ``checkpoints/best``.

    Returns:
        The checkpoint. Damaged or incomplete newer ones are named in a warning.

    Raises:
        CheckpointError: There is none.
    """
    folder = on_first_rank(lambda: _named(folder))
    if on_first_rank((folder / MANIFEST).is_file):
        return Checkpoint(path=folder, manifest=verify(folder))
    inner = folder / "checkpoints"
    home = inner if inner.is_dir() else folder
    problems = []
    for path in on_first_rank(lambda: published(home)):
        try:
            manifest = verify(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems if ranks()[0] == 0 else ():
            _log.warning("%s; using %s instead", problem, path.name)
        return Checkpoint(path=path, manifest=manifest)
    reasons = ": " + "; ".join(problems) if problems else ""
    raise CheckpointError(f"{home}: no usable checkpoint{reasons}")


def _named(path: Path) -> Path:
    """The checkpoint that ``checkpoints/best`` names; any other path itself."""
    if path.name != BEST or path.is_dir():
        return path
    best = read_best(path.parent)
    if best is None:
        raise CheckpointError(f"{path}: names no checkpoint that is there; set evaluate.best in the recipe")
    return best.path


def verify(path: Path) -> Manifest:
    """Checks a checkpoint's manifest, files, table of contents and finite flag; every rank calls it.

    The files are divided among the ranks: together they hash every byte of the checkpoint once.

    Returns:
        The manifest.

    Raises:
        CheckpointError: Says what is wrong with which file, the same on every rank.
    """
    manifest = on_first_rank(lambda: read_manifest(path))
    rank, world_size = ranks()
    problem = None
    try:
        check_files(path, manifest, list(manifest.files)[rank::world_size])
    except (CheckpointError, OSError) as error:
        problem = str(error)
    for found in gather_objects(problem):
        if found is not None:
            raise CheckpointError(found)
    on_first_rank(lambda: _check_listed(path, manifest))
    if not manifest.finite:
        raise CheckpointError(f"{path}: holds values that are not finite ({manifest.nonfinite})")
    return manifest


def _check_listed(path: Path, manifest: Manifest) -> None:
    """Checks that every file with tensors is one whose hash the manifest lists."""
    if manifest.format_version == 1:
        _log.warning("%s: an earlier version wrote it; its %s has no hash of its own", path, MANIFEST)
    places = SafeReader(path).read_metadata().storage_data
    for name in sorted({place.relative_path for place in places.values()} - manifest.files.keys()):
        raise CheckpointError(f"{path}: .metadata uses {name}, which {MANIFEST} does not list")


def rotate(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints; the newest finite one and the best one stay."""
    good, best = None, read_best(folder)
    spared = None if best is None else best.path
    for number, path in enumerate(published(folder)):
        try:
            finite = read_manifest(path).finite
        except CheckpointError:
            finite = False
        if number >= keep and path != spared and not (finite and good is None):
            remove(path)
        elif finite and good is None:
            good = path


def remove(path: Path) -> None:
    """Removes a checkpoint's folder; of a link to a folder elsewhere, the link. A failure is a warning."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: could not be removed (%s)", path, error)
