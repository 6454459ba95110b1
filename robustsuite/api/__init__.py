"""The Python side, one file for each thing that a user does; `robustsuite` itself hands them out."""
