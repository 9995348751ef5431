"""Every exception of the project.

    ToolformerError
      ConfigError                 a bad setting                               never retried
        NoFileMatchesError          a pattern of file names matches none
      DataError                   input or stored data is not as declared     never retried
        NotationError               text is not an API call
        CorpusError                 a corpus cannot be read or is empty
        ShardIntegrityError         a stored file is missing or altered
        ZeroYieldError              no call survived; carries the diagnosis
      ToolError                   a tool could not answer
        ToolInputRejected           the argument is bad: recorded as an outcome
        TransientToolError          an outage (time-out, refused, rate limit): retried
      TransientModelError         the model's server is unreachable: retried
      TransientStorageError       file system or network: retried
      OverloadError               too much waits already: the client tries again later

A bad call is data (an outcome in the record); an outage is an exception.
"""


class ToolformerError(Exception):
    """Base of all errors that this project raises on purpose."""


class ConfigError(ToolformerError):
    """A setting is unknown, out of range or contradicts another one."""


class NoFileMatchesError(ConfigError):
    """A pattern of file names matches no file."""


class DataError(ToolformerError):
    """Input or stored data is not as declared."""


class NotationError(DataError):
    """A text is not a well-formed API call."""


class CorpusError(DataError):
    """A corpus cannot be read, or holds no usable document."""


class ShardIntegrityError(DataError):
    """A stored shard is missing or its content differs from its digest."""


class ZeroYieldError(DataError):
    """No candidate call survived the filter; the message is the diagnosis."""


class ToolError(ToolformerError):
    """A tool could not answer."""


class ToolInputRejected(ToolError):
    """The argument cannot be processed; the call is recorded as rejected."""


class TransientToolError(ToolError):
    """The tool is unreachable for now; the shard is retried."""


class TransientModelError(ToolformerError):
    """The server of a model is unreachable for now; the shard is retried."""


class TransientStorageError(ToolformerError):
    """Storage is unreachable for now; the shard is retried."""


class OverloadError(ToolformerError):
    """More is asked of a server than it may keep waiting."""
