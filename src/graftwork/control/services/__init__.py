"""Use cases, one class per noun: the only way in for the API, the dashboard and the CLI.

Every method takes the project first, opens one transaction, returns nouns or frozen views and raises
errors of ``core.errors``. Services know no HTTP. They never act on machines or engines: they write down
what is wanted, ring the bell, and the reconcilers make it true.
"""
