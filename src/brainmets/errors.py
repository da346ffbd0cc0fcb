"""Every error brainmets raises on purpose, as one tree.

::

    BrainmetsError
    ├── InputError            what was given cannot be used; exit status 2
    │   ├── ReadError         a file is missing, cut short, or of another format
    │   ├── VolumeError       voxels or geometry that no scan can have
    │   ├── GridMismatchError two images that do not lie on the same voxels
    │   ├── CohortError       a cohort table or folder that contradicts itself
    │   ├── ConfigError       an unknown key, or a value outside its range
    │   └── BundleError       a model file that is damaged or does not fit
    └── RunError              the input was fine, the run was not; exit status 1
        ├── WriteError        an output could not be written
        └── DownloadError     a file could not be fetched, or is not the one announced

A message says what was found, what was expected and what to do about it. It
names case identifiers, never the contents of a scan's header.
"""


class BrainmetsError(Exception):
    """Root of the tree; catch it to catch every error brainmets raises on purpose."""

    exit_code = 1


class InputError(BrainmetsError):
    """What was given cannot be used."""

    exit_code = 2


class ReadError(InputError):
    """A file is missing, cut short, or not of the format its name says."""


class VolumeError(InputError):
    """Voxels or geometry that no scan can have."""


class GridMismatchError(InputError):
    """Two images that must share their voxels do not."""


class CohortError(InputError):
    """A cohort that contradicts itself or its files."""


class ConfigError(InputError):
    """An unknown configuration key, or a value outside its range."""


class BundleError(InputError):
    """A model file that is damaged, or does not fit what is asked of it."""


class RunError(BrainmetsError):
    """The input was fine, the run was not."""


class WriteError(RunError):
    """An output could not be written."""


class DownloadError(RunError):
    """A file could not be fetched, or is not the one that was announced."""
