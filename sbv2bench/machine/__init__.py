"""This machine: devices, threads and processes, free disk, and what every run may ask of them.

In: options as typed. Out: facts about the machine, or an error with the fix. A newcomer may add a check (doctor) or a column of
`list` (inventory).
"""
