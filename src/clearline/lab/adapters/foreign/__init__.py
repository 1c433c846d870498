"""Programs for other interpreters: each runs one implementation and writes what crossed its boundaries.

They import nothing of Clearline, only the implementation they are for, NumPy and safetensors.
"""
