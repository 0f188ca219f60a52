"""The routes, one file a contract."""
