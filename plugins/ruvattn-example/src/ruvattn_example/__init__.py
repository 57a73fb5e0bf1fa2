"""The smallest complete plugin of ruvattn: one score in NumPy, the same score compiled, and a variant of each.

    entry point "example" ─► ruvattn_register ─► scores    rbf, rbf-compiled
    (pyproject.toml)                          └► variants  rbf, rbf-compiled     standard attention with that score

    rbf.py      the score and its derivatives, in NumPy; CompiledRbf swaps the functions of _rbf.pyx in
    _rbf.pyx    the same in Cython, built once for each instruction set
"""

from .rbf import CompiledRbf, Rbf, compiled_rbf_attention, rbf_attention

__all__ = ["RUVATTN_API", "CompiledRbf", "Rbf", "ruvattn_register"]

RUVATTN_API = 1


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.score("rbf", Rbf, summary="Gaussian kernel, -|q-k|²/(2σ²), in NumPy.")
    registry.score("rbf-compiled", CompiledRbf, summary="Gaussian kernel, -|q-k|²/(2σ²), compiled.")
    for name, factory, how in (("rbf", rbf_attention, "in NumPy"), ("rbf-compiled", compiled_rbf_attention, "compiled")):
        summary = f"Attention to the nearest keys by a Gaussian kernel, {how}."
        registry.variant(name, factory, summary=summary, capabilities=("trainable",))
