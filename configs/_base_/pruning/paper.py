# The paper's recipe (arXiv 2409.18962) but for the layers, which depend on the depth: 70 % of the living tokens stay
# after each of them. A config takes it over with `pruning=dict(_base_.paper_pruning, layers=[...])`.
paper_pruning = dict(
    keep_ratio=0.7,
    reduction='prune',
    importance='clip',
    alignment='carry',
    conv_fill='zero',
    scan_fill='zero',
    restoration='hold',
)
