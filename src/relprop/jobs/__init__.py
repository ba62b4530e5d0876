"""Jobs: data in, files out. Everything is checked before anything is written.

What may live here: plans and their execution. No options of a command line, and no printing.
"""
