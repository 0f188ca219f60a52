"""From token ids to pictures: sequences, scheduler, sampling, engine, and the process that runs them.

Empty on purpose: `sequence`, `messages`, `scheduler`, `cores` and `worker` import no torch, so that the HTTP process can
import them; the others do.
"""
