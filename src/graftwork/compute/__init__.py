"""The provider port, and one folder per provider, all with the same file names."""
