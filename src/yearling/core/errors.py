"""The tree of every error Yearling raises on purpose.

    YearlingError
    ├── ConfigError            a configuration value or file is wrong
    ├── DataError              rows that cannot be read, or too many that were dropped
    ├── LineageError           a lineage record is missing, or was changed
    ├── RegistryError          a name nobody registered, or registered twice
    ├── ModelError             a model cannot be found, read or run
    │   ├── ModelNotFoundError     no such model in the store or on disk
    │   ├── ModelFormatError       a model file is malformed or of an unsupported form
    │   ├── DownloadError          a pull failed; what arrived is kept for the next try
    │   ├── LicenceError           a model whose terms nobody has accepted
    │   └── TemplateError          a chat template is refused, fails or takes too much
    ├── RequestError           a request that cannot be served as asked
    │   ├── ContextLengthError     prompt and answer do not fit the context window
    │   └── UnsupportedError       a feature this model or build does not have
    ├── TrainingError          a run cannot start, go on or be resumed
    │   ├── NonFiniteError         a loss or gradient is not a number; the weights are unchanged
    │   └── CheckpointError        a training checkpoint is missing, damaged or of another run
    ├── CapacityError          no room now; the same request may succeed later
    ├── CatalogueError         a system that is not built, or whose check proves nothing
    └── EngineError            the engine failed while a request was running
        └── WorkerLostError        the worker process of a model ended

A message says what is wrong, with the values, where they came from, and what to do.
"""

__all__ = [
    "CapacityError",
    "CatalogueError",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "DataError",
    "DownloadError",
    "EngineError",
    "LicenceError",
    "LineageError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "NonFiniteError",
    "RegistryError",
    "RequestError",
    "TemplateError",
    "TrainingError",
    "UnsupportedError",
    "WorkerLostError",
    "YearlingError",
]


class YearlingError(Exception):
    """Root of all errors that Yearling raises on purpose."""


class ConfigError(YearlingError):
    """A configuration value or file is wrong."""


class DataError(YearlingError):
    """Rows that cannot be read, or more of them dropped than allowed; `file:line` names each."""


class LineageError(YearlingError):
    """A lineage record is missing, or is not the one its name promises."""


class RegistryError(YearlingError):
    """A name that nobody registered, or that two files registered."""


class ModelError(YearlingError):
    """A model cannot be found, read or run."""


class ModelNotFoundError(ModelError):
    """No model of that name in the store, on disk or on the hub."""


class ModelFormatError(ModelError):
    """A model file is malformed, or of a form this build does not read."""


class DownloadError(ModelError):
    """A pull failed; what has arrived is kept, and the next pull goes on from there."""


class LicenceError(ModelError):
    """A model comes under terms that must be accepted before it is pulled."""


class TemplateError(ModelError):
    """A chat template is refused, fails, or takes too much time or space."""


class RequestError(YearlingError):
    """A request that cannot be served as asked; `parameter` names the field at fault."""

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class ContextLengthError(RequestError):
    """Prompt and answer do not fit the model's context window."""


class UnsupportedError(RequestError):
    """A feature that this model or this build does not have."""


class TrainingError(YearlingError):
    """A training run cannot start, go on or be resumed."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not a finite number; the weights are those of the step before."""


class CheckpointError(TrainingError):
    """A training checkpoint is missing, damaged, or of another run."""


class CapacityError(YearlingError):
    """No room now; the same request may succeed later."""


class CatalogueError(YearlingError):
    """A system of the catalogue that is not built, or whose run proves nothing."""


class EngineError(YearlingError):
    """The engine failed while a request was running."""


class WorkerLostError(EngineError):
    """The worker process of a model ended while a request was running or waiting."""
