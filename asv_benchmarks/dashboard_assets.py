"""The scripts and styles that asv's pages load from the network, beside the pages instead.

    npm pack, once, versions pinned ─► .asv/assets/*.tgz ─► checked by hash, every time ─► <pages>/vendor/{js,css,fonts}/
                                                                                           index.html: links rewritten, integrity attributes dropped

A machine without npm, or without a network, takes the folder .asv/assets from one that has both.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ruvattn.errors import InvalidInputError

__all__ = ["PACKAGES", "Package", "bring", "localise"]


@dataclass(frozen=True)
class Package:
    """A package of npm.

    Attributes
    ----------
    name, version : str
        Which.
    integrity : str
        The SHA-512 of its archive in base 64, as npm has it.
    files : dict of str to str
        What of it is needed: the file in the package to the path beside the pages.
    """

    name: str
    version: str
    integrity: str
    files: dict[str, str]

    @property
    def archive(self) -> str:
        """The file name of its archive, as ``npm pack`` gives it."""
        return f"{self.name}-{self.version}.tgz"


_FLOT = ("flot", "flot.time", "flot.selection", "flot.categories")
_FONT = "dist/fonts/glyphicons-halflings-regular"

# Of the versions that asv's pages name; of stupid-table npm has only a later one, which those who use 1.0.1 can use.
PACKAGES = (
    Package(
        "jquery", "3.3.1", "Ubldcmxp5np52/ENotGxlLe6aGMvmF4R8S6tZjsP6Knsaxd/xp3Zrh50cG93lR6nPXyUFwzN3ZSOQI0wRJNdGg==",
        {"dist/jquery.min.js": "js/jquery.js"},
    ),
    Package(
        "flot", "0.8.3", "xg2otcTJDvS+ERK+my4wxG/ASq90QURXtoM4LhacCq0jQW2jbyjdttbRNqU2cPykrpMvJ6b2uSp6SAgYAzj9tQ==",
        {f"jquery.{name}.js": f"js/jquery.{name}.js" for name in _FLOT},
    ),
    Package(
        "flot-orderbars", "1.0.0", "Jv51fvzevUjNXEeozpwEKfPjhiZhfiJddv0WHjduUTCmSF+7T5K7C9c9Y1wIVmUhDBv5fLMjgbwKecT0GIKPZA==",
        {"js/jquery.flot.orderBars.js": "js/jquery.flot.orderBars.js"},
    ),
    Package(
        "stupid-table-plugin", "1.1.3", "2Vk7XouQPxUQPRe9w0Fu7ZZ8kHLK7rDoLMsCgtKxRNJ7f4dSOGvW9CkHsq5wD6QsaEnWoyLBYH3xOEsrK3yWBg==",
        {"stupidtable.min.js": "js/stupidtable.js"},
    ),
    Package(
        "blueimp-md5", "2.19.0", "DRQrD6gJyy8FbiE4s+bDoXS9hiW3Vbx5uCdwvcCf3zLHL+Iv7LtGHLpr+GZV8rHG8tK766FGYBwRbu8pELTt+w==",
        {"js/md5.min.js": "js/md5.js"},
    ),
    Package(
        "bootstrap", "3.1.1", "TAzqS8E/ISpVHP29gYhy+1NSV+FJwApDVQhDfgLYsIuUDJiqJzH2DfORN5tiu+Ie2iBLrzEG34t4Rf465cigqg==",
        {
            "dist/js/bootstrap.min.js": "js/bootstrap.js", "dist/css/bootstrap.min.css": "css/bootstrap.css",
            **{f"{_FONT}.{kind}": f"fonts/{Path(_FONT).name}.{kind}" for kind in ("woff", "ttf", "eot", "svg")},
        },
    ),
)  # fmt: skip

_TAG = re.compile(r"<(?:script|link)\b[^>]*>")
_ADDRESS = re.compile(r'\b(src|href)="((?:https?:)?//[^"]*)"')
_CHECKED = re.compile(r'\s+(?:integrity|crossorigin|referrerpolicy)="[^"]*"')


def bring(folder: Path) -> None:
    """Have the archives in a folder, by npm where they are not there yet.

    Parameters
    ----------
    folder : Path
        Where they are kept.

    Raises
    ------
    InvalidInputError
        If one is missing and there is no npm or no network, or if one is not what it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in PACKAGES if not (folder / package.archive).exists()]
    if missing:
        npm = shutil.which("npm")
        hint = f"or copy {folder} from a machine that has published a dashboard"
        if npm is None:
            raise InvalidInputError(
                f"the pages need scripts that npm brings, and there is no npm on the PATH: install Node.js (https://nodejs.org, or your system's "
                f"package npm), {hint}. What was measured is kept: --no-run publishes it"
            )
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [npm, "pack", "--silent", "--ignore-scripts", *(f"{package.name}@{package.version}" for package in missing)]
            run = subprocess.run(command, cwd=scratch, check=False, capture_output=True, text=True)
            if run.returncode:
                said = next((line.strip() for line in run.stderr.splitlines() if line.strip()), "without a word")
                raise InvalidInputError(f"npm could not bring the scripts of the pages: {said}; look at the network, {hint}")
            for package in missing:
                _check(package, Path(scratch) / package.archive)
                (Path(scratch) / package.archive).replace(folder / package.archive)
    for package in PACKAGES:
        _check(package, folder / package.archive)


def _check(package: Package, archive: Path) -> None:
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise InvalidInputError(f"{archive} is not {package.name} {package.version} as it was published: remove it, and it will be fetched anew")


def localise(pages: Path, assets: Path) -> None:
    """Put scripts and styles beside asv's pages, and have the pages load those.

    Parameters
    ----------
    pages : Path
        What ``asv publish`` wrote.
    assets : Path
        The folder that `bring` filled.

    Raises
    ------
    InvalidInputError
        If the pages load something that is not known here, as those of another version of asv may.
    """
    for package in PACKAGES:
        with tarfile.open(assets / package.archive) as archive:
            for inside, outside in package.files.items():
                member = archive.extractfile(f"package/{inside}")
                assert member is not None, inside
                place = pages / "vendor" / outside
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(member.read())
    beside = {outside.rpartition("/")[2].lower(): f"vendor/{outside}" for package in PACKAGES for outside in package.files.values()}

    def rewrite(tag: re.Match[str]) -> str:
        address = _ADDRESS.search(tag[0])
        if address is None:
            return tag[0]
        name = re.sub(r"-[\d.]+\d(?=\.)|\.min(?=\.)", "", address[2].rpartition("/")[2]).lower()
        if name not in beside:
            raise InvalidInputError(f"this version of asv has pages that load {address[2]}, which asv_benchmarks/dashboard_assets.py doesn't know")
        return _CHECKED.sub("", tag[0].replace(address[0], f'{address[1]}="{beside[name]}"'))

    for page in pages.glob("*.html"):
        page.write_text(_TAG.sub(rewrite, page.read_text()))
