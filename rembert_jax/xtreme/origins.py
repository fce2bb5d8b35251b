"""Where the data of XTREME's tasks is published, and fetching it: resumable, with checksums where they are known."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import logging
import pathlib
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from importlib import resources

from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
ATTEMPTS = 5
"""Connections that may break in one download before it is given up; each goes on where the last one stopped."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the data of a task is published.

    Attributes:
      files: addresses, each with the sha256 of what is there, empty where it is not known.
      licence: of the data, as its owners state it.
      note: what to know before fetching.
    """

    files: tuple[tuple[str, str], ...]
    licence: str
    note: str = ""


class FetchError(RemBertError):
    """A file cannot be had, or is not what it was."""


LICENCES = {
    "xnli": ("CC-BY-NC-4.0", "the checksum is that of the file at its former address, cims.nyu.edu"),
    "multinli": ("OANC and others", "English training pairs of XNLI"),
    "pawsx": ("free for any purpose", ""),
    "panx": ("CC-BY-SA (Wikipedia)", "the official script's Amazon Drive is gone (google-research/xtreme issue 101)"),
    "udpos": ("of each treebank, in its folder", "355 MB from a host that breaks connections"),
    "xquad": ("CC-BY-SA-4.0", ""),
    "mlqa": ("CC-BY-SA-3.0", ""),
    "tydiqa": ("Apache-2.0", ""),
    "squad": ("CC-BY-SA-4.0", "English training questions of XQuAD and MLQA"),
    "bucc2018": ("of the shared task", "XTREME's dev is the sample, its test the training set"),
    "tatoeba": ("CC-BY-2.0-FR", ""),
}
"""Task, and the English training data of three, to licence and note."""


def origins() -> dict[str, Origin]:
    """Task to origin, from the table `origins.tsv` beside this module."""
    files: dict[str, list[tuple[str, str]]] = {name: [] for name in LICENCES}
    for line in resources.files("rembert_jax.xtreme").joinpath("origins.tsv").read_text("utf-8").splitlines()[1:]:
        task, address, digest = line.split("\t")
        files[task].append((address, "" if digest == "-" else digest))
    return {name: Origin(tuple(files[name]), licence, note) for name, (licence, note) in LICENCES.items()}


def fetch(origin: Origin, folder: pathlib.Path) -> list[pathlib.Path]:
    """Downloads the files of an origin into a folder and unpacks archives there; what is there already is not fetched again.

    Raises:
      FetchError: naming host, address and what to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched = []
    for address, digest in origin.files:
        target = folder / address.rpartition("/")[2].partition("?")[0]
        if not target.exists():
            download(address, target, digest)
            unpack(target, folder)
        fetched.append(target)
    return fetched


def download(address: str, target: pathlib.Path, sha256: str = "") -> None:
    """Downloads a file; the part that an earlier attempt got is kept beside it and gone on with.

    Raises:
      FetchError: if the host does not answer, refuses, breaks the connection too often, or the checksum is another.
    """
    partial = target.with_name(f"{target.name}.partial")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(address, partial)
            break
        except urllib.error.HTTPError as error:
            raise FetchError(
                f"{address}: the host answers {error.code} {error.reason}; look for the file elsewhere and put it at {target}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            size = partial.stat().st_size if partial.exists() else 0
            if attempt == ATTEMPTS:
                raise FetchError(
                    f"{address}: {error} (after {size:,} bytes, {ATTEMPTS} times); the same command goes on from there, or "
                    f"put the file at {target}"
                ) from error
            logger.warning("%s: %s after %s bytes; going on", address, error, f"{size:,}")
    found = _digest(partial)
    if sha256 and found != sha256:
        partial.unlink()
        raise FetchError(f"{address}: sha256 is {found}, expected {sha256}; the file has changed, it was not kept")
    if not sha256:
        logger.warning("%s: no checksum is known for it; sha256 is %s", address, found)
    partial.rename(target)


def _continue(address: str, partial: pathlib.Path) -> None:
    """Gets what is missing of a file, or all of it from a host that cannot send parts."""
    size = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if size and error.code == 416:  # There is nothing behind what we have.
            return
        raise
    with response, partial.open("ab" if response.status == 206 else "wb") as file:
        expected = response.headers.get("Content-Length")
        before = file.tell()
        shutil.copyfileobj(response, file, CHUNK)
        if expected is not None and file.tell() - before < int(expected):
            raise ConnectionError("the connection ended early")


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpacks a zip or tar file, and archives in it into folders of their names; nothing is written outside of the folder.

    Raises:
      FetchError: if it is damaged.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        elif any(suffix in archive.suffixes for suffix in (".tar", ".tgz")):
            with tarfile.open(archive) as file:
                names = file.getnames()
                file.extractall(folder, filter="data")
            for inner in (
                folder / name for name in names if name.endswith(".tar.gz")
            ):  # PAN-X has one for each language.
                unpack(inner, folder / inner.name.removesuffix(".tar.gz"))
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        archive.unlink()
        raise FetchError(f"{archive} cannot be unpacked ({error}); it was removed, fetch it again") from error
