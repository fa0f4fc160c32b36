"""Resolves the names of classifiers: which library a name belongs to, and where its files are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from dct_augment import files, pocket
from dct_augment.classifiers import kept
from dct_augment.errors import ModelError
from dct_augment.wording import reason_of

Kind = Literal["pocket", "folder", "hub", "timm", "function"]
Library = Literal["timm", "transformers", "function"]

_WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True)
class ResolvedName:
    """Where a classifier comes from.

    `location` is the folder for the kinds pocket and folder, the id for hub, the name of an architecture or of weights
    for timm, and `module:function` for function. `library` is None where only the classifier's config.json says it.
    """

    name: str
    kind: Kind
    location: str
    library: Library | None

    @property
    def is_local(self) -> bool:
        """Whether the model lies in a folder."""
        return self.kind in ("pocket", "folder")

    @property
    def repository(self) -> str:
        """The id on the Hub; timm's own names have one each."""
        return f"timm/{self.location}" if self.kind == "timm" else self.location

    def is_here(self, revision: str | None = None) -> bool:
        """Tell whether its weights are on this machine, without network. A function's are its own matter."""
        if self.kind in ("pocket", "function"):
            return True
        if self.kind == "folder":
            folder = Path(self.location)
            return (folder / "config.json").is_file() and any(file.suffix in _SUFFIXES for file in folder.iterdir())
        found = (try_to_load_from_cache(self.repository, file, revision=revision) for file in _WEIGHT_FILES)
        return any(isinstance(path, str) for path in found)

    def weight_bytes(self, revision: str | None = None) -> int:
        """Add up the files of its weights on this machine; 0 if it is not here, and for a function."""
        if self.kind == "function":
            return 0
        if self.is_local:
            folder = Path(self.location)
        else:
            found = (try_to_load_from_cache(self.repository, file, revision=revision) for file in _WEIGHT_FILES)
            path = next((path for path in found if isinstance(path, str)), None)
            if path is None:
                return 0
            folder = Path(path).parent
        for suffix in _SUFFIXES:  # a folder may hold the same weights in both formats
            if files := [file for file in folder.glob(f"*{suffix}") if file.is_file()]:
                return sum(file.stat().st_size for file in files)
        return 0

    @property
    def timm_name(self) -> str:
        """The name as timm.create_model takes it."""
        if self.is_local:
            return f"local-dir:{self.location}"
        return f"hf-hub:{self.location}" if self.kind == "hub" else self.location


def resolve(name: str, library: Library | None = None) -> ResolvedName:
    """Resolve a classifier's name, without network. `library` is what the user says of it, if anything.

    `pocket/NAME` is shipped; `local-dir:FOLDER`, `hf-hub:ID` and names without a slash are timm's; what is a folder, or
    is written like one, is a folder, and that of a run stands for the classifier that the run has kept; any other name
    with a slash is an id of the Hub.

    Raises:
        ModelError: Pocket has no classifier of this name, a run has kept none, or the name has a colon and nothing that
            explains it.
    """
    if library == "function":
        return ResolvedName(name, "function", name, library)
    if name.startswith("pocket/"):
        return ResolvedName(name, "pocket", str(_pocket_folder(name)), library or "timm")
    if name.startswith("local-dir:"):
        folder = kept.find(Path(name.removeprefix("local-dir:")).expanduser())
        return ResolvedName(name, "folder", str(folder), library or "timm")
    if name.startswith(("hf-hub:", "hf_hub:")):
        return ResolvedName(name, "hub", name.partition(":")[2], library or "timm")
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")):
        return ResolvedName(name, "folder", str(kept.find(folder)), library)
    if ":" in name:
        raise ModelError(
            f"classifier {name!r}: to call a function of your own, say so with library: function; a timm model is "
            "hf-hub:ID or local-dir:FOLDER"
        )
    if "/" in name:
        return ResolvedName(name, "hub", name, library)
    if library == "transformers":
        return ResolvedName(name, "hub", name, library)
    return ResolvedName(name, "timm", name, "timm")


def resolve_zero_shot(model: str) -> ResolvedName:
    """Resolve the model of a zero-shot classifier, without network: an id on the Hub, or a folder of transformers.

    Raises:
        ModelError: it is neither.
    """
    is_written_as_path = model.startswith((".", "/", "~", "local-dir:", "hf-hub:", "hf_hub:"))
    if model.startswith("pocket/") or (":" in model and not is_written_as_path and not Path(model).is_dir()):
        raise ModelError(
            f"zero_shot model {model!r} is neither an id on the Hub nor a folder; give one of the two, e.g. "
            "'openai/clip-vit-base-patch32'. Pocket ships no zero-shot model"
        )
    return resolve(model, "transformers")


def _pocket_folder(name: str) -> Path:
    classifier = name.removeprefix("pocket/")
    shipped = (*pocket.CLASSIFIERS, pocket.BACKBONE)
    if classifier not in shipped:
        available = ", ".join(f"pocket/{name}" for name in shipped)
        raise ModelError(f"classifier {name!r} does not exist; Pocket has: {available}")
    return pocket.path(classifier)


def refuse_backbone(resolved: ResolvedName) -> None:
    """Raise ModelError for Pocket's backbone where a classifier of the user's classes is needed."""
    if resolved.kind == "pocket" and Path(resolved.location).name == pocket.BACKBONE:
        raise ModelError(
            f"classifier {resolved.name!r} is a backbone: it was trained on other birds and on strokes, and knows none "
            f"of your classes. For a guide or judge give {{name: few_shot, backbone: {resolved.name}}}"
        )


def refuse_trained(resolved: ResolvedName, setting: str) -> None:
    """Raise ModelError for a guide or judge of Pocket's where a model to train from is needed."""
    if resolved.kind == "pocket" and Path(resolved.location).name != pocket.BACKBONE:
        raise ModelError(
            f"{setting} {resolved.name!r} is a guide or judge: it knows classes of its own already, and is nothing to "
            f"train from. Take pocket/{pocket.BACKBONE}, which is shipped, or a name of "
            "timm.list_models(pretrained=True)"
        )


def library_of(resolved: ResolvedName, revision: str | None = None) -> Library:
    """Say whose model a name is. May read its config.json, and download that from the Hub.

    A repository that cannot be reached and is not in the Hub's cache is taken for transformers, whose own error says
    what is wrong.

    Raises:
        ModelError: the folder holds no classifier, or its config.json cannot be read.
    """
    if resolved.library is not None:
        return resolved.library
    if resolved.kind == "folder":
        try:
            return _library_in(Path(resolved.location) / "config.json")
        except FileNotFoundError as error:
            raise ModelError(kept.no_classifier_in(resolved.name)) from error
        except (OSError, ValueError) as error:
            raise ModelError(
                f"classifier {resolved.name!r}: config.json there cannot be read: {reason_of(error)}. Write it "
                "again; dct-augment fit makes that of a run"
            ) from error
    try:
        return _library_in(Path(hf_hub_download(resolved.location, "config.json", revision=revision)))
    except (OSError, ValueError, EntryNotFoundError):
        return "transformers"


def _library_in(path: Path) -> Library:
    """Say which library wrote a config.json."""
    return "timm" if "architecture" in files.load_json(path) else "transformers"
