"""Picture files: decodes uploads, encodes answers, and states in a file how its picture was painted."""
