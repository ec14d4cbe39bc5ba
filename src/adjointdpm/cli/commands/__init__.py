"""The commands, a file each: signature and help here, the work in the module of the same name, imported only then.

Signatures are the reference of the command line: `--help` and `docs/cli/*.txt` are generated from them.
"""
