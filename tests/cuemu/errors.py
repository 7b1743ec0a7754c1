"""What is raised when a kernel does something wrong."""


class CuemuError(RuntimeError):
    """A fault in a kernel or in its launch.

    kind is one of "out of bounds", "uninitialised", "misaligned", "race", "unwaited copy", "divergent barrier",
    "divergent warp", "deadlock", "undefined", "trap", "timeout", "launch", "compile", "source".
    """

    def __init__(self, kind, message, *, kernel=None, file=None, line=None, block=None, thread=None, argument=None):
        where = f" at {file}:{line}" if file else ""
        who = f", block {block}, thread {thread}" if block is not None else ""
        super().__init__(f"{kernel}: {kind}{where}{who}: {message}" if kernel else f"{kind}: {message}")
        self.kind, self.kernel, self.file, self.line = kind, kernel, file, line
        self.block, self.thread, self.argument = block, thread, argument
