"""How fast a checkpoint paints on this machine, beside what the machine's memory and arithmetic allow.

`machine` measures the machine, `floor` says what a step has to read and to compute, `steps` measures the engine and
`parts` what goes on around it. `peers` holds programs that measure other projects. Nothing here knows of HTTP.
"""
