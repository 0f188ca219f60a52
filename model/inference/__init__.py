"""From token ids to pictures: sequences, scheduler, sampling, engine, and the process that runs them.

Empty on purpose: `sequence`, `messages` and `scheduler` import no torch, so that the HTTP process can import them;
`sampling`, `engine` and `worker` do.
"""
