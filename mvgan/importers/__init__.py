"""Weights of other programs. The one place that reads a pickle, and it builds tensors only.

`pickled` reads the modules in a file, `official` names their tensors as mvgan does and writes them as safetensors.
"""
