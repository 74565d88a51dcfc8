# %% [markdown]
# # Accuracy against budget
#
# What does a method's memory cost in score? Each panel is a task, each line a method; the budget is the mean
# number of KV entries kept per layer and KV head, and it shrinks to the right. The dashed line is FullKV,
# which evicts nothing: a method is worth its memory as far to the right as it stays on that line. Bands are
# 95% intervals over the documents.

# %% tags=["parameters"]
results = "../results/tiny"  # a folder that `sparsemm sweep` wrote, relative to this notebook

# %%
# %matplotlib inline
from pathlib import Path

from sparsemm.figures.sweep import sweep_figures

figures = sweep_figures(Path(results), say=print)  # all that `sparsemm figures` draws, by name
figures["accuracy_vs_budget"]

# %% [markdown]
# The same scores against what the cache really took, in bytes, generated tokens included. Better is above and
# to the left; the grey line joins what no other method beats in both.

# %%
figures["score_vs_memory"]
