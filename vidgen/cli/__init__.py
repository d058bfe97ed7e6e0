"""The `vidgen` command: flags, the start of a process, errors."""
