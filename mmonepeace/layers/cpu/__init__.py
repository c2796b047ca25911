"""Kernels for CPUs, each with a plain version that computes the same."""
