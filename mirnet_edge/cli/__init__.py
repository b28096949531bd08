"""The commands, one file each: parse, call one function, print.

What they share is in `application`. The top of a command's module imports nothing heavy, so that
`--help` answers at once.
"""
