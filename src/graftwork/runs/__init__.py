"""The run folder: layout, reader (control side), writer (trainer side); no torch, no database."""
