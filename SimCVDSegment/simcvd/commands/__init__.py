"""The commands of the terminal, one file each: `add_arguments(parser)` and `run(args) -> exit code`.

Nothing here imports torch at file scope, so that help and `simcvd models` answer at once.
"""
