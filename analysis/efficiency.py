# %% [markdown]
# # What eviction saves
#
# Decode latency and cache memory against the length of the prompt, for FullKV in transformers' own caches and
# for each method with real eviction at one budget. FullKV's lines rise with the prompt, a compressed cache's
# stay flat: where they part, eviction begins to pay. The title says which machine it was, and how many of a
# model's layers were run.

# %% tags=["parameters"]
results = "../results/efficiency"  # of `sparsemm efficiency decode`, relative to this notebook

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd
from IPython.display import display

from sparsemm.figures.decode import decode_figures

for figure in decode_figures(pd.read_csv(Path(results, "decode.csv"))).values():
    display(figure)
