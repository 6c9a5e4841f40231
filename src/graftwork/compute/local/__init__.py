"""The local provider: a machine is a supervised process group on this host."""
