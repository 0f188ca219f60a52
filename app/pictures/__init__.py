"""Pictures as files: decoded from an upload, encoded for an answer, with where they come from."""
