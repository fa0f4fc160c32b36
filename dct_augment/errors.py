"""Every error a user can meet. The CLI shows the message alone and exits with `exit_code`."""


class DctAugmentError(Exception):
    """Base of all errors raised on purpose: names the value, what is allowed, and the fix."""

    exit_code = 1


class InputError(DctAugmentError):
    """Something the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """The configuration is wrong. Collects every problem, not only the first."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where, self.problems = where, problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        super().__init__(f"{where}: {count}\n{lines}")


class DatasetError(InputError):
    """A data set is missing, empty, or not in the layout it should have."""


class UnreadableImageError(DatasetError):
    """A picture cannot be read; the message is the reason alone."""


class ModelError(InputError):
    """A model or classifier cannot be loaded or does not fit the data set."""


class StaleRunError(InputError):
    """The output folder holds work made with other settings."""


class BusyRunError(InputError):
    """Another process is writing to the same output folder."""


class TokenTrainingError(DctAugmentError):
    """The training of every class token failed."""


class UntrainedClassesError(TokenTrainingError):
    """The training of the tokens of some classes failed; all else is done."""


class StoreError(InputError):
    """What lies on a store (`s3://`, `gs://`, `hf://`) cannot be read or written."""


class MissingImagesError(DctAugmentError):
    """No image of a class could be generated; all else is done."""


class ShardError(InputError):
    """A shard is damaged: it, its rows, its plan or its hash do not agree."""


class ExportError(DctAugmentError):
    """Images could not be uploaded, or a classifier not be written in a format."""


class LeakError(DctAugmentError):
    """A test image also appears in a training input."""
