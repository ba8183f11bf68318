"""The host's side of the sandbox: `Box` is one container, `Namespace` one worker in it."""
