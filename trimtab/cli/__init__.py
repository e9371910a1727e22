"""The command line: thin verbs, each in a file of its own."""
