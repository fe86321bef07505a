"""One module a command: a parser and one call."""
