"""Programs that measure other projects. Each runs in an environment that has the project's package, and not ours."""
