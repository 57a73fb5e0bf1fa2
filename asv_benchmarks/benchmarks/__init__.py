"""The asv suite.

    bases.py       ruvattn.testing.benchmarks as it is in this tree: the work that variants, and those of third parties, are measured by
    common.py      data, and the shape of a benchmark: a case and a number of threads ─► time_ and peakmem_
    engine.py      ruvattn.attention: what it can be asked for, one class a subject
    patterns.py    ruvattn.attention with the patterns of ruvattn-sparse: with a mask that was seen before, and with a new one
    geometric.py   ruvattn.attention with the distances and means of ruvattn-geometric, on points that are spread and on clusters
    edges.py       ruvattn.edge_attention on graphs, and the choice of the k keys that matter most
    graph.py       the layers of ruvattn-graph along edges; building graphs, hops, sampling
    degrees.py     how the edges of these graphs are spread over their nodes
    layers.py      ruvattn.layer_norm, and rows times weights
    variants.py    ruvattn.create: every variant that the project maintains, by name
    imports.py     import time

It imports under any version of ruvattn, and under none: what is benchmarked is looked for in `setup`, which raises NotImplementedError, asv's
"skip", where a version lacks it. Parameters are literals for the same reason: results of two versions must be of the same things.
"""
