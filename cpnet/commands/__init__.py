"""The command line: one module a command, each with `main(words)`, which returns the exit code or None."""
