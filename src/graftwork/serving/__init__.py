"""The engine port, and one folder per engine; torch only in the embedded engine."""
