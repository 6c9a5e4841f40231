"""Tables, one repository per noun, migrations; SQLite and PostgreSQL."""
