"""What can go wrong with the servers of one machine. Each message says what is wrong and what to do about it."""


class StackError(Exception):
    """Base of all errors of the stack; a caller prints its message and stops."""


class PortTakenError(StackError):
    """Something else listens on the port that a server of ours should have."""


class ToolMissingError(StackError):
    """A program that the private Debian root needs is not installed."""


class RootBuildError(StackError):
    """The private Debian root could not be made."""


class SandboxError(StackError):
    """Neither bubblewrap nor chroot can run the servers for this user on this machine."""


class ServerFailedError(StackError):
    """A server did not start, or ended while it was being waited for."""


class SettingsConflictError(StackError):
    """The servers of this home already run, with other settings than those asked for."""


class CredentialsError(StackError):
    """A user name is not allowed, or the stored passwords do not fit the stored data."""
