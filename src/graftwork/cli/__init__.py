"""The graft command: nouns then verbs; thin."""
