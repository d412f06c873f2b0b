"""Errors of the servers on one machine. Each message says what is wrong and what to do about it."""


class StackError(Exception):
    """Base of all errors of the stack. Callers print the message and stop."""


class PortTakenError(StackError):
    """Another program listens on the port of a server."""


class ToolMissingError(StackError):
    """A program that the private Debian root needs is not installed."""


class RootBuildError(StackError):
    """The private Debian root could not be built."""


class SandboxError(StackError):
    """Neither bubblewrap nor chroot can run the servers for this user on this machine."""


class ServerFailedError(StackError):
    """A server did not start, or ended before it was ready."""


class SettingsConflictError(StackError):
    """The servers of this home already run with other settings than the requested ones."""


class CredentialsError(StackError):
    """A user name is not allowed, or the stored passwords do not belong to the stored data."""
